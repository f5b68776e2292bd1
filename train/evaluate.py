"""Computes predictions and metrics of a student, and of a store's teacher."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache import Store
from kdcli.progress import Progress, no_progress
from kdlib.geometry import compose_affines
from kdlib.metrics.coco import JOINT_SCORE_THRESHOLD, Matches, keypoint_matches
from kdlib.metrics.evaluation import evaluate_points, teacher_predictions
from kdlib.readout import DECODER
from kdlib.samples.dataset import StoreDataset, store_skeleton
from kdlib.samples.loader import Loader
from kdlib.skeletons.skeleton import Skeleton
from kdlib.students.loading import LoadedStudent
from train.errors import TrainError


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predicted keypoints of N instances of a store."""

    rows: NDArray[np.int64]
    """(N,) rows of the store."""
    points: NDArray[np.float64]
    """(N, K, 2) image pixels."""
    scores: NDArray[np.float32]
    """(N, K) heights of the heatmaps at the points."""
    threshold: float
    """Height above which a joint counts for the score of its instance."""
    decoder: str
    """``argmax`` or ``dark``."""


def check_joints(store: Store, skeleton: Skeleton, owner: str) -> None:
    """Check that a store has the joints of a student, in the same order.

    Args:
        store: An opened store.
        skeleton: The student's joints.
        owner: Name of the student in the message.

    Raises:
        TrainError: If they differ.
    """
    difference = store_skeleton(store).difference(skeleton)
    if difference is not None:
        raise TrainError(f"{store.path} does not have the joints of {owner}: {difference}")


def predict(
    student: LoadedStudent, loader: Loader, *, decoder: str = DECODER, progress: Progress = no_progress
) -> Predictions:
    """Run a student on every instance of an unshuffled loader.

    Args:
        student: The student.
        loader: Batches of plain crops, from `student_loader`.
        decoder: ``argmax`` or ``dark``.
        progress: Called with the number of finished batches and of all batches.
    """
    joints = len(loader.dataset.skeleton)
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
    """Combine the predictions of several ranks, in the order of the store."""
    rows = np.concatenate([part.rows for part in parts])
    order = np.argsort(rows)
    points = np.concatenate([part.points for part in parts])[order]
    scores = np.concatenate([part.scores for part in parts])[order]
    return Predictions(rows[order], points, scores, parts[0].threshold, parts[0].decoder)


def student_loader(
    store: Store,
    input_size: tuple[int, int],
    batch_size: int,
    device: torch.device,
    images: Path | None = None,
    *,
    part: tuple[int, int] = (0, 1),
    threads: int | None = None,
) -> Loader:
    """Build a loader of the plain crops of a store, in its order.

    Args:
        store: An opened store.
        input_size: Width and height of the crops.
        batch_size: Crops per batch.
        device: Device of the batches.
        images: Folder of the original images, for a store without frames.
        part: Rank and number of ranks; each rank gets whole batches.
        threads: Threads that prepare crops; None takes one per core.
    """
    dataset = StoreDataset(store, input_size, views=None, images=images)
    return Loader(dataset, batch_size, shuffle=False, threads=threads, device=device, part=part)


def cached_teacher(store: Store, decoder: str = "argmax") -> Predictions:
    """Decode the predictions of a store's teacher from its stored heatmaps; the default is HRNet's own decoder."""
    rows = np.flatnonzero(store.written)
    teacher = store.manifest["provenance"]["teacher"]
    affines = compose_affines(store.view_affine[rows], store.frame_affine[rows][:, None])
    points, scores = teacher_predictions(
        lambda batch, views: store.heatmaps(rows[batch], views),
        affines,
        store.view_flip,
        teacher["input_size"][0] / teacher["heatmap_size"][0],
        decoder,
        skeleton=store_skeleton(store),
    )
    return Predictions(rows, points, scores, JOINT_SCORE_THRESHOLD, decoder)


def to_json(metrics: dict[str, Any], indent: int | None = None) -> str:
    """Convert metrics to strict JSON; NaN and infinity become null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(of) for key, of in value.items()}
        if isinstance(value, list):
            return [plain(of) for of in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(metrics), indent=indent, allow_nan=False)


def labels_of(store: Store) -> tuple[bool, bool]:
    """Whether a store has the labels for AP, and whether it has those for PCK.

    AP compares with the ground truth of the images, PCK with the labels of the stored persons. A detector's boxes
    (``precompute --boxes``) have no labels, although their images may have ground truth.
    """
    truth = store.ground_truth
    counts = (truth["keypoints"][..., 2] > 0).any(axis=1) & (truth["iscrowd"] == 0)
    of_persons = store.instances["keypoints"][np.flatnonzero(store.written), :, 2]
    return bool(counts.any()), bool((of_persons > 0).any())


def measure(store: Store, predictions: Predictions) -> dict[str, Any]:
    """Compute AP, AR, PCK and the other metrics of `evaluate_points`, against the ground truth in their store."""
    return evaluate_points(
        *_against_truth(store, predictions), skeleton=store_skeleton(store), aspect=teacher_input(store)
    )


def match(store: Store, predictions: Predictions) -> Matches:
    """Match predictions to the ground truth in their store; `Matches` gives the AP for any weights of the images."""
    return keypoint_matches(
        *_against_truth(store, predictions), skeleton=store_skeleton(store), aspect=teacher_input(store)
    )


def teacher_input(store: Store) -> tuple[int, int]:
    """Width and height of the input of a store's teacher in pixels."""
    width, height = store.manifest["provenance"]["teacher"]["input_size"]
    return int(width), int(height)


def _against_truth(store: Store, predictions: Predictions) -> tuple[Any, Any, Any, Any, float]:
    """Ground truth, predicted instances, their points, scores and threshold: the arguments of the metrics."""
    names = ("image_id", "bbox", "score", "keypoints")
    instances = {name: np.asarray(store.instances[name])[predictions.rows] for name in names}
    return store.ground_truth, instances, predictions.points, predictions.scores, predictions.threshold
