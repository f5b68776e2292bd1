"""Reading COCO-format keypoint annotations and detector boxes into plain columns.

The instances that a teacher is run on are selected as in deep-high-resolution-net.pytorch (lib/dataset/coco.py): no
crowds, a box with some area inside the image, at least one labelled joint. The ground truth keeps every annotation of
the images, including crowds and instances without labels, because COCO's average precision needs them.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from kdlib.errors import InputError
from kdlib.geometry import clip_boxes
from kdlib.inputs.boxes import read_detections
from kdlib.inputs.documents import read_json
from kdlib.inputs.notices import Notices
from kdlib.skeleton import JOINTS


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
    """(N, 17, 3) x, y in image pixels and COCO's visibility: 0 unlabelled, 1 occluded, 2 visible."""
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


def read_keypoint_annotations(
    path: str | Path,
    *,
    boxes: str | Path | None = None,
    unlabelled: bool = False,
    notices: Notices | None = None,
) -> Annotations:
    """Read a COCO keypoint annotation file.

    Args:
        path: JSON with COCO's ``images``, ``annotations`` and ``categories``.
        boxes: COCO detection results, a JSON list of objects with image_id, category_id, bbox and score. The instances
            are then these boxes instead of the annotated ones.
        unlabelled: Also take instances without a labelled joint. Students can learn from the teacher's heatmaps of
            these, but not from labels.
        notices: Receives what was changed or left out.

    Raises:
        InputError: If a file is missing, is not JSON in this format, is inconsistent, or holds no usable instance.
    """
    path = Path(path)
    document = read_json(path, "annotation file")
    _check_document(document, path)
    images = {image["id"]: image for image in document["images"]}
    persons = [a for a in document["annotations"] if a.get("category_id", 1) in _person_categories(document)]
    ground_truth = _instances(persons, images, path)
    if boxes is not None:
        candidates = _instances(read_detections(Path(boxes), images), images, Path(boxes))
        usable = np.ones(len(candidates), bool)
    else:
        candidates = ground_truth
        labelled = (candidates.keypoints[:, :, 2] > 0).any(axis=1)
        usable = (candidates.iscrowd == 0) & (labelled | unlabelled)
    return _annotations(candidates, usable, ground_truth, path)


def _annotations(candidates: Instances, usable: NDArray[np.bool_], ground_truth: Instances, path: Path) -> Annotations:
    inside = (clip_boxes(candidates.bbox, candidates.image_size)[:, 2:] > 0).all(axis=1)
    instances = candidates.select(usable & inside)
    if not len(instances):
        raise InputError(
            f"{path}: no usable instance among {len(candidates)}: {int((~usable).sum())} are crowds or have no "
            f"labelled keypoint, {int((usable & ~inside).sum())} have a box outside their image; "
            "give a file with labelled persons, or a detector's boxes, boxes=... (--boxes FILE)"
        )
    return Annotations(instances, ground_truth, candidates.annotation_id[usable & ~inside])


def _check_document(document: Any, path: Path) -> None:
    required = ("images", "annotations", "categories")
    missing = [k for k in required if not isinstance(document, dict) or not isinstance(document.get(k), list)]
    if missing:
        raise InputError(f"{path} is not a COCO annotation file: these lists are missing: {', '.join(missing)}")
    _check_entries(document, path)
    if not any("keypoints" in a for a in document["annotations"]):
        raise InputError(
            f"{path} has {len(document['annotations'])} annotations and none has keypoints; "
            "give COCO's person_keypoints_*.json, not instances_*.json"
        )


def _check_entries(document: dict[str, Any], path: Path) -> None:
    """Raise `InputError` for the first entry that is not a COCO image, annotation or category."""
    for kind in ("images", "annotations", "categories"):
        for row in document[kind]:
            if not isinstance(row, dict) or "id" not in row:
                raise InputError(f"{path}: {kind} holds {str(row)[:60]!r}, not an object with an id")
    for image in document["images"]:
        size = [image.get("width"), image.get("height")]
        if not isinstance(image.get("file_name"), str) or not all(isinstance(x, int) and x > 0 for x in size):
            raise InputError(
                f"{path}: image {image['id']} has file_name {image.get('file_name')!r} and width, height {size}; "
                "it must have a name and two positive whole numbers"
            )


def _person_categories(document: dict[str, Any]) -> set[int]:
    """Ids of the categories with COCO's 17 joints; all categories if the file does not list their joints."""
    with_joints = {c["id"]: len(c["keypoints"]) for c in document["categories"] if "keypoints" in c}
    if with_joints and len(JOINTS) not in with_joints.values():
        counts = sorted(set(with_joints.values()))
        raise InputError(f"the categories have {counts} keypoints; COCO's person has {len(JOINTS)}")
    return {i for i, n in with_joints.items() if n == len(JOINTS)} or {c["id"] for c in document["categories"]}


def _instances(annotations: list[dict[str, Any]], images: dict[int, dict[str, Any]], path: Path) -> Instances:
    for annotation in annotations:
        problem = _find_problem(annotation, images)
        if problem:
            raise InputError(f"{path}: annotation {annotation.get('id', '(without id)')} {problem}")
    ids = [a["id"] for a in annotations]
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise InputError(f"{path}: annotation id {twice} occurs more than once")
    return _columns(annotations, images)


def _find_problem(annotation: dict[str, Any], images: dict[int, dict[str, Any]]) -> str | None:
    """What makes an annotation unusable, as the end of a sentence; None if it is usable."""
    missing = [key for key in ("image_id", "bbox") if key not in annotation]
    if missing:
        return f"has no {', '.join(missing)}"
    if annotation["image_id"] not in images:
        return f"belongs to image {annotation['image_id']}, which the file does not list"
    box, joints = annotation["bbox"], annotation.get("keypoints") or []
    joints = joints if isinstance(joints, list) else [joints]
    if (
        not isinstance(box, list)
        or len(box) != 4
        or not all(isinstance(x, int | float) and math.isfinite(x) for x in box)
    ):
        return f"has the box {box}; it must be four finite numbers x, y, width, height"
    if joints and len(joints) != 3 * len(JOINTS):
        return f"has {len(joints)} keypoint numbers instead of {3 * len(JOINTS)} (x, y, v of {len(JOINTS)} joints)"
    if not all(isinstance(x, int | float) and math.isfinite(x) for x in joints):
        return "has a keypoint that is not a finite number"
    return None


def _columns(rows: list[dict[str, Any]], images: dict[int, dict[str, Any]]) -> Instances:
    images_of_rows = [images[row["image_id"]] for row in rows]
    keypoints = np.zeros((len(rows), len(JOINTS), 3), np.float32)
    for i, row in enumerate(rows):
        if row.get("keypoints"):
            keypoints[i] = np.reshape(row["keypoints"], (-1, 3))
    boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    return Instances(
        annotation_id=np.array([row["id"] for row in rows], np.int64),
        image_id=np.array([row["image_id"] for row in rows], np.int64),
        file_name=[image["file_name"] for image in images_of_rows],
        image_size=np.array([(image["width"], image["height"]) for image in images_of_rows], np.int32).reshape(-1, 2),
        bbox=boxes,
        area=np.array([row.get("area", box[2] * box[3]) for row, box in zip(rows, boxes, strict=True)], np.float64),
        iscrowd=np.array([row.get("iscrowd", 0) for row in rows], np.uint8),
        keypoints=keypoints,
        score=np.array([row.get("score", 1.0) for row in rows], np.float64),
    )
