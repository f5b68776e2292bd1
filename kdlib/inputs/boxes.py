"""Boxes of the persons, from a detector's COCO results or from a COCO annotation file.

A detector's results are a JSON list of ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}``; an
entry may have ``file_name`` instead of ``image_id``. An annotation file is the usual object with ``images`` and
``annotations``. In both, only persons (category 1) that are not crowds are used.
"""

import dataclasses
import json
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kdlib.errors import InputError
from kdlib.inputs.documents import read_json

PERSON: Final = 1


@dataclasses.dataclass(frozen=True)
class Boxes:
    """N boxes of one image."""

    xywh: NDArray[np.float64]
    """(N, 4) x, y, width, height in image pixels."""
    scores: NDArray[np.float64]
    """(N,) the detector's confidence."""


NO_BOXES: Final = Boxes(np.empty((0, 4)), np.empty(0))


class BoxFile:
    """The boxes of a file, by image.

    Args:
        path: JSON file.
        min_score: Boxes with a lower score are left out.

    Attributes:
        ids: Image ids by file name, where the file lists its images.

    Raises:
        InputError: If the file is missing, has neither structure, or has no usable box; the message names the first bad
            entry, or gives the reason why no box can be used.
    """

    def __init__(self, path: Path, min_score: float = 0.0) -> None:
        self.path, self.min_score = path, min_score
        self._by_key = dict[int | str, Boxes]()
        self._highest = dict[int | str, float]()
        self.ids: dict[str, int] = {}
        entries = self._entries(read_json(path, "box file"))
        kept: dict[int | str, list[tuple[list[float], float]]] = {}
        for number, entry in enumerate(entries):
            if entry.get("category_id", PERSON) != PERSON or entry.get("iscrowd", 0):
                continue
            key, box, score = _parse_entry(entry, f"{path}, entry {number}")
            self._highest[key] = max(score, self._highest.get(key, score))
            if score >= min_score:
                kept.setdefault(key, []).append((box, score))
        for key, rows in kept.items():
            self._by_key[key] = Boxes(np.array([box for box, _ in rows]), np.array([score for _, score in rows]))
        if not self._highest:
            raise InputError(f"{path} contains no box of a person (category {PERSON}, not a crowd)")
        if not kept:
            raise InputError(f"every box of {path} {self._has_low_score(max(self._highest.values()))}")

    def __len__(self) -> int:
        """Number of images that have boxes."""
        return len(self._by_key)

    def find(self, name: str, image_id: int | None) -> Boxes | None:
        """Find the boxes of an image by its file name, or by its id: from the file, or the number in its name.

        Args:
            name: File name.
            image_id: The image id, if the file name is a number.

        Returns:
            None if the image has no boxes.
        """
        return next((self._by_key[key] for key in self._keys(name, image_id) if key in self._by_key), None)

    def explain_missing(self, images: Iterable[tuple[str, int | None]]) -> str:
        """Explain why images, given by names and numbers, have no boxes."""
        keys = [key for name, image_id in images for key in self._keys(name, image_id)]
        scores = [self._highest[key] for key in keys if key in self._highest]
        return f"each {self._has_low_score(max(scores))}" if scores else "no file name or image_id matches"

    def _has_low_score(self, highest: float) -> str:
        return f"has a score below --min-box-score {self.min_score:g}; the highest is {highest:g}"

    def _keys(self, name: str, image_id: int | None) -> list[int | str]:
        """The names and ids by which entries may refer to an image."""
        known = self.ids.get(name, image_id)
        return [name] if known is None else [name, known]

    def _entries(self, document: Any) -> list[dict[str, Any]]:
        if isinstance(document, dict) and isinstance(document.get("annotations"), list):
            try:
                self.ids = {str(image["file_name"]): int(image["id"]) for image in document.get("images", [])}
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise InputError(f"{self.path}: every entry of `images` needs an id and a file_name") from error
            document = document["annotations"]
        if not isinstance(document, list) or not all(isinstance(entry, dict) for entry in document):
            raise InputError(f"{self.path} contains neither a list of COCO detections nor COCO annotations")
        return document


def _parse_entry(entry: dict[str, Any], where: str) -> tuple[int | str, list[float], float]:
    """Image, box and score of an entry; ``where`` names the entry in messages."""
    try:
        key = entry["image_id"] if "image_id" in entry else entry["file_name"]
        numbers, score = entry["bbox"], float(entry.get("score", 1.0))
        box = [float(value) for value in numbers] if isinstance(numbers, list) else []
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where}: image_id (or file_name) and bbox are needed, got {sorted(entry)}") from error
    if len(box) != 4 or not np.isfinite([*box, score]).all():
        raise InputError(f"{where}: bbox must be four finite numbers x, y, width, height, got {entry['bbox']}")
    return _parse_key(key, where), box, score


def _parse_key(given: Any, where: str) -> int | str:
    """The image of an entry: a name, or a number, which may be written as text."""
    if isinstance(given, str):
        return int(given) if given.isascii() and given.isdigit() else given
    if isinstance(given, float) and given.is_integer():
        return int(given)
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    raise InputError(f"{where}: image_id must be a number, and file_name a text, got {json.dumps(given)}")


def read_detections(path: Path, images: Container[Any]) -> list[dict[str, Any]]:
    """Read a detector's persons in annotated images.

    Args:
        path: COCO detection results.
        images: Ids of the annotated images.

    Returns:
        The entries of persons in these images, each with an ``id``: -1, -2, ... in the order of the file.

    Raises:
        InputError: If the file is not a list of detections, or has no person in these images.
    """
    rows = read_json(path, "box file")
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "score" in row for row in rows):
        raise InputError(
            f"{path} is not a detection file: it must be a JSON list of objects with image_id, category_id, bbox, score"
        )
    persons = [
        {**row, "id": -1 - i, "keypoints": None}
        for i, row in enumerate(rows)
        if row.get("category_id", PERSON) == PERSON and row.get("image_id") in images
    ]
    if not persons:
        raise InputError(f"{path}: none of its {len(rows)} detections is a person in the annotated images")
    return persons
