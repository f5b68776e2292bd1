"""Where the persons are: boxes from a detector's COCO results or from a COCO annotation file.

A detector's results are a JSON list of ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}``; instead
of ``image_id`` an entry may have ``file_name``. An annotation file is the usual object with ``images`` and
``annotations``. Of either, persons alone are taken (category 1), and no crowds.
"""

import dataclasses
import json
from collections.abc import Iterable
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
        TrainError: If the file is missing, is neither form, or has no box that counts; the message names the first bad
            entry, or why none counts.
    """

    def __init__(self, path: Path, least: float = 0.0) -> None:
        self.path, self.least = path, least
        self._by_key = dict[int | str, Boxes]()
        self._highest = dict[int | str, float]()
        self.ids: dict[str, int] = {}
        """Image ids by file name, where the file says."""
        entries = self._entries(_read(path))
        kept: dict[int | str, list[tuple[list[float], float]]] = {}
        for number, entry in enumerate(entries):
            if entry.get("category_id", PERSON) != PERSON or entry.get("iscrowd", 0):
                continue
            key, box, score = _parsed(entry, f"{path}, entry {number}")
            self._highest[key] = max(score, self._highest.get(key, score))
            if score >= least:
                kept.setdefault(key, []).append((box, score))
        for key, rows in kept.items():
            self._by_key[key] = Boxes(np.array([box for box, _ in rows]), np.array([score for _, score in rows]))
        if not self._highest:
            raise TrainError(f"{path} holds no box of a person: of category {PERSON}, and no crowd")
        if not kept:
            raise TrainError(f"every box of {path} {self._is_weaker(max(self._highest.values()))}")

    def __len__(self) -> int:
        """Pictures that have boxes."""
        return len(self._by_key)

    def of(self, name: str, image_id: int | None) -> Boxes | None:
        """The boxes of a picture, by its id in the file, its name, or the id its name is; None if it has none."""
        return next((self._by_key[key] for key in self._keys(name, image_id) if key in self._by_key), None)

    def why_none(self, pictures: Iterable[tuple[str, int | None]]) -> str:
        """What keeps pictures (names and image ids) that have no boxes from having some."""
        keys = [key for name, image_id in pictures for key in self._keys(name, image_id)]
        scores = [self._highest[key] for key in keys if key in self._highest]
        return f"each {self._is_weaker(max(scores))}" if scores else "names and image_ids differ"

    def _is_weaker(self, highest: float) -> str:
        return f"scores below --min-box-score {self.least:g}, the highest {highest:g}"

    def _keys(self, name: str, image_id: int | None) -> list[int | str]:
        """What entries may call a picture."""
        known = self.ids.get(name, image_id)
        return [name] if known is None else [name, known]

    def _entries(self, document: Any) -> list[dict[str, Any]]:
        if isinstance(document, dict) and isinstance(document.get("annotations"), list):
            try:
                self.ids = {str(image["file_name"]): int(image["id"]) for image in document.get("images", [])}
            except (KeyError, TypeError, ValueError, OverflowError) as error:
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
    except IsADirectoryError as error:
        raise TrainError(f"{path} is a folder; --boxes takes a JSON file") from error
    except OSError as error:
        raise TrainError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise TrainError(f"{path} is not JSON: {error}") from error


def _parsed(entry: dict[str, Any], where: str) -> tuple[int | str, list[float], float]:
    """Picture, box and score of an entry."""
    try:
        key = entry["image_id"] if "image_id" in entry else entry["file_name"]
        numbers, score = entry["bbox"], float(entry.get("score", 1.0))
        box = [float(value) for value in numbers] if isinstance(numbers, list) else []
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise TrainError(f"{where}: needs image_id (or file_name) and bbox, has {sorted(entry)}") from error
    if len(box) != 4 or not np.isfinite([*box, score]).all():
        raise TrainError(f"{where}: a bbox is four finite numbers x, y, width, height, got {entry['bbox']}")
    return _key(key, where), box, score


def _key(given: Any, where: str) -> int | str:
    """What an entry calls its picture: a name, or a number, which may be written as text."""
    if isinstance(given, str):
        return int(given) if given.isascii() and given.isdigit() else given
    if isinstance(given, float) and given.is_integer():
        return int(given)
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    raise TrainError(f"{where}: image_id is a number, and file_name a text, got {json.dumps(given)}")
