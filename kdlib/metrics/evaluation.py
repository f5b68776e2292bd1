"""Computing the metrics of an evaluation from heatmaps, in the same way for a store's teacher and for every student."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kdcli.progress import Progress, no_progress
from kdlib.geometry import compose_affines, invert_affine, scale_affine, transform_points
from kdlib.heatmaps import DECODERS, flip_average
from kdlib.machine.process import available_cores
from kdlib.metrics.coco import JOINT_SCORE_THRESHOLD, REGION_ASPECT, Columns, keypoint_ap, part_ap
from kdlib.metrics.keypoints import auc, epe, head_sizes, pck, pckh
from kdlib.skeletons.skeleton import COCO, DEFAULT_SIGMA, Skeleton

BATCH: Final = 64
"""Instances whose stored heatmaps a thread holds in memory at the same time."""
MAX_THREADS: Final = 8
"""More threads gain little, because Python runs a fifth of the work; each needs 80 MB for maps of 64x48 pixels."""


def decode_to_image(
    heatmaps: NDArray[np.floating], affines: NDArray[np.float64], stride: float, decoder: str = "argmax"
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Decode heatmaps into image pixels.

    Args:
        heatmaps: (B, K, H, W).
        affines: (B, 2, 3) image pixels to network input pixels.
        stride: Input pixels per heatmap pixel.
        decoder: ``argmax`` (quarter-pixel offset) or ``dark``.

    Returns:
        Points (B, K, 2) in image pixels and the maxima (B, K) of the heatmaps.
    """
    points, scores = DECODERS[decoder](heatmaps)
    back = invert_affine(compose_affines(scale_affine(1 / stride), affines))
    return transform_points(points, back), scores


def teacher_predictions(
    heatmaps: Callable[[NDArray[np.int64], Sequence[int]], NDArray[np.floating]],
    view_affines: NDArray[np.float64],
    view_flip: NDArray[np.generic],
    stride: float,
    decoder: str = "argmax",
    *,
    skeleton: Skeleton,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Predictions of a store's teacher: stored view 0, or its mean with stored view 1 if that is mirrored.

    Args:
        heatmaps: Function from rows (n,) and v stored views to heatmaps (n, v, K, H, W), such as the ``heatmaps`` of a
            store. Several threads call it.
        view_affines: (N, V, 2, 3) image pixels to teacher input pixels.
        view_flip: (V,) non-zero for mirrored views.
        stride: Teacher input pixels per heatmap pixel.
        decoder: ``argmax`` or ``dark``.
        skeleton: The K joints.
        threads: Threads that read and decode heatmaps; None takes one per core. At most `MAX_THREADS` are
            used, and the predictions do not depend on their number.
        progress: Called with the number of decoded instances, and N.

    Returns:
        Points (N, K, 2) in image pixels and the maxima (N, K) of the heatmaps.
    """
    mirrored = len(view_flip) > 1 and bool(view_flip[1])
    total = len(view_affines)

    def predict(start: int) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        rows = np.arange(start, min(start + BATCH, total))
        maps = heatmaps(rows, (0, 1) if mirrored else (0,))
        averaged = flip_average(maps[:, 0], maps[:, 1], skeleton.flip_order) if mirrored else maps[:, 0]
        return decode_to_image(averaged, view_affines[rows, 0], stride, decoder)

    points, scores = [], []
    pool = ThreadPoolExecutor(min(MAX_THREADS, threads or available_cores()), "decode")
    try:
        for batch_points, batch_scores in pool.map(predict, range(0, total, BATCH)):
            points.append(batch_points)
            scores.append(batch_scores)
            progress(min(len(points) * BATCH, total), total)
    finally:  # after an error or Ctrl-C, what has not begun is not computed
        pool.shutdown(cancel_futures=True)
    return np.concatenate(points), np.concatenate(scores)


def evaluate_points(
    ground_truth: Columns,
    instances: Columns,
    points: NDArray[np.floating],
    joint_scores: NDArray[np.floating],
    threshold: float = JOINT_SCORE_THRESHOLD,
    skeleton: Skeleton = COCO,
    aspect: tuple[int, int] = REGION_ASPECT,
) -> dict[str, Any]:
    """AP, AR and PCK of predicted points.

    Args:
        ground_truth: Columns of every annotated instance of the images, see `kdlib.metrics.coco.keypoint_ap`.
        instances: Columns image_id, bbox, score, keypoints of the N predicted instances.
        points: (N, K, 2) x, y in image pixels.
        joint_scores: (N, K) maxima of the heatmaps.
        threshold: Joint score above which a joint counts for the instance's score.
        skeleton: The K joints and their sigmas.
        aspect: Width and height of the teacher's input, or their ratio, see `kdlib.metrics.coco.keypoint_ap`.

    Returns:
        The ten `kdlib.metrics.coco.METRICS` and the entries of `kdlib.metrics.keypoints.pck`, in percent, and
        ``instances``, which is N. For skeletons other than COCO's also ``auc`` in percent, ``epe`` in image pixels, and
        ``oks_sigmas``, the source of the sigmas; AP and AR of the parts, if the skeleton's data set evaluates these;
        and the entries of `kdlib.metrics.keypoints.pckh`, if the skeleton has a head.
    """
    keypoints, boxes = np.asarray(instances["keypoints"]), np.asarray(instances["bbox"])
    percentages = pck(points, keypoints, boxes, skeleton=skeleton)
    compared = (ground_truth, instances, points, joint_scores, threshold, skeleton, aspect)
    metrics = {**keypoint_ap(*compared), **percentages, "instances": len(points)}
    if skeleton == COCO:
        return metrics
    metrics |= {**part_ap(*compared), "auc": auc(points, keypoints), "epe": epe(points, keypoints)}
    if skeleton.head is not None:
        of_head = pckh(points, keypoints, head_sizes(keypoints, skeleton), skeleton=skeleton)
        metrics |= {**of_head, "per_joint": metrics["per_joint"] | of_head["per_joint"]}
    return {**metrics, "oks_sigmas": describe_sigmas(skeleton)}


def describe_sigmas(skeleton: Skeleton) -> str:
    """Where the sigmas of a skeleton come from: ``published: SOURCE``, or that they are assumed."""
    if skeleton.sigmas_source:
        return f"published: {skeleton.sigmas_source}"
    return f"assumed: {DEFAULT_SIGMA:g} for all joints" if _are_assumed(skeleton) else "given without a source"


def sigmas_note(skeleton: Skeleton) -> str | None:
    """A sentence about the sigmas behind OKS, AP and AR of a skeleton; None for COCO's."""
    if skeleton == COCO:
        return None
    if skeleton.sigmas_source:
        return f"OKS, AP and AR use the sigmas of {skeleton.name}, published by {skeleton.sigmas_source}."
    given = f"assumed to be {DEFAULT_SIGMA:g} for all joints" if _are_assumed(skeleton) else "not published"
    return f"OKS, AP and AR are no data set's official metrics: the sigmas of {skeleton.name} are {given}."


def _are_assumed(skeleton: Skeleton) -> bool:
    return set(skeleton.sigmas) == {DEFAULT_SIGMA}
