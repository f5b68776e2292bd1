"""Distances of predicted joints from their labels, PCK, PCKh, AUC, EPE and OKS, with numpy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdlib.skeletons.skeleton import COCO, Skeleton

PCK_THRESHOLDS = (0.05, 0.1, 0.2)
"""Fractions of the longer side of an instance's box."""
PCKH_THRESHOLDS = (0.1, 0.5)
"""Fractions of an instance's head size."""
PCKH_LEFT_OUT = ("pelvis", "thorax")
"""Joints that MPII's published PCKh leaves out of the mean (HRNet's ``lib/dataset/mpii.py``, mmpose)."""
HEAD_BOX_FACTOR = 0.6
"""MPII's head size is this fraction of the diagonal of the annotated head box (``SC_BIAS`` of its evaluation)."""
AUC_PIXELS = 30.0
"""Largest distance of `auc` in image pixels (mmpose's default ``norm_factor``)."""
AUC_THRESHOLDS = 20
"""Number of thresholds of `auc`: 0 ... 0.95 of its largest distance (mmpose's default ``num_thrs``)."""


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
    sides = np.maximum(np.asarray(bbox, np.float64)[:, 2:].max(axis=1), np.finfo(np.float64).tiny)
    return distances(predictions, keypoints) / sides[:, None]


def distances(predictions: ArrayLike, keypoints: NDArray[np.floating]) -> NDArray[np.float64]:
    """Distance (N, K) of each prediction from its label in image pixels; NaN where unlabelled.

    Args:
        predictions: (N, K, 2) x, y in image pixels.
        keypoints: (N, K, 3) x, y in image pixels and visibility (0: unlabelled).
    """
    offsets = np.asarray(predictions, np.float64) - keypoints[..., :2]
    return np.where(keypoints[..., 2] > 0, np.hypot(offsets[..., 0], offsets[..., 1]), np.nan)


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
    return _percentages(normalised_distances(predictions, keypoints, bbox), thresholds, "pck", skeleton)


def _percentages(
    normalised: NDArray[np.float64],
    thresholds: Sequence[float],
    metric: str,
    skeleton: Skeleton,
    left_out: Sequence[str] = (),
) -> dict[str, Any]:
    """Percentages of distances (N, K) within thresholds; the mean is over the joints that are not left out."""
    labelled = ~np.isnan(normalised)
    meant = np.array([joint not in left_out for joint in skeleton.joints])
    result: dict[str, Any] = {"per_joint": {}}
    for threshold in thresholds:
        hits = np.where(labelled, normalised, np.inf) <= threshold
        name = f"{metric}@{threshold:g}"
        with np.errstate(invalid="ignore"):
            result[name] = float(100 * np.divide(hits[:, meant].sum(), labelled[:, meant].sum()))
            shares = 100 * np.divide(hits.sum(axis=0), labelled.sum(axis=0))
        result["per_joint"][name] = dict(zip(skeleton.joints, map(float, shares), strict=True))
    return result


def head_sizes(keypoints: NDArray[np.floating], skeleton: Skeleton) -> NDArray[np.float64]:
    """Lengths (N,) of the head segment in image pixels; NaN where one of its ends is unlabelled, or both are one point.

    Args:
        keypoints: (N, K, 3) x, y in image pixels and visibility.
        skeleton: The K joints, with a ``head``.
    """
    if skeleton.head is None:
        raise ValueError(f"the skeleton {skeleton.name} has no head segment")
    one, other = (keypoints[:, end] for end in skeleton.head)
    length = np.hypot(*(np.asarray(one, np.float64) - other)[:, :2].T)
    return np.where((one[:, 2] > 0) & (other[:, 2] > 0) & (length > 0), length, np.nan)


def head_sizes_of_boxes(boxes: ArrayLike) -> NDArray[np.float64]:
    """MPII's published head sizes (N,): 0.6 of the diagonal of head boxes (N, 4), x1, y1, x2, y2 in image pixels."""
    corners = np.asarray(boxes, np.float64)
    return HEAD_BOX_FACTOR * np.hypot(*(corners[:, 2:] - corners[:, :2]).T)


def pckh(
    predictions: ArrayLike,
    keypoints: NDArray[np.floating],
    sizes: NDArray[np.floating],
    thresholds: Sequence[float] = PCKH_THRESHOLDS,
    skeleton: Skeleton = COCO,
) -> dict[str, Any]:
    """Percentage of labelled joints predicted within a fraction of the head size (Andriluka et al., CVPR 2014).

    With the sizes of `head_sizes_of_boxes` this is MPII's published metric; with those of `head_sizes`, the length of
    the annotated head segment, it is close to it, not equal.

    Args:
        predictions: (N, K, 2) x, y in image pixels.
        keypoints: (N, K, 3) x, y in image pixels and visibility.
        sizes: (N,) head sizes in image pixels; instances with NaN do not count.
        thresholds: Fractions of the head size.
        skeleton: The K joints. `PCKH_LEFT_OUT` are left out of the mean.

    Returns:
        ``{"pckh@0.1": percent, ..., "per_joint": {"pckh@0.1": {joint: percent}}}``, as `pck`.
    """
    normalised = distances(predictions, keypoints) / np.asarray(sizes, np.float64)[:, None]
    return _percentages(normalised, thresholds, "pckh", skeleton, PCKH_LEFT_OUT)


def auc(
    predictions: ArrayLike,
    keypoints: NDArray[np.floating],
    pixels: float = AUC_PIXELS,
    thresholds: int = AUC_THRESHOLDS,
) -> float:
    """Area under the curve of PCK over its threshold in image pixels, in percent (mmpose's ``keypoint_auc``).

    The mean over the thresholds pixels * i / thresholds, i from 0, of the mean over the joints of the share of labels
    whose prediction is nearer than the threshold. Joints that nobody has labelled do not count. mmpose rounds the
    distances to float32 first; the results differ where a distance is within that rounding of a threshold.

    Args:
        predictions: (N, K, 2) x, y in image pixels.
        keypoints: (N, K, 3) x, y in image pixels and visibility.
        pixels: The largest distance.
        thresholds: Number of thresholds.
    """
    apart = distances(predictions, keypoints)
    labelled = (~np.isnan(apart)).sum(axis=0)
    at = pixels * np.arange(thresholds) / thresholds
    within = np.stack([np.sum(apart < threshold, axis=0) for threshold in at])
    known = labelled > 0
    return float(100 * np.mean(within[:, known] / labelled[known])) if known.any() else float("nan")


def epe(predictions: ArrayLike, keypoints: NDArray[np.floating]) -> float:
    """End-point error: the mean distance of labelled joints in image pixels; NaN without labels.

    Args:
        predictions: (N, K, 2) x, y in image pixels.
        keypoints: (N, K, 3) x, y in image pixels and visibility.
    """
    apart = distances(predictions, keypoints)
    return float(np.nanmean(apart)) if not np.isnan(apart).all() else float("nan")


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
