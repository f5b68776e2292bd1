"""From heatmaps to the numbers of an evaluation: the same path for the cached teacher and for every student."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdlib.geometry import compose_affines, invert_affine, scale_affine, transform_points
from kdlib.heatmaps import DECODERS, flip_average
from kdlib.metrics.coco import JOINT_SCORE_THRESHOLD, Columns, keypoint_ap
from kdlib.metrics.keypoints import pck

BATCH = 64


def decode_to_image(
    heatmaps: NDArray[np.floating], affines: NDArray[np.float64], stride: float, decoder: str = "argmax"
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Decode heatmaps into image pixels.

    Args:
        heatmaps: (B, K, H, W).
        affines: (B, 2, 3) image pixels to network input pixels.
        stride: Input pixels a heatmap pixel.
        decoder: ``argmax`` (quarter offset) or ``dark``.

    Returns:
        Points (B, K, 2) in image pixels and peak heights (B, K).
    """
    points, scores = DECODERS[decoder](heatmaps)
    back = invert_affine(compose_affines(scale_affine(1 / stride), affines))
    return transform_points(points, back), scores


def teacher_predictions(
    heatmaps: Callable[[NDArray[np.int64]], NDArray[np.floating]],
    view_affines: NDArray[np.float64],
    view_flip: NDArray[np.generic],
    stride: float,
    decoder: str = "argmax",
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """What a cached teacher says: view 0, averaged with its mirror where the store holds that as view 1.

    Args:
        heatmaps: Rows (n,) -> (n, V, K, H, W), as a store's ``heatmaps``.
        view_affines: (N, V, 2, 3) image pixels to teacher input pixels.
        view_flip: (V,) non-zero for mirrored views.
        stride: Teacher input pixels a heatmap pixel.
        decoder: ``argmax`` or ``dark``.

    Returns:
        Points (N, K, 2) in image pixels and peak heights (N, K).
    """
    mirrored = len(view_flip) > 1 and bool(view_flip[1])
    points, scores = [], []
    for start in range(0, len(view_affines), BATCH):
        rows = np.arange(start, min(start + BATCH, len(view_affines)))
        maps = heatmaps(rows)
        seen = flip_average(maps[:, 0], maps[:, 1]) if mirrored else maps[:, 0]
        batch_points, batch_scores = decode_to_image(seen, view_affines[rows, 0], stride, decoder)
        points.append(batch_points)
        scores.append(batch_scores)
    return np.concatenate(points), np.concatenate(scores)


def evaluate_points(
    ground_truth: Columns,
    instances: Columns,
    points: NDArray[np.floating],
    joint_scores: NDArray[np.floating],
    threshold: float = JOINT_SCORE_THRESHOLD,
) -> dict[str, Any]:
    """AP, AR and PCK of predicted points.

    Args:
        ground_truth: Columns of every annotated person of the images.
        instances: Columns of the N predicted persons: image_id, bbox, score, keypoints.
        points: (N, K, 2) image pixels.
        joint_scores: (N, K) heatmap heights.
        threshold: Of the joint scores that make a person's score.

    Returns:
        `kdlib.metrics.coco.METRICS`, ``pck@...``, ``per_joint`` and ``instances``, percentages throughout.
    """
    distances = pck(points, np.asarray(instances["keypoints"]), np.asarray(instances["bbox"]))
    average_precision = keypoint_ap(ground_truth, instances, points, joint_scores, threshold)
    return {**average_precision, **distances, "instances": len(points)}
