"""Writes a gallery: the annotations of a store's persons, and the predictions of each network."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from cache import Store
from kdcli.files import replacing
from kdcli.progress import show_progress
from kdlib.inputs.categories import coco_category
from kdlib.metrics.coco import instance_scores
from kdlib.metrics.keypoints import normalised_distances, oks
from kdlib.samples.dataset import store_skeleton
from kdlib.students.loading import load_checkpoint
from train.errors import TrainError
from train.evaluate import Predictions, cached_teacher, check_joints, predict, student_loader
from train.show.gallery import GROUND_TRUTH

PCK_THRESHOLD: Final = 0.05
"""Share of the box's longer side."""


def predictions_by_name(
    store: Store, students: Sequence[Path], *, teacher: bool, device: torch.device, images: Path | None = None
) -> dict[str, Predictions]:
    """Predict every person of a store with its teacher and with students.

    Args:
        store: Validation store.
        students: Checkpoints.
        teacher: Include the store's teacher.
        device: Device of the students.
        images: Folder of the original images, for a store without frames.

    Returns:
        Predictions by names that are valid for files and fields.

    Raises:
        KdlibError: If a file is not a student, or (`TrainError`) a student has other joints.
    """
    predictions = {"teacher": cached_teacher(store)} if teacher else {}
    for path in students:
        student = load_checkpoint(path, str(device))
        check_joints(store, student.skeleton, str(path))
        loader = student_loader(store, student.input_size, 64, device, None if store.has_frames else images)
        name = _free_name(student.name, path, predictions)
        with show_progress(f"evaluate {name}", "batches") as progress:
            predictions[name] = predict(student, loader, progress=progress)
    return predictions


def _free_name(name: str, path: Path, taken: Mapping[str, Any]) -> str:
    """The student's name, extended by its run folder's if it is not unique; letters, digits and underscores only."""
    candidates = [name, f"{name}_{path.parent.name}", *(f"{name}_{path.parent.name}_{i}" for i in range(2, 1000))]
    plain = (re.sub(r"\W", "_", candidate) for candidate in candidates)
    return next(candidate for candidate in plain if candidate not in (*taken, GROUND_TRUTH))


def write_gallery(store: Store, predictions: Mapping[str, Predictions], out: Path) -> None:
    """Write a gallery; files of other networks that an earlier gallery left in the folder are deleted.

    Args:
        store: Validation store.
        predictions: Predictions by name.
        out: The folder.

    Raises:
        TrainError: If the folder holds something other than a gallery, or cannot be written.
    """
    files = {GROUND_TRUTH: annotations(store), **{name: results(store, of) for name, of in predictions.items()}}
    old = sorted(out.iterdir()) if out.is_dir() else []
    if old and (out / f"{GROUND_TRUTH}.json") not in old:
        raise TrainError(f"{out} is not empty and is not a gallery; give another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path in old:
            if path.suffix == ".json" and path.stem not in files:
                path.unlink()
        for name, content in files.items():
            with replacing(out / f"{name}.json") as temporary:
                temporary.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise TrainError(f"could not write the gallery {out}: {error}") from error


def annotations(store: Store) -> dict[str, Any]:
    """Convert the store's persons to COCO's annotation format, including joints and skeleton."""
    columns, skeleton = store.instances, store_skeleton(store)
    rows = [int(row) for row in np.flatnonzero(store.written)]
    images = {int(columns["image_id"][row]): row for row in rows}
    return {
        "info": {"description": _title(store), "content_sha256": store.manifest["content_sha256"]},
        "images": [_image(columns, image_id, row) for image_id, row in images.items()],
        "annotations": [_annotation(columns, row) for row in rows],
        "categories": [coco_category(skeleton)],
    }


def _title(store: Store) -> str:
    """The folder and name of the store, e.g. ``coco-val``, without characters that are special in an address."""
    path = PurePath(str(store.path))  # may be a URL
    return re.sub(r"[^\w-]+", "-", f"{path.parent.name}-{path.stem}".strip("-"))


def _image(columns: Mapping[str, Any], image_id: int, row: int) -> dict[str, Any]:
    width, height = (int(side) for side in columns["image_size"][row])
    return {"id": image_id, "file_name": columns["file_name"][row], "width": width, "height": height}


def _annotation(columns: Mapping[str, Any], row: int) -> dict[str, Any]:
    keypoints = np.asarray(columns["keypoints"][row], np.float64)
    return {
        "id": int(columns["annotation_id"][row]),
        "image_id": int(columns["image_id"][row]),
        "category_id": 1,
        "bbox": _floats(columns["bbox"][row]),
        "area": float(columns["area"][row]),
        "iscrowd": int(columns["iscrowd"][row]),
        "keypoints": _floats(keypoints),
        "num_keypoints": int((keypoints[:, 2] > 0).sum()),
    }


def results(store: Store, predictions: Predictions) -> list[dict[str, Any]]:
    """Convert predictions to COCO results, with annotation id, box, OKS and PCK of each person.

    Returns:
        One entry per person; its keypoints are x, y in image pixels and the height of the joint's peak.
    """
    columns = {
        name: np.asarray(store.instances[name])[predictions.rows] for name in ("keypoints", "bbox", "area", "score")
    }
    similarity = oks(predictions.points, columns["keypoints"], columns["area"], store_skeleton(store))
    correct = _share_correct(predictions.points, columns["keypoints"], columns["bbox"])
    scores = instance_scores(columns["score"], predictions.scores, predictions.threshold)
    joints = np.concatenate([predictions.points, predictions.scores[..., None]], axis=2)
    return [
        {
            "image_id": int(store.instances["image_id"][row]),
            "category_id": 1,
            "keypoints": _floats(joints[i]),
            "score": float(scores[i]),
            "annotation_id": int(store.instances["annotation_id"][row]),
            "bbox": _floats(columns["bbox"][i]),
            "oks": _number(similarity[i]),
            "pck": _number(correct[i]),
        }
        for i, row in enumerate(predictions.rows)
    ]


def _share_correct(
    points: NDArray[np.float64], keypoints: NDArray[np.floating], bbox: NDArray[np.floating]
) -> NDArray[np.float64]:
    """(N,) the share of each person's labelled joints within the PCK threshold; NaN for a person without labels."""
    distances = normalised_distances(points, keypoints, bbox)
    labelled = ~np.isnan(distances)
    with np.errstate(invalid="ignore"):
        return (labelled & (distances <= PCK_THRESHOLD)).sum(axis=1) / labelled.sum(axis=1)


def _floats(values: NDArray[np.generic]) -> list[float]:
    return [round(float(value), 4) for value in np.asarray(values).reshape(-1)]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
