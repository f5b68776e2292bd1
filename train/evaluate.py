"""Predictions and numbers of a student, and of the teacher that a store remembers."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdcli.progress import Progress, no_progress
from kdlib.geometry import compose_affines
from kdlib.metrics.coco import JOINT_SCORE_THRESHOLD, Matches, keypoint_matches
from kdlib.metrics.evaluation import evaluate_points, teacher_predictions
from kdlib.readout import DECODER
from kdlib.samples.dataset import StoreDataset
from kdlib.samples.loader import Loader
from kdlib.students.loading import LoadedStudent
from train.errors import TrainError


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Points of the instances at ``rows`` of a store."""

    rows: NDArray[np.int64]
    points: NDArray[np.float64]
    """(N, K, 2) image pixels."""
    scores: NDArray[np.float32]
    """(N, K) heatmap heights."""
    threshold: float
    """Of the heights that make a person's score."""
    decoder: str


def check_joints(store: Any, joints: int, who: str) -> None:
    """Refuse a store of persons with another number of joints.

    Raises:
        TrainError: If the numbers differ.
    """
    if store.spec.joints != joints:
        raise TrainError(f"{store.path} holds {store.spec.joints} joints an instance and {who} has {joints}")


def predict(
    student: LoadedStudent, loader: Loader, *, decoder: str = DECODER, progress: Progress = no_progress
) -> Predictions:
    """Run a student over every instance of an unshuffled loader; `progress` is called after each batch."""
    joints = loader.dataset.store.spec.joints
    rows, points, scores = (  # a rank may have no batch
        [np.empty(0, np.int64)],
        [np.empty((0, joints, 2))],
        [np.empty((0, joints), np.float32)],
    )
    progress(0, len(loader))
    for number, batch in enumerate(loader.epoch(), start=1):
        batch_points, batch_scores = student.points(batch["image"], batch["affine"].numpy(), decoder)
        rows.append(batch["row"].numpy())
        points.append(batch_points)
        scores.append(batch_scores)
        progress(number, len(loader))
    threshold = student.readout.joint_threshold(decoder)
    return Predictions(np.concatenate(rows), np.concatenate(points), np.concatenate(scores), threshold, decoder)


def in_store_order(parts: list[Predictions]) -> Predictions:
    """The predictions of several ranks as those of one."""
    rows = np.concatenate([part.rows for part in parts])
    order = np.argsort(rows)
    points = np.concatenate([part.points for part in parts])[order]
    scores = np.concatenate([part.scores for part in parts])[order]
    return Predictions(rows[order], points, scores, parts[0].threshold, parts[0].decoder)


def student_loader(
    store: Any,
    input_size: tuple[int, int],
    batch_size: int,
    device: torch.device,
    images: Path | None = None,
    *,
    part: tuple[int, int] = (0, 1),
) -> Loader:
    """The plain crops of a store, in its order; with several ranks, this one's batches."""
    dataset = StoreDataset(store, input_size, views=None, images=images)
    return Loader(dataset, batch_size, shuffle=False, device=device, part=part)


def cached_teacher(store: Any, decoder: str = "argmax") -> Predictions:
    """What the store's teacher says, decoded from its heatmaps alone, as HRNet's evaluation does it."""
    rows = np.flatnonzero(store.written)
    teacher = store.manifest["provenance"]["teacher"]
    affines = compose_affines(store.view_affine[rows], store.frame_affine[rows][:, None])
    points, scores = teacher_predictions(
        lambda batch: store.heatmaps(rows[batch]),
        affines,
        store.view_flip,
        teacher["input_size"][0] / teacher["heatmap_size"][0],
        decoder,
    )
    return Predictions(rows, points, scores, JOINT_SCORE_THRESHOLD, decoder)


def to_json(metrics: dict[str, Any], indent: int | None = None) -> str:
    """Metrics as strict JSON: what has no value (NaN) becomes null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(of) for key, of in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(metrics), indent=indent, allow_nan=False)


def measure(store: Any, predictions: Predictions) -> dict[str, Any]:
    """AP, AR and PCK of predictions against the ground truth in their store, in percent."""
    return evaluate_points(*_against_truth(store, predictions))


def match(store: Any, predictions: Predictions) -> Matches:
    """Which predictions find a person of their store, for the AP of weighted pictures."""
    return keypoint_matches(*_against_truth(store, predictions))


def _against_truth(store: Any, predictions: Predictions) -> tuple[Any, Any, Any, Any, float]:
    """Ground truth, predicted persons, their points, scores and threshold, as `kdlib` asks for them."""
    names = ("image_id", "bbox", "score", "keypoints")
    instances = {name: np.asarray(store.instances[name])[predictions.rows] for name in names}
    return store.ground_truth, instances, predictions.points, predictions.scores, predictions.threshold
