"""Writing a gallery: the annotations of a store's persons, and what each network predicts."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdcli.progress import show_progress
from kdlib.metrics.coco import person_scores
from kdlib.metrics.keypoints import normalised_distances, oks
from kdlib.skeleton import JOINTS, LIMBS
from kdlib.students.loading import load_checkpoint
from train.errors import TrainError
from train.evaluate import Predictions, cached_teacher, check_joints, predict, student_loader
from train.show.gallery import GROUND_TRUTH

PCK_THRESHOLD = 0.05


def predictions_by_name(
    store: Any, students: Sequence[Path], *, teacher: bool, device: torch.device, images: Path | None = None
) -> dict[str, Predictions]:
    """What the store's teacher and each student say of every person, by names that can be files and fields.

    Args:
        store: Validation store.
        students: Checkpoints.
        teacher: Is the cached teacher among them?
        device: Where students run.
        images: Folder of the original images, for a store without frames.

    Raises:
        TrainError: If a file is no student or has another number of joints.
    """
    said = {"teacher": cached_teacher(store)} if teacher else {}
    for path in students:
        student = load_checkpoint(path, str(device))
        check_joints(store, student.joints, str(path))
        loader = student_loader(store, student.input_size, 64, device, None if store.has_frames else images)
        name = _free_name(student.name, path, said)
        with show_progress(f"evaluate {name}", "batches") as progress:
            said[name] = predict(student, loader, progress=progress)
    return said


def _free_name(name: str, path: Path, taken: Mapping[str, Any]) -> str:
    """The student's kind; where another has it, its run folder's name too; letters, digits and underscores."""
    candidates = [name, f"{name}_{path.parent.name}", *(f"{name}_{path.parent.name}_{i}" for i in range(2, 1000))]
    plain = (re.sub(r"\W", "_", candidate) for candidate in candidates)
    return next(candidate for candidate in plain if candidate not in (*taken, GROUND_TRUTH))


def write_gallery(store: Any, said: Mapping[str, Predictions], out: Path) -> None:
    """Write the folder; files of other networks that lie in it from before are deleted.

    Raises:
        TrainError: If the folder holds something else than a gallery, or cannot be written.
    """
    files = {GROUND_TRUTH: annotations(store), **{name: results(store, what) for name, what in said.items()}}
    old = sorted(out.iterdir()) if out.is_dir() else []
    if old and (out / f"{GROUND_TRUTH}.json") not in old:
        raise TrainError(f"{out} is not empty and no gallery; give another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path in old:
            if path.suffix == ".json" and path.stem not in files:
                path.unlink()
        for name, content in files.items():
            beside = out / f"{name}.json.tmp"
            beside.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")
            os.replace(beside, out / f"{name}.json")
    except OSError as error:
        raise TrainError(f"could not write the gallery {out}: {error}") from error


def annotations(store: Any) -> dict[str, Any]:
    """The store's persons in COCO's annotation format, joints and skeleton included."""
    columns = store.instances
    rows = [int(row) for row in np.flatnonzero(store.written)]
    images = {int(columns["image_id"][row]): row for row in rows}
    return {
        "info": {"description": _title(store), "content_sha256": store.manifest["content_sha256"]},
        "images": [_image(columns, image_id, row) for image_id, row in images.items()],
        "annotations": [_annotation(columns, row) for row in rows],
        "categories": [{"id": 1, "name": "person", "keypoints": list(JOINTS), "skeleton": _skeleton()}],
    }


def _title(store: Any) -> str:
    """The store's folder and name, ``coco-val``: fit for an address."""
    return re.sub(r"[^\w-]+", "-", f"{store.path.parent.name}-{store.path.stem}".strip("-"))


def _skeleton() -> list[list[int]]:
    """COCO counts joints from 1."""
    return [[a + 1, b + 1] for a, b in LIMBS]


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


def results(store: Any, said: Predictions) -> list[dict[str, Any]]:
    """One entry a person: keypoints are x, y in image pixels and the height of the joint's peak."""
    columns = {name: np.asarray(store.instances[name])[said.rows] for name in ("keypoints", "bbox", "area", "score")}
    similarity = oks(said.points, columns["keypoints"], columns["area"])
    right = _share_right(said.points, columns["keypoints"], columns["bbox"])
    scores = person_scores(columns["score"], said.scores, said.threshold)
    joints = np.concatenate([said.points, said.scores[..., None]], axis=2)
    return [
        {
            "image_id": int(store.instances["image_id"][row]),
            "category_id": 1,
            "keypoints": _floats(joints[i]),
            "score": float(scores[i]),
            "annotation_id": int(store.instances["annotation_id"][row]),
            "bbox": _floats(columns["bbox"][i]),
            "oks": _number(similarity[i]),
            "pck": _number(right[i]),
        }
        for i, row in enumerate(said.rows)
    ]


def _share_right(
    points: NDArray[np.float64], keypoints: NDArray[np.floating], bbox: NDArray[np.floating]
) -> NDArray[np.float64]:
    """(N,) share of each person's labelled joints within the PCK threshold; NaN for a person without labels."""
    distances = normalised_distances(points, keypoints, bbox)
    labelled = ~np.isnan(distances)
    with np.errstate(invalid="ignore"):
        return (labelled & (distances <= PCK_THRESHOLD)).sum(axis=1) / labelled.sum(axis=1)


def _floats(values: NDArray[np.generic]) -> list[float]:
    return [round(float(value), 4) for value in np.asarray(values).reshape(-1)]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
