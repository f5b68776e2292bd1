"""COCO's keypoint average precision and recall, through pycocotools, from columns in memory.

Scores follow deep-high-resolution-net.pytorch (lib/dataset/coco.py, ``evaluate``): a person's score is the box's times
the mean of the joint scores above a threshold, and near-duplicates of one image are suppressed by OKS above 0.9.
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
"""HRNet's, for maps that were regressed: the background of such a map is not zero."""


NMS_THRESHOLD = 0.9


REGION_ASPECT = (3, 4)
"""Width to height of the padded boxes whose area the suppression uses; every published COCO input has it."""


METRICS = ("ap", "ap50", "ap75", "ap_medium", "ap_large", "ar", "ar50", "ar75", "ar_medium", "ar_large")
"""The ten numbers of COCO's keypoint evaluation, in pycocotools' order."""


class Columns(Protocol):
    """Columns by name, as a store or `kdlib.annotations.Persons.columns` gives them."""

    def __getitem__(self, name: str, /) -> Any:
        """The column of that name."""


def person_scores(
    box_scores: NDArray[np.floating], joint_scores: NDArray[np.floating], threshold: float = JOINT_SCORE_THRESHOLD
) -> NDArray[np.float64]:
    """Confidence of each person: box score (N,) times the mean of its joint scores (N, K) above the threshold."""
    confident = joint_scores > threshold
    total = np.where(confident, joint_scores, 0.0).sum(axis=1, dtype=np.float64)
    return np.asarray(box_scores, np.float64) * total / np.maximum(confident.sum(axis=1), 1)


def suppress(
    points: NDArray[np.floating], scores: NDArray[np.floating], areas: NDArray[np.floating]
) -> NDArray[np.int64]:
    """Greedy OKS suppression within one image: rows to keep, best first.

    Args:
        points: (N, 17, 2) image pixels.
        scores: (N,).
        areas: (N,) padded boxes in square image pixels; a pair is compared at its mean area.
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
        ground_truth: Columns annotation_id, image_id, bbox, area, iscrowd, keypoints of every annotated person of the
            images, crowds and unlabelled ones too.
        instances: Columns image_id, bbox, score of the persons that were predicted.
        predictions: (N, 17, 2) image pixels, a row an instance.
        joint_scores: (N, 17) heatmap heights.
        threshold: Of the joint scores that make a person's score.

    Returns:
        The ten `METRICS` in percent; NaN where COCO says -1 (no ground truth of that kind).
    """
    evaluation = _evaluated(ground_truth, instances, predictions, joint_scores, threshold)
    with _quietly():
        evaluation.accumulate()
        evaluation.summarize()
    return {
        name: 100 * float(value) if value >= 0 else float("nan")
        for name, value in zip(METRICS, evaluation.stats, strict=True)
    }


@dataclasses.dataclass(frozen=True)
class Matches:
    """Predictions of D persons in I pictures, the most confident first, at each of T OKS thresholds.

    Predictions that COCO leaves out at a threshold (they lie on a crowd or on a person without labels) are neither
    ``found`` nor ``wrong`` there.
    """

    image_ids: NDArray[np.int64]
    """(I,) the pictures, ascending."""
    picture: NDArray[np.int64]
    """(D,) position of the prediction's picture, 0 to I - 1."""
    found: NDArray[np.bool_]
    """(T, D) a labelled person was found."""
    wrong: NDArray[np.bool_]
    """(T, D) nobody was there."""
    persons: NDArray[np.int64]
    """(I,) labelled persons of each picture."""
    recalls: NDArray[np.float64]
    """Where precision is looked at."""

    @classmethod
    def of(cls, evaluation: Any) -> Self:
        """Take them from a `COCOeval` of one category that was evaluated."""
        images = evaluation.params.imgIds
        of_all_sizes = evaluation.evalImgs[: len(images)]
        seen = [(i, found) for i, found in enumerate(of_all_sizes) if found is not None]
        persons = np.zeros(len(images), np.int64)
        for i, found in seen:
            persons[i] = np.count_nonzero(np.asarray(found["gtIgnore"]) == 0)
        thresholds = len(evaluation.params.iouThrs)

        def of_predictions(name: str) -> NDArray[Any]:
            parts = [np.asarray(found[name]).reshape(thresholds, -1) for _, found in seen]
            return np.concatenate([np.zeros((thresholds, 0)), *parts], axis=1) != 0

        scores = np.concatenate([np.zeros(0), *(found["dtScores"] for _, found in seen)])
        picture = np.concatenate([np.zeros(0, np.int64), *(np.full(len(f["dtScores"]), i) for i, f in seen)])
        order = np.argsort(-scores, kind="stable")
        matched, ignored = of_predictions("dtMatches")[:, order], of_predictions("dtIgnore")[:, order]
        found, wrong = matched & ~ignored, ~matched & ~ignored
        recalls = np.asarray(evaluation.params.recThrs)
        return cls(np.asarray(images, np.int64), picture[order], found, wrong, persons, recalls)

    def average_precision(self, counts: NDArray[np.integer]) -> NDArray[np.float64]:
        """Average precision in percent at each OKS threshold (T,); NaN where no person is labelled.

        Args:
            counts: (I,) how often each picture counts. Ones give COCO's numbers: AP50 is the first, AP their mean.
        """
        people = int((self.persons * counts).sum())
        if not people:
            return np.full(len(self.found), np.nan)
        weights = counts[self.picture]
        found, wrong = np.cumsum(self.found * weights, axis=1), np.cumsum(self.wrong * weights, axis=1)
        precision = found / (found + wrong + np.spacing(1))
        best_from_here = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        ends = np.pad(best_from_here, ((0, 0), (0, 1)))  # recall that is never reached has precision 0
        reached = [np.searchsorted(row, self.recalls) for row in found / people]
        return 100 * np.array([row[at].mean() for row, at in zip(ends, reached, strict=True)])


def keypoint_matches(
    ground_truth: Columns,
    instances: Columns,
    predictions: NDArray[np.floating],
    joint_scores: NDArray[np.floating],
    threshold: float = JOINT_SCORE_THRESHOLD,
) -> Matches:
    """Which predictions find a person, picture by picture, for average precisions of weighted pictures.

    The arguments are those of `keypoint_ap`. The pictures are those of ground truth and instances, by ascending id.
    """
    return Matches.of(_evaluated(ground_truth, instances, predictions, joint_scores, threshold))


def _evaluated(
    ground_truth: Columns,
    instances: Columns,
    predictions: NDArray[np.floating],
    joint_scores: NDArray[np.floating],
    threshold: float,
) -> Any:
    """An evaluation of pycocotools with predictions and persons matched and nothing summed up yet."""
    scores = person_scores(np.asarray(instances["score"]), joint_scores, threshold)
    results = _results(instances, predictions, scores)
    document = _document(ground_truth, np.asarray(instances["image_id"]))
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with _quietly():
        truth = COCO()
        truth.dataset = document
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results) if results else COCO(), "keypoints")
        evaluation.params.imgIds = sorted({image["id"] for image in document["images"]})
        evaluation.evaluate()
    return evaluation


def _quietly() -> contextlib.AbstractContextManager[Any]:
    """Nothing on the terminal: pycocotools reports its progress by print."""
    return contextlib.redirect_stdout(io.StringIO())


def _results(
    instances: Columns, predictions: NDArray[np.floating], scores: NDArray[np.floating]
) -> list[dict[str, Any]]:
    """Predictions of N persons with their scores (N,) in COCO's result format, near-duplicates removed."""
    image_ids = np.asarray(instances["image_id"])
    areas = box_to_region(instances["bbox"], REGION_ASPECT)[1].prod(axis=1)
    rows = np.concatenate([predictions, np.ones((*predictions.shape[:2], 1))], axis=2)
    results = []
    for image_id in np.unique(image_ids):
        (of_image,) = np.nonzero(image_ids == image_id)
        for i in of_image[suppress(predictions[of_image], scores[of_image], areas[of_image])]:
            keypoints = rows[i].reshape(-1).tolist()
            results.append(
                {
                    "image_id": int(image_id),
                    "category_id": 1,
                    "keypoints": keypoints,
                    "score": float(scores[i]),
                }
            )
    return results


def _document(ground_truth: Columns, predicted_images: NDArray[np.integer]) -> dict[str, Any]:
    """Ground truth in COCO's annotation format; a predicted person in an image without one is a false positive."""
    keypoints = np.asarray(ground_truth["keypoints"], np.float64)
    boxes = np.asarray(ground_truth["bbox"], np.float64)
    annotations = [
        {
            "id": int(ground_truth["annotation_id"][i]),
            "image_id": int(ground_truth["image_id"][i]),
            "category_id": 1,
            "bbox": boxes[i].tolist(),
            "area": float(ground_truth["area"][i]),
            "iscrowd": int(ground_truth["iscrowd"][i]),
            "keypoints": keypoints[i].reshape(-1).tolist(),
            "num_keypoints": int((keypoints[i, :, 2] > 0).sum()),
        }
        for i in range(len(keypoints))
    ]
    images = [{"id": int(i)} for i in np.union1d(np.asarray(ground_truth["image_id"]), predicted_images)]
    category = {"id": 1, "name": "person", "keypoints": list(JOINTS)}
    return {"images": images, "annotations": annotations, "categories": [category]}
