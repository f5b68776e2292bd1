"""Reads the rows of a box file into columns. `kdlib.inputs.boxes` states which files these are."""

import dataclasses
import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kdlib.errors import InputError
from kdlib.inputs.categories import PERSON as PERSON_NAME
from kdlib.inputs.categories import Categories, choose_box_categories, plain_name
from kdlib.inputs.documents import read_json
from kdlib.inputs.ids import canonical_text, check_id, shorten
from kdlib.inputs.image_index import ImageIndex
from kdlib.inputs.notices import Notices
from kdlib.skeletons.skeleton import COCO

PERSON: Final = 1
"""COCO's category of persons, for files without categories."""
LISTS: Final = ("annotations", "detections", "results", "predictions")
"""Keys under which an object may have the rows."""
NAME_KEYS: Final = ("file_name", "image_name", "image")
"""Keys of a row under which it may name its image file."""
CATEGORY_KEYS: Final = ("category_id", "category_name", "category")
"""Keys of a row under which it may have its category."""
WANTED: Final = (
    'a box file is a JSON list of {"image_id": ..., "category_id": 1, "bbox": [x, y, width, height], "score": ...}, '
    "where file_name may replace image_id, or a COCO annotation file"
)
LARGEST: Final = 2.0**31
"""Coordinates at or above this number of pixels are refused, also those of annotations."""
_CROWDS: Final = {"": 0, "0": 0, "false": 0, "1": 1, "true": 1}
SHOWN: Final = 8
"""Number of categories that a message lists."""
Reference = tuple[str | None, Any]
"""The file name and the image id that a row gives; at least one of them is not None."""


@dataclasses.dataclass(frozen=True)
class BoxRows:
    """M boxes of persons, in the order of the file."""

    entry: NDArray[np.int64]
    """(M,) the position of the row in the file, from 0."""
    reference: NDArray[np.int64]
    """(M,) the position of the row's reference in ``references``."""
    references: list[Reference]
    """Every different reference of the file, also of rows that are no persons."""
    xywh: NDArray[np.float64]
    """(M, 4) x, y, width, height in image pixels."""
    scores: NDArray[np.float64]
    """(M,) the detector's confidence."""
    images: ImageIndex | None
    """The images that the file lists, if it does."""


def read_rows(path: Path, categories: Categories | None, notices: Notices) -> BoxRows:
    """Read a box file.

    Args:
        path: JSON file.
        categories: Those of the annotation file that the boxes are for; None if there is none.
        notices: Receives what was left out or changed.

    Raises:
        InputError: As `kdlib.inputs.boxes.BoxFile`.
    """
    document = _read_document(path)
    entries = _entries(document, path)
    images, own = (document.get("images"), document.get("categories")) if isinstance(document, dict) else (None, None)
    index = ImageIndex.from_entries(_list(images, "images", path), path, notices, sizes=False) if images else None
    groups, references = _references(entries, path)
    categories = choose_box_categories(_list(own, "categories", path), path, notices, categories) if own else categories
    (kept,) = np.nonzero(_person_rows(entries, categories, path, notices))
    rows = [entries[i] for i in kept]
    return BoxRows(kept, groups[kept], references, _boxes(rows, kept, path), _scores(rows, kept, path, notices), index)


# --- the document -----------------------------------------------------------------------------------------------------


def _read_document(path: Path) -> Any:
    try:
        return read_json(path, "box file")
    except InputError as error:
        if isinstance(error.__cause__, ValueError):
            raise InputError(f"{error}; {WANTED}; convert CSV files and YOLO's label files to one") from error
        raise


def _entries(document: Any, path: Path) -> list[dict[str, Any]]:
    """The rows of a document."""
    if isinstance(document, dict):
        lists = [key for key in LISTS if isinstance(document.get(key), list)]
        filled = [key for key in lists if document[key]] or lists[:1]
        if len(filled) != 1:
            found = "the lists " + ", ".join(filled) if filled else f"the keys {shorten(sorted(document))}"
            raise InputError(f"{path} contains neither one list of boxes nor COCO annotations, but {found}; {WANTED}")
        document = document[filled[0]]
    if not isinstance(document, list):
        raise InputError(f"{path} contains neither a list of boxes nor COCO annotations; {WANTED}")
    for number, entry in enumerate(document):
        if not isinstance(entry, dict):
            raise InputError(f"{path}, entry {number} is {shorten(entry)}, not an object; {WANTED}")
    return document


def _list(value: Any, key: str, path: Path) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{path}: {key} is {shorten(value)}, not a list")
    return value


# --- which image ------------------------------------------------------------------------------------------------------


def _references(entries: Sequence[dict[str, Any]], path: Path) -> tuple[NDArray[np.int64], list[Reference]]:
    """The different references of the rows, and the position of each row's reference among them."""
    positions: dict[Reference, int] = {}
    groups = np.empty(len(entries), np.int64)
    for number, entry in enumerate(entries):
        reference = _reference(entry, number, path)
        groups[number] = positions.setdefault(reference, len(positions))
    return groups, list(positions)


def _reference(entry: dict[str, Any], number: int, path: Path) -> Reference:
    image_id, name = entry.get("image_id"), None
    for key in NAME_KEYS:
        given = entry.get(key)
        if isinstance(given, str) and given.strip():
            name = given
            break
        if key == "image" and image_id is None and not isinstance(given, str) and check_id(given) is None:
            image_id = given  # some programs write the id as image
        elif given is not None and (key != "image" or image_id is None):
            raise InputError(f"{path}, entry {number}: {key} must be the name of an image file, got {_as_json(given)}")
    if image_id is None and name is None:
        raise InputError(
            f"{path}, entry {number}: image_id (or file_name) and bbox are needed, got {shorten(sorted(entry))}"
        )
    if image_id is not None and (check_id(image_id) is not None or image_id == ""):
        raise InputError(
            f"{path}, entry {number}: image_id must be a number or a text, and file_name a text, "
            f"got {_as_json(image_id)}"
        )
    return name, image_id


def _as_json(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= SHOWN * 10 else text[: SHOWN * 10] + "..."


# --- which category ---------------------------------------------------------------------------------------------------


def _person_rows(
    entries: Sequence[dict[str, Any]], categories: Categories | None, path: Path, notices: Notices
) -> NDArray[np.bool_]:
    """Which rows are persons and no crowds."""
    chosen = categories or Categories([PERSON], [])
    names = chosen.names | ({PERSON_NAME} if chosen.arranged.skeleton == COCO else set())
    values = [_category(entry) for entry in entries]
    texts = _category_texts(values, path)
    persons = {canonical_text(i) for i in chosen.persons}
    known = persons | {canonical_text(i) for i in chosen.others}
    given = {text for text in texts.values() if text is not None}
    if "0" in given and "0" not in known:
        if given - {"0"}:
            raise InputError(
                f"{path}: its entries have the categories {_some(given)}. Ids from 0 are not COCO's, where a person is "
                f"{PERSON}; leave only the persons' entries, or add the list categories with the name person"
            )
        persons = {"0"}
        notices.add("boxes of category 0, taken for persons, because there is no other", "category 0", len(entries))
    if not persons and len(given) == 1:
        persons = given  # neither file lists categories, and the boxes have one
    taken = {key: text is None or text in persons or plain_name(text) in names for key, text in texts.items()}
    is_person = np.array([taken[type(value), value] for value in values], bool)
    crowd = np.array([parse_crowd(entry, f"{path}, entry {i}") for i, entry in enumerate(entries)], bool)
    if not (is_person & ~crowd).any():
        found = f": its {len(entries)} entries have category {_some(given)}" if given and not is_person.any() else ""
        which = f"{_some(persons)}" if persons else f"named {' or '.join(sorted(names)[:SHOWN])}"
        raise InputError(f"{path} contains no box of a person (category {which}, not a crowd){found}")
    others = np.flatnonzero(~is_person)
    kind = f"boxes of categories other than {_some(persons)}, left out"
    notices.add_all(kind, [f"category {values[i]}" for i in others[:1]], len(others))
    crowds = np.flatnonzero(is_person & crowd)
    notices.add_all("boxes of crowds, left out", [f"entry {i}" for i in crowds[:3]], len(crowds))
    return is_person & ~crowd


def parse_crowd(entry: dict[str, Any], where: str) -> int:
    """Whether a row or an annotation is a crowd: 1, or 0, also where ``iscrowd`` is missing, null or empty.

    Raises:
        InputError: If ``iscrowd`` is neither 0, 1, false nor true; the message begins with ``where``.
    """
    given = entry.get("iscrowd")
    if given is None:
        return 0
    crowd = _CROWDS.get(given.strip().casefold()) if isinstance(given, str) else given
    if isinstance(crowd, int | float) and crowd in (0, 1):
        return int(crowd)
    raise InputError(f"{where} has iscrowd {shorten(given)}; it must be 0 or 1")


def _category(entry: dict[str, Any]) -> Any:
    value = entry.get("category_id")
    if value is not None:
        return value
    return next((entry[key] for key in CATEGORY_KEYS if entry.get(key) is not None), None)


def _category_texts(values: Sequence[Any], path: Path) -> dict[tuple[type, Any], str | None]:
    """The text by which each different category is compared, by its type and value."""
    texts: dict[tuple[type, Any], str | None] = {(type(None), None): None}
    for number, value in enumerate(values):
        if value is not None and check_id(value) is not None:
            raise InputError(f"{path}, entry {number}: category_id must be a number or a text, got {_as_json(value)}")
        if (type(value), value) not in texts:
            texts[type(value), value] = canonical_text(value)
    return texts


def _some(texts: Collection[str | None]) -> str:
    ordered = sorted(map(str, texts), key=lambda text: (len(text), text))
    return ", ".join(ordered[:SHOWN]) + (", ..." if len(ordered) > SHOWN else "")


# --- numbers ----------------------------------------------------------------------------------------------------------


def _boxes(rows: Sequence[dict[str, Any]], entry: NDArray[np.int64], path: Path) -> NDArray[np.float64]:
    """The boxes (M, 4) of rows, whose positions in the file are ``entry``."""
    boxes: list[Any] = [row.get("bbox") for row in rows]
    try:
        plain = all(type(box) is list and len(box) == 4 for box in boxes)
        plain = plain and {type(x) for box in boxes for x in box} <= {int, float}
        array = np.array(boxes, np.float64).reshape(-1, 4) if plain else None
    except OverflowError:
        array = None
    if array is None:
        array = np.array([_box(row, f"{path}, entry {i}") for row, i in zip(rows, entry, strict=True)]).reshape(-1, 4)
    bad = np.flatnonzero(~(np.abs(array) < LARGEST).all(axis=1))
    if len(bad):
        raise InputError(_bad_box(boxes[bad[0]], f"{path}, entry {entry[bad[0]]}"))
    return array


def _box(row: dict[str, Any], where: str) -> list[float]:
    box = row.get("bbox")
    if box is None:
        raise InputError(f"{where}: image_id (or file_name) and bbox are needed, got {shorten(sorted(row))}")
    if not isinstance(box, list) or len(box) != 4:
        raise InputError(_bad_box(box, where))
    try:
        return [_number(value) for value in box]
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(_bad_box(box, where)) from error


def _bad_box(box: Any, where: str) -> str:
    return f"{where}: bbox must be four finite numbers x, y, width, height, got {_as_json(box)}"


def _scores(
    rows: Sequence[dict[str, Any]], entry: NDArray[np.int64], path: Path, notices: Notices
) -> NDArray[np.float64]:
    scores = np.ones(len(rows))
    nulls = []
    for position, row in enumerate(rows):
        value = row.get("score", 1.0)
        if value is None:
            nulls.append(f"entry {entry[position]}")
            continue
        try:
            scores[position] = _number(value)
        except (TypeError, ValueError, OverflowError):
            scores[position] = math.nan
        if not math.isfinite(scores[position]):
            raise InputError(f"{path}, entry {entry[position]}: score must be a finite number, got {_as_json(value)}")
    notices.add_all("boxes whose score is null, taken as 1", nulls)
    return scores


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    return float(value)
