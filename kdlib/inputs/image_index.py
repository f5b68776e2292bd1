"""The images that an annotation file lists, found by id; `kdlib.inputs.names` finds them by name."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from kdlib.errors import InputError
from kdlib.inputs.ids import assign_ids, canonical_text, check_id, shorten
from kdlib.inputs.names import SEVERAL, normalise_name, rows_by_key
from kdlib.inputs.notices import Notices

LARGEST_SIDE: Final = 2**31 - 1
"""Sizes are stored as int32."""


@dataclasses.dataclass(frozen=True)
class ImageIndex:
    """N images as columns; row i of every column is the same image. Every id and every file name occurs once.

    `find_id` returns a row, or None if no image or several have the id.
    """

    file_name: list[str]
    """N names as the file gives them: paths relative to the image folder."""
    original_id: list[Any]
    """N ids as the file gives them: whole or fractional numbers, or texts."""
    id: NDArray[np.int64]
    """(N,) the ids of the store: those of the file if all are integers of 64 bits, else 1, 2, ... in its order."""
    size: NDArray[np.int32]
    """(N, 2) width, height in pixels; 0, 0 where the file gives none and none is required."""

    @classmethod
    def from_entries(
        cls, entries: Sequence[Any], path: str | Path, notices: Notices | None = None, *, sizes: bool = True
    ) -> Self:
        """Index the list ``images`` of an annotation file.

        Args:
            entries: Objects with ``id``, ``file_name``, ``width`` and ``height``. The id is a text or a number. The
                sizes are positive whole numbers, also written as 640.0. Entries that agree in all four are used once.
            path: The file, for messages.
            notices: Receives what was merged or numbered.
            sizes: Refuse an image without a size.

        Raises:
            InputError: If an entry is not as above, or if two different entries have the same id or file name. The
                message names the entries.
        """
        rows_by_id: dict[Any, int] = {}
        numbers_by_name: dict[str, int] = {}
        numbers, names, ids, widths_heights = list[int](), list[str](), list[Any](), list[tuple[int, int]]()
        for number, entry in enumerate(entries):
            image_id = _image_id(entry, number, path)
            row = rows_by_id.setdefault(image_id, len(ids))
            if row < len(ids):
                if _read(entry) != _read(entries[numbers[row]]):
                    raise InputError(_twice(path, "id", image_id, numbers[row], number, entries))
                if notices is not None:
                    notices.add("images listed twice, used once", f"image {shorten(image_id)}")
                continue
            name, size = _name(entry, number, path), _size(entry, number, path, sizes)
            first = numbers_by_name.setdefault(normalise_name(name), number)
            if first != number:
                raise InputError(_twice(path, "file_name", name, first, number, entries))
            numbers.append(number)
            names.append(name)
            ids.append(image_id)
            widths_heights.append(size)
        return cls(names, ids, assign_ids(ids, "images", notices), np.array(widths_heights, np.int32).reshape(-1, 2))

    def __len__(self) -> int:
        return len(self.file_name)

    def find_id(self, reference: object) -> int | None:
        """Find the image with an id.

        Args:
            reference: An id as the file gives it, or in another spelling (``"139"`` for 139) if only one id has it.
        """
        if check_id(reference) is not None:
            return None
        row = self._by_id.get(reference)
        return row if row is not None else _only(self._by_id_text, canonical_text(reference))

    @functools.cached_property
    def _by_id(self) -> dict[Any, int]:
        return rows_by_key(enumerate(self.original_id))

    @functools.cached_property
    def _by_id_text(self) -> dict[str, int]:
        return rows_by_key(enumerate(map(canonical_text, self.original_id)))


def _only(rows: dict[str, int], key: str) -> int | None:
    row = rows.get(key, SEVERAL)
    return None if row == SEVERAL else row


def _image_id(entry: Any, number: int, path: str | Path) -> Any:
    if not isinstance(entry, dict) or "id" not in entry:
        raise InputError(f"{path}: images[{number}] is {shorten(entry)}, not an object with an id and a file_name")
    problem = check_id(entry["id"])
    if problem:
        raise InputError(f"{path}: images[{number}] {problem}")
    return entry["id"]


def _name(entry: dict[str, Any], number: int, path: str | Path) -> str:
    name = entry.get("file_name")
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise InputError(
            f"{path}: image {shorten(entry['id'])} (images[{number}]) has the file_name {shorten(name)}; "
            "it must be the name of an image file"
        )
    return name


def _size(entry: dict[str, Any], number: int, path: str | Path, required: bool) -> tuple[int, int]:
    size = entry.get("width"), entry.get("height")
    if not required and size == (None, None):
        return 0, 0
    if not all(_is_side(side) for side in size):
        raise InputError(
            f"{path}: image {shorten(entry['id'])} (images[{number}]) has width, height {shorten(list(size))}; "
            "they must be two positive whole numbers of pixels"
        )
    return int(size[0]), int(size[1])  # type: ignore[arg-type] # _is_side


def _is_side(value: object) -> bool:
    whole = type(value) is int or (isinstance(value, float) and value.is_integer())
    return whole and 0 < value <= LARGEST_SIDE  # type: ignore[operator] # whole


def _read(entry: dict[str, Any]) -> tuple[Any, ...]:
    """What is read of an image, beside its id."""
    return tuple(entry.get(key) for key in ("file_name", "width", "height"))


def _twice(path: str | Path, key: str, value: Any, first: int, second: int, entries: Sequence[Any]) -> str:
    one, other = (shorten(list(_read(entries[number])), 160) for number in (first, second))
    advice = (
        "give every image its own id, also in the annotations"
        if key == "id"
        else "list every image once, or tell the files apart by their folders"
    )
    return (
        f"{path}: two images have the {key} {shorten(value)}: images[{first}] {one} and images[{second}] {other}; "
        f"the file may be a merge of two; {advice}"
    )
