"""COCO's keypoint average precision and recall, computed by pycocotools from columns in memory.

Scores follow deep-high-resolution-net.pytorch (lib/dataset/coco.py, ``evaluate``): the score of an instance is the
score of its box times the mean of the joint scores above a threshold, and of instances of one image whose OKS is above
0.9 only the best is kept. `keypoint_ap` computes COCO's numbers, `keypoint_matches` the matches behind them, from which
average precisions of resampled images can be computed.

Ids have no influence on the numbers. pycocotools takes annotation id 0 for "no match" (``dtMatches`` of
cocoeval.py), so images and annotations are numbered from 1 in what it reads: images in the ascending order of their
ids, which is COCO's own order and decides ties of scores, annotations in the order of their rows.
"""

import contextlib
import dataclasses
import io
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from kdlib.geometry import box_to_region
from kdlib.skeleton import JOINTS, SIGMAS

JOINT_SCORE_THRESHOLD = 0.2
"""HRNet's threshold, for regressed heatmaps, whose background is not zero."""
NMS_THRESHOLD = 0.9
"""OKS above which two predictions of one image are duplicates."""
REGION_ASPECT = (3, 4)
"""Width : height of the padded boxes whose areas `suppress_duplicates` uses, as for inputs on COCO."""
METRICS = ("ap", "ap50", "ap75", "ap_medium", "ap_large", "ar", "ar50", "ar75", "ar_medium", "ar_large")
"""The ten metrics of COCO's keypoint evaluation, in pycocotools' order."""


class Columns(Protocol):
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
    points: NDArray[np.floating], scores: NDArray[np.floating], areas: NDArray[np.floating]
) -> NDArray[np.int64]:
    """Suppress duplicates within one image greedily by OKS.

    Args:
        points: (N, 17, 2) x, y in image pixels.
        scores: (N,) scores of the instances.
        areas: (N,) areas of the padded boxes in square image pixels; OKS of a pair uses their mean.

    Returns:
        The indices of the instances to keep, best first.
    """
    kept: list[int] = []
    variance = (2 * SIGMAS) ** 2
    for i in np.argsort(-np.asarray(scores), kind="stable"):
        offsets = ((points[kept] - points[i]) ** 2).sum(axis=-1)
        scale = (areas[kept] + areas[i])[:, None] / 2 + np.spacing(1)
        if not (np.exp(-offsets / variance / scale / 2).mean(axis=1) > NMS_THRESHOLD).any():
            kept.append(int(i))
    return np.array(kept, np.int64)


def keypoint_ap(
    ground_truth: Columns,
    instances: Columns,
    predictions: NDArray[np.floating],
    joint_scores: NDArray[np.floating],
    threshold: float = JOINT_SCORE_THRESHOLD,
) -> dict[str, float]:
    """COCO's keypoint metrics over the images of the ground truth.

    Args:
        ground_truth: Columns annotation_id, image_id, bbox, area, iscrowd, keypoints of every annotated instance of the
            images, including crowds and instances without labels.
        instances: Columns image_id, bbox, score of the N predicted instances.
        predictions: (N, 17, 2) x, y in image pixels.
        joint_scores: (N, 17) maxima of the heatmaps.
        threshold: Joint score above which a joint counts for the instance's score.

    Returns:
        The ten `METRICS` in percent; NaN where COCO's value is -1, which means no ground truth of that kind.
    """
    evaluation = _evaluate(ground_truth, instances, predictions, joint_scores, threshold)
    with _quietly():
        evaluation.accumulate()
        evaluation.summarize()
    return {
        name: 100 * float(value) if value >= 0 else float("nan")
        for name, value in zip(METRICS, evaluation.stats, strict=True)
    }


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

    @classmethod
    def from_evaluation(cls, evaluation: Any, image_ids: NDArray[np.int64]) -> Self:
        """Take the matches out of an evaluated `pycocotools.cocoeval.COCOeval` of one category.

        Args:
            evaluation: Its images are numbered 1, 2, ...
            image_ids: (I,) the ids of these images.
        """
        images = evaluation.params.imgIds
        of_all_sizes = evaluation.evalImgs[: len(images)]
        evaluated = [(i, result) for i, result in enumerate(of_all_sizes) if result is not None]
        labelled = np.zeros(len(images), np.int64)
        for i, result in evaluated:
            labelled[i] = np.count_nonzero(np.asarray(result["gtIgnore"]) == 0)
        thresholds = len(evaluation.params.iouThrs)

        def of_predictions(name: str) -> NDArray[Any]:
            parts = [np.asarray(result[name]).reshape(thresholds, -1) for _, result in evaluated]
            return np.concatenate([np.zeros((thresholds, 0)), *parts], axis=1) != 0

        scores = np.concatenate([np.zeros(0), *(result["dtScores"] for _, result in evaluated)])
        image = np.concatenate([np.zeros(0, np.int64), *(np.full(len(r["dtScores"]), i) for i, r in evaluated)])
        order = np.argsort(-scores, kind="stable")
        matched, ignored = of_predictions("dtMatches")[:, order], of_predictions("dtIgnore")[:, order]
        true, false = matched & ~ignored, ~matched & ~ignored
        recalls = np.asarray(evaluation.params.recThrs)
        return cls(image_ids, image[order], true, false, labelled, recalls)

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
) -> Matches:
    """Match predictions with the ground truth, image by image, for average precisions of resampled images.

    The arguments are those of `keypoint_ap`. The images are those of the ground truth and of the instances.
    """
    evaluation = _evaluate(ground_truth, instances, predictions, joint_scores, threshold)
    return Matches.from_evaluation(evaluation, _image_ids(ground_truth, instances))


def _evaluate(
    ground_truth: Columns,
    instances: Columns,
    predictions: NDArray[np.floating],
    joint_scores: NDArray[np.floating],
    threshold: float,
) -> Any:
    """A `COCOeval` of pycocotools after ``evaluate`` and before ``accumulate``."""
    scores = instance_scores(np.asarray(instances["score"]), joint_scores, threshold)
    image_ids = _image_ids(ground_truth, instances)
    results = _results(instances, predictions, scores, image_ids)
    document = _document(ground_truth, image_ids)
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with _quietly():
        truth = COCO()
        truth.dataset = document
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results) if results else COCO(), "keypoints")
        evaluation.params.imgIds = [image["id"] for image in document["images"]]
        evaluation.evaluate()
    return evaluation


def _quietly() -> contextlib.AbstractContextManager[Any]:
    """Suppress standard output: pycocotools prints its progress."""
    return contextlib.redirect_stdout(io.StringIO())


def _image_ids(ground_truth: Columns, instances: Columns) -> NDArray[np.int64]:
    """(I,) ids of all images, also of those with predictions and no annotation, ascending."""
    return np.union1d(np.asarray(ground_truth["image_id"], np.int64), np.asarray(instances["image_id"], np.int64))


def _results(
    instances: Columns,
    predictions: NDArray[np.floating],
    scores: NDArray[np.floating],
    image_ids: NDArray[np.int64],
) -> list[dict[str, Any]]:
    """Predictions of N instances with their scores (N,) in COCO's result format, without duplicates."""
    numbers = 1 + np.searchsorted(image_ids, np.asarray(instances["image_id"]))
    areas = box_to_region(instances["bbox"], REGION_ASPECT)[1].prod(axis=1)
    keypoints = np.concatenate([predictions, np.ones((*predictions.shape[:2], 1))], axis=2)
    by_image = np.argsort(numbers, kind="stable")
    results = []
    for rows_of_image in np.split(by_image, np.flatnonzero(np.diff(numbers[by_image])) + 1):
        kept = suppress_duplicates(predictions[rows_of_image], scores[rows_of_image], areas[rows_of_image])
        for i in rows_of_image[kept]:
            results.append(
                {
                    "image_id": int(numbers[i]),
                    "category_id": 1,
                    "keypoints": keypoints[i].reshape(-1).tolist(),
                    "score": float(scores[i]),
                }
            )
    return results


def _document(ground_truth: Columns, image_ids: NDArray[np.int64]) -> dict[str, Any]:
    """Ground truth in COCO's annotation format with images and annotations numbered from 1."""
    keypoints = np.asarray(ground_truth["keypoints"], np.float64)
    numbers = 1 + np.searchsorted(image_ids, np.asarray(ground_truth["image_id"]))
    boxes = np.asarray(ground_truth["bbox"], np.float64)
    annotations = [
        {
            "id": i + 1,
            "image_id": int(numbers[i]),
            "category_id": 1,
            "bbox": boxes[i].tolist(),
            "area": float(ground_truth["area"][i]),
            "iscrowd": int(ground_truth["iscrowd"][i]),
            "keypoints": keypoints[i].reshape(-1).tolist(),
            "num_keypoints": int((keypoints[i, :, 2] > 0).sum()),
        }
        for i in range(len(keypoints))
    ]
    images = [{"id": number} for number in range(1, len(image_ids) + 1)]
    category = {"id": 1, "name": "person", "keypoints": list(JOINTS)}
    return {"images": images, "annotations": annotations, "categories": [category]}
