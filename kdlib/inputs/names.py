"""Finds file names that two lists spell differently: other Unicode forms or separators, folders, or without suffix.

The name in an annotation file and the name on disk may differ in their Unicode form (a macOS disk decomposes letters
with accents) and in the separator of folders; `locate` finds such files.
"""

import functools
import os
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, TypeVar

ABSENT: Final = -1
"""No name of the list fits."""
SEVERAL: Final = -2
"""Several names of the list fit equally well."""
Key = TypeVar("Key")


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
        self._exact = rows_by_key(enumerate(names))

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
        return rows_by_key(enumerate(self.names))

    @functools.cached_property
    def _tails(self) -> dict[str, int]:
        return rows_by_key((row, tail) for row, name in enumerate(self.names) for tail in _tails(name))

    @functools.cached_property
    def _stems(self) -> dict[str, int]:
        return rows_by_key((row, stem(name)) for row, name in enumerate(self.names))

    @functools.cached_property
    def _stem_tails(self) -> dict[str, int]:
        return rows_by_key((row, tail) for row, name in enumerate(self.names) for tail in _tails(stem(name)))


def normalise_name(name: str) -> str:
    """The form in which file names are compared: Unicode NFC, / between folders, no ``./`` at the start."""
    name = unicodedata.normalize("NFC", name).replace("\\", "/")
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


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


def rows_by_key(pairs: Iterable[tuple[int, Key]]) -> dict[Key, int]:
    """Row by key, from pairs of both; `SEVERAL` for a key of several rows."""
    rows: dict[Key, int] = {}
    for row, key in pairs:
        if rows.setdefault(key, row) != row:
            rows[key] = SEVERAL
    return rows


# --- on disk ----------------------------------------------------------------------------------------------------------


def locate(folder: Path, name: str) -> Path:
    r"""The path of an annotated image.

    Args:
        folder: The image folder.
        name: The image's name in the annotation file.

    Returns:
        ``folder / name`` if it exists. Otherwise the file whose name is the same after Unicode normalisation (NFC) and
        with ``\`` as ``/``, if there is exactly one; else ``folder / name``.
    """
    path = folder / name
    return path if os.path.exists(path) else _find_variant(folder, name) or path


def missing_files(folder: Path, names: Iterable[str]) -> list[str]:
    """Names that are not files in the folder, sorted; a file may have another form of the name, see `locate`."""
    exact = (name for name in set(names) if not os.path.isfile(folder / name))
    return sorted(name for name in exact if not os.path.isfile(locate(folder, name)))


def find_other_case(folder: Path, name: str) -> str | None:
    """The name of a file that differs from a missing one in upper and lower case alone, relative to the folder."""
    found = _find_variant(folder, name, ignore_case=True)
    return None if found is None else found.relative_to(folder).as_posix()


def _find_variant(folder: Path, name: str, *, ignore_case: bool = False) -> Path | None:
    """Find a file folder by folder; None if a part of its path is missing or ambiguous."""
    found = folder
    for part in normalise_name(name).split("/"):
        by_form, by_case = _list_names(found)
        entry = by_case.get(part.casefold()) if ignore_case else by_form.get(part)
        if entry is None:
            return None
        found /= entry
    return found


@functools.lru_cache(maxsize=4096)
def _list_names(folder: Path) -> tuple[dict[str, str | None], dict[str, str | None]]:
    """The names in a folder by their normalised form, and by that in lower case; None where several are the same.

    A folder is listed once, because an annotation file may name 100,000 missing images. A file that is added later is
    found under its exact name.
    """
    by_form: dict[str, str | None] = {}
    by_case: dict[str, str | None] = {}
    try:
        names = os.listdir(folder)
    except OSError:
        return by_form, by_case
    for name in names:
        form = normalise_name(name)
        by_form[form] = None if form in by_form else name
        by_case[form.casefold()] = None if form.casefold() in by_case else name
    return by_form, by_case
