"""COCO's keypoint average precision and recall, computed by pycocotools from columns in memory.

Scores follow deep-high-resolution-net.pytorch (lib/dataset/coco.py, ``evaluate``): the score of an instance is the
score of its box times the mean of the joint scores above a threshold, and of instances of one image whose OKS is above
0.9 only the best is kept. `keypoint_ap` computes COCO's numbers, `keypoint_matches` the matches behind them, from which
average precisions of resampled images can be computed.

What other data sets' published evaluations do differently, with the same matching: `kdlib.metrics.protocols`.

Ids have no influence on the numbers. pycocotools takes annotation id 0 for "no match" (``dtMatches`` of
cocoeval.py), so images and annotations are numbered from 1 in what it reads: images in the ascending order of their
ids, which is COCO's own order and decides ties of scores, annotations in the order of their rows.
"""

import contextlib
import dataclasses
import io
import typing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdlib.geometry import box_to_region
from kdlib.metrics.matching import PAIRS_AT_ONCE, Detections, Truth, match_images, pairs, starts
from kdlib.metrics.protocols import Part, Protocol, protocol_of
from kdlib.skeletons.skeleton import COCO, Skeleton

JOINT_SCORE_THRESHOLD = 0.2
"""HRNet's threshold, for regressed heatmaps, whose background is not zero."""
NMS_THRESHOLD = 0.9
"""OKS above which two predictions of one image are duplicates."""
REGION_ASPECT = (3, 4)
"""Width : height of the padded boxes whose areas `suppress_duplicates` uses: that of HRNet's inputs on COCO."""
MOST_PER_IMAGE = 20
"""Predictions per image that count, ``maxDets`` of COCO's keypoint evaluation."""
METRICS = ("ap", "ap50", "ap75", "ap_medium", "ap_large", "ar", "ar50", "ar75", "ar_medium", "ar_large")
"""The ten metrics of COCO's keypoint evaluation, in pycocotools' order."""


class Columns(typing.Protocol):
    """Columns by name, such as a store's ``instances`` or `kdlib.inputs.annotations.Instances.columns`."""

    def __getitem__(self, name: str, /) -> Any:
        """The column of that name."""


def instance_scores(
    box_scores: NDArray[np.floating], joint_scores: NDArray[np.floating], threshold: float = JOINT_SCORE_THRESHOLD
) -> NDArray[np.float64]:
    """Score (N,) of each instance: its box score (N,) times the mean of its joint scores (N, K) above the threshold."""
    confident = joint_scores > threshold
    total = np.where(confident, joint_scores, 0.0).sum(axis=1, dtype=np.float64)
    return np.asarray(box_scores, np.float64) * total / np.maximum(confident.sum(axis=1), 1)


def suppress_duplicates(
    points: NDArray[np.floating],
    scores: NDArray[np.floating],
    areas: NDArray[np.floating],
    skeleton: Skeleton = COCO,
) -> NDArray[np.int64]:
    """Suppress duplicates within one image greedily by OKS.

    Args:
        points: (N, K, 2) x, y in image pixels.
        scores: (N,) scores of the instances.
        areas: (N,) areas of the padded boxes in square image pixels; OKS of a pair uses their mean.
        skeleton: The K joints and their sigmas.

    Returns:
        The indices of the instances to keep, best first.
    """
    return _without_duplicates(points, scores, areas, np.zeros(len(scores), np.int64), skeleton)


def keypoint_ap(
    ground_truth: Columns,
    instances: Columns,
    predictions: NDArray[np.floating],
    joint_scores: NDArray[np.floating],
    threshold: float = JOINT_SCORE_THRESHOLD,
    skeleton: Skeleton = COCO,
    aspect: tuple[int, int] = REGION_ASPECT,
) -> dict[str, float]:
    """COCO's keypoint metrics over the images of the ground truth.

    Args:
        ground_truth: Columns annotation_id, image_id, bbox, area, iscrowd, keypoints of every annotated instance of the
            images, including crowds and instances without labels.
        instances: Columns image_id, bbox, score of the N predicted instances.
        predictions: (N, K, 2) x, y in image pixels.
        joint_scores: (N, K) maxima of the heatmaps.
        threshold: Joint score above which a joint counts for the instance's score.
        skeleton: The K joints and their sigmas (pycocotools' ``kpt_oks_sigmas``). It chooses the `Protocol`.
        aspect: Width and height of the network's input, or their ratio: predictions of one image whose OKS is above
            `NMS_THRESHOLD` on the area of boxes of this aspect are duplicates.

    Returns:
        The ten `METRICS` in percent; NaN where COCO's value is -1, which means no ground truth of that kind.
    """
    found = _detections(ground_truth, instances, predictions, joint_scores, threshold, skeleton, aspect)
    truth = _truth(ground_truth, _image_ids(ground_truth, instances), protocol_of(skeleton))
    return _summarise(found, truth, skeleton.spreads)


def part_ap(
    ground_truth: Columns,
    instances: Columns,
    predictions: NDArray[np.floating],
    joint_scores: NDArray[np.floating],
    threshold: float = JOINT_SCORE_THRESHOLD,
    skeleton: Skeleton = COCO,
    aspect: tuple[int, int] = REGION_ASPECT,
) -> dict[str, float]:
    """AP and AR of the parts of a skeleton that its data set evaluates on their own.

    The arguments are those of `keypoint_ap`. The same predictions count, with the same scores, and the person's area.

    Returns:
        ``ap_PART`` and ``ar_PART`` in percent for each part of the skeleton's `Protocol`; empty if it has none.
    """
    protocol = protocol_of(skeleton)
    if not protocol.parts:
        return {}
    found = _detections(ground_truth, instances, predictions, joint_scores, threshold, skeleton, aspect)
    truth = _truth(ground_truth, _image_ids(ground_truth, instances), protocol)
    result: dict[str, float] = {}
    for part in protocol.parts:
        metrics = _summarise(*_of_part(found, truth, part), skeleton.spreads[part.joints])
        result |= {f"{name}_{part.name}": metrics[name] for name in ("ap", "ar")}
    return result


def _of_part(found: Detections, truth: Truth, part: Part) -> tuple[Detections, Truth]:
    """The same predictions and persons with the joints of a part only; the areas stay."""
    keypoints = truth.keypoints[:, part.joints]
    unlabelled = ~(keypoints[..., 2] > 0).any(axis=1)
    truth = truth._replace(keypoints=keypoints, uncounted=unlabelled | truth.crowd)
    return found._replace(points=found.points[:, part.joints]), truth


@dataclasses.dataclass(frozen=True)
class Matches:
    """D predictions in I images, the best first, at each of T OKS thresholds.

    Predictions that COCO ignores at a threshold, because they lie on a crowd or on an instance without labels, are
    neither true nor false positives there.
    """

    image_ids: NDArray[np.int64]
    """(I,) COCO image ids, ascending."""
    image: NDArray[np.int64]
    """(D,) the position of the prediction's image in ``image_ids``."""
    true: NDArray[np.bool_]
    """(T, D) True where the prediction matches a labelled instance."""
    false: NDArray[np.bool_]
    """(T, D) True where it matches nothing."""
    labelled: NDArray[np.int64]
    """(I,) number of labelled instances of each image."""
    recalls: NDArray[np.float64]
    """(101,) the recalls at which COCO samples precision."""

    def average_precision(self, counts: NDArray[np.integer]) -> NDArray[np.float64]:
        """Average precision in percent at each OKS threshold (T,); NaN where no instance is labelled.

        Args:
            counts: (I,) how often each image counts. With ones, the first value is COCO's AP50 and the mean its AP.
        """
        labelled = int((self.labelled * counts).sum())
        if not labelled:
            return np.full(len(self.true), np.nan)
        weights = counts[self.image]
        true, false = np.cumsum(self.true * weights, axis=1), np.cumsum(self.false * weights, axis=1)
        precision = true / (true + false + np.spacing(1))
        best_from_here = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        ends = np.pad(best_from_here, ((0, 0), (0, 1)))  # a recall that is never reached has precision 0
        reached = [np.searchsorted(row, self.recalls) for row in true / labelled]
        return 100 * np.array([row[at].mean() for row, at in zip(ends, reached, strict=True)])


def keypoint_matches(
    ground_truth: Columns,
    instances: Columns,
    predictions: NDArray[np.floating],
    joint_scores: NDArray[np.floating],
    threshold: float = JOINT_SCORE_THRESHOLD,
    skeleton: Skeleton = COCO,
    aspect: tuple[int, int] = REGION_ASPECT,
) -> Matches:
    """Match predictions with the ground truth, image by image, for average precisions of resampled images.

    The arguments are those of `keypoint_ap`. The images are those of the ground truth and of the instances.
    """
    from pycocotools.cocoeval import Params

    params = Params(iouType="keypoints")
    params.kpt_oks_sigmas = skeleton.spreads
    image_ids = _image_ids(ground_truth, instances)
    found = _detections(ground_truth, instances, predictions, joint_scores, threshold, skeleton, aspect)
    truth = _truth(ground_truth, image_ids, protocol_of(skeleton))
    result = match_images(found, truth, params)
    order = np.argsort(-found.scores, kind="stable")
    matched, ignored = result.matched[0][:, order], result.ignored[0][:, order]
    return Matches(
        image_ids,
        np.repeat(np.arange(len(image_ids)), np.diff(found.start))[order],
        matched & ~ignored,
        ~matched & ~ignored,
        np.diff(np.concatenate([[0], np.cumsum(~result.truth_ignored[0])])[truth.start]),
        np.asarray(params.recThrs),
    )


def _summarise(found: Detections, truth: Truth, sigmas: NDArray[np.float64]) -> dict[str, float]:
    """The ten `METRICS` in percent, accumulated and summarised by pycocotools from the matches found here."""
    from pycocotools.cocoeval import COCOeval

    evaluation = COCOeval(iouType="keypoints")
    params = evaluation.params
    params.kpt_oks_sigmas = sigmas
    result = match_images(found, truth, params)
    images = range(len(found.start) - 1)
    params.imgIds, params.catIds = list(images), [1]
    of_found = [slice(*found.start[i : i + 2]) for i in images]
    of_truth = [slice(*truth.start[i : i + 2]) for i in images]
    evaluation.evalImgs = [
        {
            "dtScores": found.scores[of_found[i]],
            "dtMatches": result.matched[area][:, of_found[i]],
            "dtIgnore": result.ignored[area][:, of_found[i]],
            "gtIgnore": result.truth_ignored[area][of_truth[i]],
        }
        for area in range(len(params.areaRng))
        for i in images
    ]
    evaluation._paramsEval = params
    with _quietly():
        evaluation.accumulate()
        evaluation.summarize()
    return {
        name: 100 * float(value) if value >= 0 else float("nan")
        for name, value in zip(METRICS, evaluation.stats, strict=True)
    }


def _quietly() -> contextlib.AbstractContextManager[Any]:
    """Suppress standard output: pycocotools prints its progress."""
    return contextlib.redirect_stdout(io.StringIO())


def _image_ids(ground_truth: Columns, instances: Columns) -> NDArray[np.int64]:
    """(I,) ids of all images, also of those with predictions and no annotation, ascending."""
    return np.union1d(np.asarray(ground_truth["image_id"], np.int64), np.asarray(instances["image_id"], np.int64))


def _detections(
    ground_truth: Columns,
    instances: Columns,
    predictions: NDArray[np.floating],
    joint_scores: NDArray[np.floating],
    threshold: float,
    skeleton: Skeleton,
    aspect: tuple[int, int],
) -> Detections:
    """The best predictions of each image with their scores, without duplicates; the arguments are `keypoint_ap`'s."""
    scores = instance_scores(np.asarray(instances["score"]), joint_scores, threshold)
    image_ids = _image_ids(ground_truth, instances)
    images = np.searchsorted(image_ids, np.asarray(instances["image_id"]))
    areas = box_to_region(instances["bbox"], aspect)[1].prod(axis=1)
    kept = _without_duplicates(predictions, scores, areas, images, skeleton)
    rank = np.arange(len(kept)) - starts(images[kept], len(image_ids))[images[kept]]
    kept = kept[rank < MOST_PER_IMAGE]
    points = np.asarray(predictions, np.float64)[kept]
    around = points[:, : protocol_of(skeleton).extent]
    extent = around.max(axis=1) - around.min(axis=1)
    return Detections(starts(images[kept], len(image_ids)), points, scores[kept], extent[:, 0] * extent[:, 1])


def _without_duplicates(
    points: NDArray[np.floating],
    scores: NDArray[np.floating],
    areas: NDArray[np.floating],
    images: NDArray[np.int64],
    skeleton: Skeleton,
) -> NDArray[np.int64]:
    """The rows to keep: image after image (N,), and the best of each image first. See `suppress_duplicates`."""
    order = np.lexsort((-np.asarray(scores), images))
    before = np.arange(len(order)) - np.searchsorted(images[order], images[order])
    later, earlier = pairs(np.arange(len(order)) - before, before)
    alike = np.zeros(len(later), np.bool_)
    variance = (2 * skeleton.spreads) ** 2
    for start in range(0, len(later), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        i, j = order[later[part]], order[earlier[part]]
        offsets = ((points[j] - points[i]) ** 2).sum(axis=-1)
        scale = (areas[j] + areas[i])[:, None] / 2 + np.spacing(1)
        alike[part] = np.exp(-offsets / variance / scale / 2).mean(axis=1) > NMS_THRESHOLD
    kept = np.ones(len(order), np.bool_)
    for i, j in zip(later[alike].tolist(), earlier[alike].tolist(), strict=True):  # in the order of the scores
        if kept[j]:
            kept[i] = False
    return order[kept].astype(np.int64)


def _truth(ground_truth: Columns, image_ids: NDArray[np.int64], protocol: Protocol) -> Truth:
    """The annotated persons in the order of their images, and of their rows within an image."""
    images = np.searchsorted(image_ids, np.asarray(ground_truth["image_id"]))
    order = np.argsort(images, kind="stable")
    keypoints = np.asarray(ground_truth["keypoints"], np.float64)[order]
    boxes = np.asarray(ground_truth["bbox"], np.float64)[order]
    crowd = np.asarray(ground_truth["iscrowd"])[order] != 0
    areas = np.asarray(ground_truth["area"], np.float64)[order]
    if protocol.box_area is not None:
        areas = boxes[:, 2] * boxes[:, 3] * protocol.box_area
    unlabelled = ~(keypoints[..., 2] > protocol.above).any(axis=1)
    return Truth(starts(images[order], len(image_ids)), keypoints, boxes, areas, crowd, unlabelled | crowd)
