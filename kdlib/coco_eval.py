"""COCO's keypoint average precision and recall, through pycocotools, from columns in memory.

Scores follow deep-high-resolution-net.pytorch (lib/dataset/coco.py, ``evaluate``): a person's score is the box's times
the mean of the joint scores above a threshold, and near-duplicates of one image are suppressed by OKS above 0.9.
"""

import contextlib
import io
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kdlib.coco_matches import Matches
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
