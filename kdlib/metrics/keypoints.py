"""Distances of predicted joints from their labels, PCK and OKS, with numpy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdlib.skeletons.skeleton import COCO, Skeleton

PCK_THRESHOLDS = (0.05, 0.1, 0.2)
"""Fractions of the longer side of an instance's box."""


def normalised_distances(
    predictions: ArrayLike, keypoints: NDArray[np.floating], bbox: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Distance of each prediction from its label, divided by the longer side of the instance's box.

    Args:
        predictions: (N, K, 2) x, y in image pixels.
        keypoints: (N, K, 3) x, y in image pixels and visibility (0: unlabelled).
        bbox: (N, 4) x, y, width, height in image pixels.

    Returns:
        (N, K) float64; NaN where unlabelled.
    """
    offsets = np.asarray(predictions, np.float64) - keypoints[..., :2]
    sides = np.maximum(np.asarray(bbox, np.float64)[:, 2:].max(axis=1), np.finfo(np.float64).tiny)
    return np.where(keypoints[..., 2] > 0, np.hypot(offsets[..., 0], offsets[..., 1]) / sides[:, None], np.nan)


def pck(
    predictions: ArrayLike,
    keypoints: NDArray[np.floating],
    bbox: NDArray[np.floating],
    thresholds: Sequence[float] = PCK_THRESHOLDS,
    skeleton: Skeleton = COCO,
) -> dict[str, Any]:
    """Percentage of labelled joints predicted within a fraction of the box's longer side (Yang & Ramanan, TPAMI 2013).

    Args:
        predictions: (N, K, 2) x, y in image pixels.
        keypoints: (N, K, 3) x, y in image pixels and visibility.
        bbox: (N, 4) x, y, width, height in image pixels.
        thresholds: Fractions of max(width, height).
        skeleton: The K joints.

    Returns:
        ``{"pck@0.05": percent, ..., "per_joint": {"pck@0.05": {joint: percent}}}``. Every labelled joint counts once. A
        value is NaN where nothing is labelled.
    """
    distances = normalised_distances(predictions, keypoints, bbox)
    labelled = ~np.isnan(distances)
    result: dict[str, Any] = {"per_joint": {}}
    for threshold in thresholds:
        hits = np.where(labelled, distances, np.inf) <= threshold
        name = f"pck@{threshold:g}"
        with np.errstate(invalid="ignore"):
            result[name] = float(100 * np.divide(hits.sum(), labelled.sum()))
            shares = 100 * np.divide(hits.sum(axis=0), labelled.sum(axis=0))
        result["per_joint"][name] = dict(zip(skeleton.joints, map(float, shares), strict=True))
    return result


def oks(
    predictions: ArrayLike, keypoints: NDArray[np.floating], area: ArrayLike, skeleton: Skeleton = COCO
) -> NDArray[np.float64]:
    """Object keypoint similarity of each instance, as COCO computes it (pycocotools ``computeOks``).

    Args:
        predictions: (N, K, 2) x, y in image pixels.
        keypoints: (N, K, 3) x, y in image pixels and visibility.
        area: (N,) area of each instance in square image pixels.
        skeleton: The K joints and their sigmas.

    Returns:
        (N,) float64 in [0, 1]; NaN for an instance without labels.
    """
    offsets = np.asarray(predictions, np.float64) - keypoints[..., :2]
    variance = (2 * skeleton.spreads) ** 2
    scale = np.asarray(area, np.float64)[:, None] + np.spacing(1)
    similarity = np.exp(-(offsets**2).sum(axis=-1) / variance / scale / 2)
    labelled = keypoints[..., 2] > 0
    with np.errstate(invalid="ignore"):
        return (similarity * labelled).sum(axis=1) / labelled.sum(axis=1)
