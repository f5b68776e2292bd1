"""Reads COCO-format annotation files of persons into plain columns.

The instances that a teacher is run on are selected as in deep-high-resolution-net.pytorch (lib/dataset/coco.py): no
crowds, a box with some area inside the image, at least one labelled joint. The ground truth keeps every annotation of
the images, including crowds and instances without labels, because COCO's average precision needs them.

What a file may look like is described in docs/annotations.md.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from kdlib.errors import InputError
from kdlib.geometry import clip_boxes
from kdlib.inputs.box_rows import LARGEST, parse_crowd
from kdlib.inputs.boxes import BoxFile, MatchedBoxes, warn_of_format
from kdlib.inputs.categories import Categories, choose_categories
from kdlib.inputs.documents import read_json
from kdlib.inputs.ids import assign_ids, check_id, shorten
from kdlib.inputs.image_index import ImageIndex
from kdlib.inputs.notices import EXAMPLES, Notices
from kdlib.skeletons.reading import Arranged, difference_from_built_in
from kdlib.skeletons.skeleton import Skeleton

LISTS: Final = ("images", "annotations", "categories")
WHOLE_BODY: Final = "coco_wholebody"
"""The skeleton whose joints COCO-WholeBody's files spread over several entries of an annotation."""
PARTS: Final = {"foot_kpts": 6, "face_kpts": 68, "lefthand_kpts": 21, "righthand_kpts": 21}
"""These entries after ``keypoints``, in the order of the skeleton, and their numbers of joints."""
READ: Final = ("image_id", "category_id", "bbox", "area", "iscrowd", "keypoints", *PARTS)
"""The entries of an annotation that are read, beside its id."""
_CHUNK: Final = 4096
"""Annotations whose numbers are converted at once."""
Real = TypeVar("Real", np.float32, np.float64)


@dataclasses.dataclass(frozen=True)
class Instances:
    """N annotated instances as columns; row i of every column is the same instance."""

    annotation_id: NDArray[np.int64]
    """(N,) COCO annotation id; detections, which have none, are numbered -1, -2, ... in the order of their file."""
    image_id: NDArray[np.int64]
    """(N,) COCO image id."""
    file_name: list[str]
    """N paths of image files, relative to the image folder."""
    image_size: NDArray[np.int32]
    """(N, 2) width, height of the image in pixels."""
    bbox: NDArray[np.float64]
    """(N, 4) x, y, width, height in image pixels."""
    area: NDArray[np.float64]
    """(N,) annotated area in square image pixels; the area of the box if the file gives none."""
    iscrowd: NDArray[np.uint8]
    """(N,) 1 for a crowd, else 0."""
    keypoints: NDArray[np.float32]
    """(N, K, 3) x, y in image pixels and COCO's visibility: 0 unlabelled, 1 occluded, 2 visible."""
    score: NDArray[np.float64]
    """(N,) the detector's confidence; 1 for annotated boxes."""

    def __len__(self) -> int:
        return len(self.annotation_id)

    def select(self, rows: NDArray[np.generic]) -> Self:
        """The instances at some rows (indices or a mask), in that order."""
        index = np.arange(len(self))[rows]
        columns = {name: column[index] for name, column in self.columns().items() if name != "file_name"}
        return type(self)(file_name=[self.file_name[i] for i in index], **columns)

    def columns(self) -> dict[str, Any]:
        """The columns by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


@dataclasses.dataclass(frozen=True)
class Annotations:
    """The content of one annotation file."""

    instances: Instances
    """The instances to run a teacher on."""
    ground_truth: Instances
    """Every annotated instance of the images, for COCO's metrics."""
    outside: NDArray[np.int64]
    """Annotation ids of instances left out because their box has no area inside the image."""
    images: ImageIndex
    """All images that the file lists."""
    skeleton: Skeleton
    """The K joints of the keypoints."""


def read_keypoint_annotations(
    path: str | Path,
    *,
    boxes: str | Path | None = None,
    unlabelled: bool = False,
    notices: Notices | None = None,
    category: str | None = None,
    skeleton: Skeleton | None = None,
    document: Any = None,
) -> Annotations:
    """Read an annotation file in COCO's format.

    Args:
        path: JSON with COCO's ``images``, ``annotations`` and ``categories``. With ``boxes``, it may have ``images``
            only. With ``unlabelled``, the annotations may be boxes without keypoints.
        boxes: A box file (see `kdlib.inputs.boxes`). The instances are then these boxes instead of the annotated ones,
            whatever their score.
        unlabelled: Also take instances without a labelled joint. Students can learn from the teacher's heatmaps of
            these, but not from labels.
        notices: Receives what was changed or left out.
        category: Name of the category whose instances are used; None chooses one, see `kdlib.inputs.categories`.
        skeleton: The joints of the instances, which the file may list in another order; None takes the file's.
        document: The content of a file that was converted from another format, which ``path`` names; None reads it.

    Raises:
        InputError: If a file is missing, is not JSON in this format, is inconsistent, or holds no usable instance. The
            message names the file and the entry.
    """
    path, notices = Path(path), Notices() if notices is None else notices
    content = _read_document(path) if document is None else document
    document = _check_document(content, path, images_only=boxes is not None)
    images = ImageIndex.from_entries(document["images"], path, notices)
    parts = _join_parts(document, skeleton, notices)
    categories = choose_categories(
        document["categories"], document["annotations"], path, notices, category=category, skeleton=skeleton
    )
    arranged = categories.arranged
    persons = _find_persons(document, categories, path, notices)
    if boxes is None:
        _check_usable(document, persons, path, unlabelled=unlabelled)
    ground_truth = _ground_truth(persons, images, arranged, parts, path, notices)
    if boxes is not None:
        file = BoxFile(boxes, categories if categories.persons or category else None, notices)
        candidates = _detected(file.inside(file.match_index(images), images.size), images, arranged.skeleton)
        usable = np.ones(len(candidates), bool)
        return _annotations(candidates, usable, ground_truth, images, arranged.skeleton, path, notices)
    labelled = _is_labelled(ground_truth)
    crowd = ground_truth.iscrowd != 0
    warn_of_format(ground_truth.bbox[~crowd], ground_truth.image_size[~crowd], path, notices)
    _warn_of_fractions(ground_truth.keypoints, path, notices)
    who = arranged.skeleton.instances
    _notice_left_out(notices, f"{who} left out because they are crowds", ground_truth.annotation_id[crowd])
    if not unlabelled:
        missing = ground_truth.annotation_id[~crowd & ~labelled]
        _notice_left_out(notices, f"{who} left out because no keypoint is labelled", missing)
    usable = ~crowd & (labelled | unlabelled)
    return _annotations(ground_truth, usable, ground_truth, images, arranged.skeleton, path, notices)


def _warn_of_fractions(keypoints: NDArray[np.float32], path: Path, notices: Notices) -> None:
    """Warn if most labelled joints of keypoints (N, K, 3) are fractions of the image instead of pixels."""
    joints = keypoints[keypoints[:, :, 2] > 0, :2]
    inside = int(((joints >= 0) & (joints <= 1)).all(axis=1).sum())
    if 2 * inside > len(joints):
        line = f"{inside} of {len(joints)} labelled joints lie between 0 and 1: x and y must be pixels of the image"
        notices.warn(f"{path}: {line}")
        notices.add("labelled joints that seem not to be in pixels", line, inside)


def _is_labelled(instances: Instances) -> NDArray[np.bool_]:
    return np.asarray((instances.keypoints[:, :, 2] > 0).any(axis=1))


def _notice_left_out(notices: Notices, kind: str, ids: NDArray[np.int64]) -> None:
    notices.add_all(kind, [f"annotation {i}" for i in ids[:EXAMPLES]], len(ids))


def _annotations(
    candidates: Instances,
    usable: NDArray[np.bool_],
    ground_truth: Instances,
    images: ImageIndex,
    skeleton: Skeleton,
    path: Path,
    notices: Notices,
) -> Annotations:
    inside = (clip_boxes(candidates.bbox, candidates.image_size)[:, 2:] > 0).all(axis=1)
    instances = candidates.select(usable & inside)
    if not len(instances):
        raise InputError(
            f"{path}: no usable instance among {len(candidates)}: {int((~usable).sum())} are crowds or have no "
            f"labelled keypoint, {int((usable & ~inside).sum())} have a box outside their image; "
            "give a file with labelled persons, or a detector's boxes, boxes=... (--boxes FILE)"
        )
    outside = candidates.annotation_id[usable & ~inside]
    _notice_left_out(notices, f"{skeleton.instances} left out because their box has no area inside the image", outside)
    return Annotations(instances, ground_truth, outside, images, skeleton)


# --- the document -----------------------------------------------------------------------------------------------------


def _read_document(path: Path) -> Any:
    try:
        return read_json(path, "annotation file")
    except InputError as error:
        if isinstance(error.__cause__, ValueError):
            raise InputError(
                f"{error}; COCO's file is a JSON object with the lists {', '.join(LISTS)}: convert the files of YOLO "
                "(text), of Pascal VOC (XML), and tables (CSV) to one"
            ) from error
        raise


def _check_document(document: Any, path: Path, *, images_only: bool) -> dict[str, list[Any]]:
    """The lists of an annotation file; ``annotations`` and ``categories`` may be missing if the images are enough."""
    given = document if isinstance(document, dict) else {}
    required = LISTS[:1] if images_only else LISTS
    missing = [name for name in LISTS if not isinstance(given.get(name), list)]
    odd = [name for name in missing if given.get(name) is not None]
    if odd or any(name in required for name in missing):
        raise InputError(
            f"{path} is not a COCO annotation file: these lists are missing: {', '.join(odd or missing)}; "
            f"{_describe(document)}"
        )
    return {name: given.get(name) or [] for name in LISTS}


def _describe(document: Any) -> str:
    """What a document that is not an annotation file seems to be, and what to do."""
    if isinstance(document, list) and document and isinstance(document[0], dict):
        if {"image_id", "bbox"} <= set(document[0]) and "id" not in document[0]:
            return "it is a list of detections, which --boxes takes; give the annotation file of the images here"
        return f"it is a list of {len(document)} objects with {_keys(document[0])}; COCO's file is an object"
    if not isinstance(document, dict):
        return f"it is {shorten(document)}; COCO's file is an object"
    inner = next((key for key, entry in document.items() if isinstance(entry, dict) and "images" in entry), None)
    if inner is not None:
        return f"they are inside the entry {shorten(inner)}; save that entry as a file of its own"
    return _name_format(document) or f"it is an object with {_keys(document)}"


def _name_format(document: dict[str, Any]) -> str | None:
    if {"shapes", "imagePath"} <= set(document):
        return "it is a file of LabelMe, which describes one image; convert all of them to one COCO file"
    if any(key.startswith("_via") or (isinstance(a, dict) and "regions" in a) for key, a in document.items()):
        return "it is a file of the VGG Image Annotator; export it in COCO's format"
    return None


def _keys(found: dict[str, Any]) -> str:
    return shorten(sorted(found), 120)


def _find_persons(
    document: dict[str, list[Any]], categories: Categories, path: Path, notices: Notices
) -> dict[int, dict[str, Any]]:
    """The annotations of persons by their position in the file."""
    persons: dict[int, dict[str, Any]] = {}
    known = dict[tuple[type, Any], bool | None]()
    for number, annotation in enumerate(document["annotations"]):
        if not isinstance(annotation, dict):
            raise InputError(f"{path}: annotations[{number}] is {shorten(annotation)}, not an object with an id")
        given = annotation.get("category_id")
        key = (type(given), given if isinstance(given, int | str | float) else None)
        if key not in known:
            known[key] = _is_person(given, categories, f"{path}: {_entry(annotation, number)}")
        if known[key]:
            persons[number] = annotation
        elif known[key] is None:
            if annotation.get("keypoints"):
                raise InputError(
                    f"{path}: {_entry(annotation, number)} has keypoints and the category_id {shorten(given)}, which "
                    "the file does not list; correct the id, or add the category"
                )
            notices.add(
                "annotations left out because the file does not list their category", _entry(annotation, number)
            )
    return persons


def _is_person(given: Any, categories: Categories, where: str) -> bool | None:
    """Whether a category id is that of a person; None if the file does not list it."""
    count = len(categories.persons) + len(categories.others)
    if given is None and count == 1:
        return True
    if given is None:
        raise InputError(f"{where} has no category_id, and the file lists {count} categories; give each annotation one")
    problem = check_id(given)
    if problem:
        raise InputError(f"{where} has the category_id {shorten(given)}; it must be the id of a category")
    return categories.is_person(given)


def _entry(annotation: dict[str, Any], number: int) -> str:
    return f"annotation {shorten(annotation['id'])}" if "id" in annotation else f"annotations[{number}]"


def _check_usable(
    document: dict[str, list[Any]], persons: dict[int, dict[str, Any]], path: Path, *, unlabelled: bool
) -> None:
    """Raise `InputError` if there is nobody to run a teacher on."""
    count = len(document["annotations"])
    if not count:
        raise InputError(
            f"{path} lists {len(document['images'])} images and no annotation; give a detector's boxes of the persons, "
            "boxes=... (--boxes FILE)"
        )
    if not persons:
        raise InputError(f"{path} has {count} annotations, and none is of the category of persons")
    if not unlabelled and not any(annotation.get("keypoints") for annotation in persons.values()):
        raise InputError(
            f"{path} has {count} annotations and none has keypoints; give COCO's person_keypoints_*.json, not "
            "instances_*.json, or take persons without labels, unlabelled=True (--unlabelled)"
        )


def _join_parts(document: dict[str, list[Any]], skeleton: Skeleton | None, notices: Notices) -> dict[str, int]:
    """The entries of an annotation that follow ``keypoints``, with their numbers of joints.

    COCO-WholeBody's categories list COCO's joints alone. If its whole body is wanted, the others are added to them.
    """
    found = sum(isinstance(each, dict) and "face_kpts" in each for each in document["annotations"])
    if not found:
        return {}
    if skeleton is None or skeleton.name != WHOLE_BODY or difference_from_built_in(skeleton) is not None:
        what = f"annotations with joints of feet, face and hands, which --skeleton {WHOLE_BODY} uses"
        notices.add(what, ", ".join(PARTS), found)
        return {}
    body = len(skeleton) - sum(PARTS.values())
    listed = [each.get("keypoints") for each in document["categories"] if isinstance(each, dict)]
    if any(isinstance(joints, list) and len(joints) != body for joints in listed):
        return {}
    document["categories"] = [
        {**each, "keypoints": [*each["keypoints"], *skeleton.joints[body:]], "skeleton": []}
        if isinstance(each, dict) and isinstance(each.get("keypoints"), list)
        else each
        for each in document["categories"]
    ]
    return PARTS


# --- columns ----------------------------------------------------------------------------------------------------------


def _ground_truth(
    entries: dict[int, dict[str, Any]],
    images: ImageIndex,
    arranged: Arranged,
    parts: dict[str, int],
    path: Path,
    notices: Notices,
) -> Instances:
    """The columns of annotated persons, their joints in the order of the skeleton."""
    entries = _merge_equal(entries, path, notices)
    rows, names = list(entries.values()), [f"{path}: {_entry(a, number)}" for number, a in entries.items()]
    ids = assign_ids([row["id"] for row in rows], "annotations", notices)
    found = [_image_row(row, images, name) for row, name in zip(rows, names, strict=True)]
    boxes = _in_chunks(rows, names, "bbox", 4, _parse_box, np.float64)
    joints = np.concatenate(
        [
            _joints(rows, names, key, count)
            for key, count in {"keypoints": len(arranged.order) - sum(parts.values()), **parts}.items()
        ],
        axis=1,
    )
    if arranged.is_reordered:
        joints = joints[:, arranged.order]
    _check_visibilities(joints[:, :, 2], names, notices)
    return _instances_of(
        images,
        np.array(found, np.int64),
        annotation_id=ids,
        bbox=boxes,
        area=_areas(rows, boxes, notices),
        iscrowd=np.array([parse_crowd(row, name) for row, name in zip(rows, names, strict=True)], np.uint8),
        keypoints=joints,
        score=np.ones(len(rows)),
    )


def _joints(rows: Sequence[dict[str, Any]], names: Sequence[str], key: str, count: int) -> NDArray[np.float32]:
    """(N, count, 3) float32: an entry of each annotation with x, y, v of some joints."""
    parse = functools.partial(_parse_keypoints, count=count, key=key)
    return _in_chunks(rows, names, key, 3 * count, parse, np.float32).reshape(-1, count, 3)


def _instances_of(images: ImageIndex, rows: NDArray[np.int64], **columns: NDArray[Any]) -> Instances:
    """Make the instances in images of an index.

    Args:
        images: The index.
        rows: (N,) the row of each instance's image.
        columns: The columns of `Instances` that do not describe the image.
    """
    return Instances(
        image_id=images.id[rows],
        file_name=[images.file_name[row] for row in rows.tolist()],
        image_size=images.size[rows],
        **columns,
    )


def _merge_equal(entries: dict[int, dict[str, Any]], path: Path, notices: Notices) -> dict[int, dict[str, Any]]:
    """Leave out annotations that say the same as an earlier one; refuse different ones with the same id."""
    kept: dict[int, dict[str, Any]] = {}
    first: dict[Any, int] = {}
    for number, annotation in entries.items():
        problem = check_id(annotation["id"]) if "id" in annotation else "has no id; an id must be a number or a text"
        if problem:
            raise InputError(f"{path}: annotations[{number}] {problem}")
        before = first.setdefault(annotation["id"], number)
        if before == number:
            kept[number] = annotation
        elif all(_equal(entries[before].get(key), annotation.get(key)) for key in READ):
            notices.add("annotations listed twice, used once", _entry(annotation, number))
        else:
            raise InputError(
                f"{path}: two annotations have the id {shorten(annotation['id'])}: annotations[{before}] of image "
                f"{shorten(entries[before].get('image_id'))} and annotations[{number}] of image "
                f"{shorten(annotation.get('image_id'))}; the file may be a merge of two; give each its own id"
            )
    return kept


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other) or repr(one) == repr(other)  # NaN differs from NaN


def _image_row(annotation: dict[str, Any], images: ImageIndex, name: str) -> int:
    if annotation.get("image_id") is None:
        raise InputError(f"{name} has no image_id")
    row = images.find_id(annotation["image_id"])
    if row is None:
        raise InputError(f"{name} belongs to image {shorten(annotation['image_id'])}, which the file does not list")
    return row


def _in_chunks(
    rows: Sequence[dict[str, Any]],
    names: Sequence[str],
    key: str,
    length: int,
    parse: Callable[[Any, str], Sequence[float]],
    dtype: type[Real],
) -> NDArray[Real]:
    """Convert an entry of each row to (N, length) numbers: at once where they are plain, one by one where not."""
    numbers = np.zeros((len(rows), length), dtype)
    for start in range(0, len(rows), _CHUNK):
        values = [row.get(key) for row in rows[start : start + _CHUNK]]
        plain = _plain_numbers(values, length)
        if plain is None:
            plain = np.array([parse(v, n) for v, n in zip(values, names[start : start + _CHUNK], strict=True)])
        numbers[start : start + _CHUNK] = plain
    return numbers


def _plain_numbers(values: list[Any], length: int) -> NDArray[np.float64] | None:
    """(n, length) float64 if all values are lists of that many numbers below `LARGEST`; otherwise None."""
    if not all(type(value) is list and len(value) == length for value in values):
        return None
    if not set(map(type, itertools.chain.from_iterable(values))) <= {int, float}:
        return None
    try:
        found = np.array(values)
    except (ValueError, OverflowError):
        return None
    if found.dtype.kind not in "iuf" or found.shape != (len(values), length):
        return None
    return found.astype(np.float64) if (np.abs(found) < LARGEST).all() else None


def _is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number below `LARGEST`; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST < value < LARGEST


def _parse_box(box: Any, name: str) -> Sequence[float]:
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise InputError(f"{name} has the box {shorten(box)}; it must be four finite numbers x, y, width, height")
    return box


def _parse_keypoints(joints: Any, name: str, count: int, key: str) -> Sequence[float]:
    """3 K numbers from a flat list or a list of K triples, K = count; zeros for a person without labels."""
    numbers = 3 * count
    if joints is None or joints == []:
        return [0.0] * numbers
    if not isinstance(joints, list):
        raise InputError(f"{name} has the {key} {shorten(joints)}, not a list of {numbers} numbers")
    if len(joints) == count and all(isinstance(joint, list) for joint in joints):
        odd = next((joint for joint in joints if len(joint) != len(joints[0])), None)
        if odd is not None:
            raise InputError(f"{name} has the keypoint {shorten(odd)} of {len(odd)} numbers; each must be x, y, v")
        joints = [number for joint in joints for number in joint]
    if len(joints) != numbers:
        pairs = ": they seem to lack the visibility" if len(joints) == 2 * count else ""
        raise InputError(
            f"{name} has {len(joints)} {'keypoint numbers' if key == 'keypoints' else f'numbers in {key}'} instead of "
            f"{numbers} (x, y, v of {count} joints){pairs}"
        )
    return [number for start in range(0, numbers, 3) for number in _parse_joint(joints[start : start + 3], name)]


def _parse_joint(joint: list[Any], name: str) -> Sequence[float]:
    """A joint's x, y, v; v may be true or false. A joint that is not labelled may have null or NaN for x and y."""
    x, y, v = joint
    v = int(v) if isinstance(v, bool) else v
    if all(map(_is_number, (x, y, v))):
        return x, y, v
    if ((_is_number(v) and v <= 0) or _is_absent(v)) and _is_absent(x) and _is_absent(y):
        return 0.0, 0.0, 0.0
    raise InputError(f"{name} has a keypoint that is not a finite number: {shorten(joint)}")


def _is_absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _check_visibilities(visibility: NDArray[np.float32], names: Sequence[str], notices: Notices) -> None:
    """Count joints whose visibility is none of COCO's three values; make negative ones 0, in place."""
    odd = ~np.isin(visibility, (0, 1, 2))
    if odd.any():
        examples = [names[row].rpartition(": ")[2] for row in np.flatnonzero(odd.any(axis=1))[:EXAMPLES]]
        notices.add_all(
            "joints with a visibility other than 0, 1 or 2, labelled if it is above 0", examples, int(odd.sum())
        )
    np.maximum(visibility, 0, out=visibility)


def _areas(rows: Sequence[dict[str, Any]], boxes: NDArray[np.float64], notices: Notices) -> NDArray[np.float64]:
    """The annotated areas; the area of the box where the file gives none that is positive and finite."""
    areas = np.array([_area(row.get("area")) for row in rows], np.float64)
    unknown = np.flatnonzero(areas <= 0)
    areas[unknown] = np.maximum(boxes[unknown, 2:], 0).prod(axis=1)
    notices.add_all("areas computed from the box", [_entry(rows[i], 0) for i in unknown[:EXAMPLES]], len(unknown))
    return areas


def _area(given: Any) -> float:
    """An area in square pixels; 0 if it is not known."""
    is_number = isinstance(given, int | float) and not isinstance(given, bool) and 0 < given < LARGEST**2
    return float(given) if is_number else 0.0


def _detected(boxes: MatchedBoxes, images: ImageIndex, skeleton: Skeleton) -> Instances:
    """A detector's boxes as instances without keypoints, numbered -1, -2, ... by their place in the box file."""
    return _instances_of(
        images,
        boxes.image,
        annotation_id=-1 - boxes.entry,
        bbox=boxes.xywh,
        area=boxes.xywh[:, 2:].prod(axis=1),
        iscrowd=np.zeros(len(boxes), np.uint8),
        keypoints=np.zeros((len(boxes), len(skeleton), 3), np.float32),
        score=boxes.scores,
    )
