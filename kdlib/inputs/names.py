"""Finds file names that two lists spell differently: other Unicode forms or separators, folders, or without suffix."""

import functools
from collections.abc import Iterable, Iterator
from typing import Final

from kdlib.inputs.image_index import normalise_name

ABSENT: Final = -1
"""No name of the list fits."""
SEVERAL: Final = -2
"""Several names of the list fit equally well."""


class Names:
    """A list of N file names, searched by names of another list.

    Two names fit if one path ends with the other: ``data/7.jpg`` fits ``7.jpg`` and ``set/data/7.jpg``, but not
    ``other/7.jpg``. A name without suffix (``7`` or ``data/7``) fits the names that have it as their stem. Names with
    different suffixes never fit.

    Args:
        names: Paths relative to a common folder.
    """

    def __init__(self, names: Iterable[str]) -> None:
        names = list(names)
        self.names = [normalise_name(name) for name in names]
        self._exact = _rows_by_key(enumerate(names))

    def find(self, name: str) -> int:
        """Find the row of the name that fits best, or `ABSENT` or `SEVERAL`.

        The first of these that fits decides: the same spelling, the same path, a longer path, a shorter path, then the
        same for stems.
        """
        if name in self._exact:
            return self._exact[name]
        name = normalise_name(name)
        if name in self._whole:
            return self._whole[name]
        for whole, longer in ((self._whole, self._tails), (self._stems, self._stem_tails)):
            for rows, keys in ((whole, [name]), (longer, [name]), (whole, _tails(name))):
                for key in keys:
                    if key in rows:
                        return rows[key]
        return ABSENT

    def same_path(self, row: int, name: str) -> bool:
        """Whether a name is the path of a row, with or without suffix."""
        name = normalise_name(name)
        return name in (self.names[row], stem(self.names[row]))

    @functools.cached_property
    def _whole(self) -> dict[str, int]:
        return _rows_by_key(enumerate(self.names))

    @functools.cached_property
    def _tails(self) -> dict[str, int]:
        return _rows_by_key((row, tail) for row, name in enumerate(self.names) for tail in _tails(name))

    @functools.cached_property
    def _stems(self) -> dict[str, int]:
        return _rows_by_key((row, stem(name)) for row, name in enumerate(self.names))

    @functools.cached_property
    def _stem_tails(self) -> dict[str, int]:
        return _rows_by_key((row, tail) for row, name in enumerate(self.names) for tail in _tails(stem(name)))


def stem(name: str) -> str:
    """A name without its suffix. A dot at the start of the last part starts no suffix."""
    dot = name.rfind(".")
    return name[:dot] if dot > name.rfind("/") + 1 else name


def folder(name: str) -> str:
    """The folder part of a name; empty if it has none."""
    return normalise_name(name).rpartition("/")[0]


def _tails(name: str) -> Iterator[str]:
    """The shorter paths that a path ends with, longest first: ``b/c.jpg`` and ``c.jpg`` for ``a/b/c.jpg``."""
    start = name.find("/")
    while start >= 0:
        yield name[start + 1 :]
        start = name.find("/", start + 1)


def _rows_by_key(pairs: Iterable[tuple[int, str]]) -> dict[str, int]:
    """Row by key; `SEVERAL` for a key of several rows."""
    rows: dict[str, int] = {}
    for row, key in pairs:
        if rows.setdefault(key, row) != row:
            rows[key] = SEVERAL
    return rows
