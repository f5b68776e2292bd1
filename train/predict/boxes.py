"""Where the persons are: boxes from a detector's COCO results or from a COCO annotation file.

A detector's results are a JSON list of ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}``; instead
of ``image_id`` an entry may have ``file_name``. An annotation file is the usual object with ``images`` and
``annotations``. Of either, persons alone are taken (category 1), and no crowds.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from train.errors import TrainError

PERSON: Final = 1


@dataclasses.dataclass(frozen=True)
class Boxes:
    """N boxes of one picture."""

    xywh: NDArray[np.float64]
    """(N, 4) x, y, width, height in image pixels."""
    scores: NDArray[np.float64]
    """(N,) the detector's confidence."""


NOBODY: Final = Boxes(np.empty((0, 4)), np.empty(0))


class BoxFile:
    """The boxes of a file, by picture.

    Args:
        path: JSON file.
        least: Smallest score that counts.

    Raises:
        TrainError: If the file is missing or is neither form; the message names the first bad entry.
    """

    def __init__(self, path: Path, least: float = 0.0) -> None:
        self.path, self._by_key = path, dict[int | str, Boxes]()
        self.ids: dict[str, int] = {}
        """Image ids by file name, where the file says."""
        entries = self._entries(_read(path))
        kept: dict[int | str, list[tuple[list[float], float]]] = {}
        for number, entry in enumerate(entries):
            if entry.get("category_id", PERSON) != PERSON or entry.get("iscrowd", 0):
                continue
            key, box, score = _parsed(entry, f"{path}, entry {number}")
            if score >= least:
                kept.setdefault(key, []).append((box, score))
        for key, rows in kept.items():
            self._by_key[key] = Boxes(np.array([box for box, _ in rows]), np.array([score for _, score in rows]))

    def __len__(self) -> int:
        """Pictures that have boxes."""
        return len(self._by_key)

    def of(self, name: str, image_id: int | None) -> Boxes | None:
        """The boxes of a picture, by its id in the file, its name, or the id its name is; None if it has none."""
        if name in self._by_key:
            return self._by_key[name]
        known = self.ids.get(name, image_id)
        return None if known is None else self._by_key.get(known)

    def _entries(self, document: Any) -> list[dict[str, Any]]:
        if isinstance(document, dict) and isinstance(document.get("annotations"), list):
            try:
                self.ids = {str(image["file_name"]): int(image["id"]) for image in document.get("images", [])}
            except (KeyError, TypeError, ValueError) as error:
                raise TrainError(f"{self.path}: every entry of images needs an id and a file_name") from error
            document = document["annotations"]
        if not isinstance(document, list) or not all(isinstance(entry, dict) for entry in document):
            raise TrainError(f"{self.path} holds neither a list of COCO detections nor COCO annotations")
        return document


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise TrainError(f"no boxes at {path}") from error
    except ValueError as error:
        raise TrainError(f"{path} is not JSON: {error}") from error


def _parsed(entry: dict[str, Any], where: str) -> tuple[int | str, list[float], float]:
    """Picture, box and score of an entry."""
    try:
        key = entry["image_id"] if "image_id" in entry else str(entry["file_name"])
        box, score = [float(value) for value in entry["bbox"]], float(entry.get("score", 1.0))
    except (KeyError, TypeError, ValueError) as error:
        raise TrainError(f"{where}: needs image_id (or file_name) and bbox, has {sorted(entry)}") from error
    if len(box) != 4 or not np.isfinite([*box, score]).all():
        raise TrainError(f"{where}: a bbox is four finite numbers x, y, width, height, got {entry['bbox']}")
    return key, box, score
