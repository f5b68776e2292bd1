"""AP and its matches are those of pycocotools to the last bit, also for crowds, ties, duplicates and full images."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kdlib.geometry import box_to_region
from kdlib.metrics.coco import METRICS, instance_scores, keypoint_ap, keypoint_matches, suppress_duplicates
from kdlib.skeletons.skeleton import COCO as SKELETON

VARIANCES = (2 * SKELETON.spreads) ** 2


def crowded(seed, dtype=np.float64, images=40, labelled=260, others=120):
    """Columns of persons, crowds and unlabelled persons, and predictions with ties and duplicates.

    Image 0 has 30 predictions, of which COCO counts 20, the last image has predictions and no annotated person, and the
    image before it has annotated persons and no prediction. The rows of an image are not neighbours.
    """
    rng = np.random.default_rng(seed)
    count = labelled + others
    image = rng.integers(0, images - 1, count)
    image[:30], image[30] = 0, images - 2
    boxes = np.concatenate([rng.uniform(0, 300, (count, 2)), np.exp(rng.normal(4.2, 0.9, (count, 2)))], axis=1)
    keypoints = np.zeros((count, 17, 3))
    keypoints[..., :2] = boxes[:, None, :2] + rng.random((count, 17, 2)) * boxes[:, None, 2:]
    keypoints[..., 2] = rng.choice([0, 1, 2], (count, 17), p=[0.4, 0.1, 0.5])
    keypoints[np.arange(count), rng.integers(0, 17, count), 2] = 2
    keypoints[labelled:, :, 2] = 0
    crowd = np.zeros(count, np.uint8)
    crowd[::11] = 1
    truth = {
        "annotation_id": rng.permutation(count),
        "image_id": image * 3 - 20,
        "bbox": boxes,
        "area": boxes[:, 2] * boxes[:, 3] * 0.53,
        "iscrowd": crowd,
        "keypoints": keypoints.astype(np.float32),
    }
    rows = np.flatnonzero(image != images - 2)
    rows = np.concatenate([rows, rng.choice(rows, 40), [5, 5, 5]])
    found = {name: truth[name][rows] for name in ("image_id", "bbox")}
    found["image_id"][-3:] = (images - 1) * 3 - 20
    found["score"] = rng.choice([0.5, 0.75, 1.0], len(rows))
    spread = rng.gamma(1, 0.06, (len(rows), 1, 1)) * np.sqrt(truth["area"][rows])[:, None, None]
    points = (keypoints[rows, :, :2] + rng.normal(size=(len(rows), 17, 2)) * spread).astype(dtype)
    points[-2] = points[-1]
    return truth, found, points, rng.choice([0.1, 0.5, 0.9], (len(rows), 17)).astype(np.float32)


def kept_rows(found, points, scores):
    """The predictions without duplicates, image by image, as HRNet's ``oks_nms`` chooses them."""
    areas = box_to_region(found["bbox"], (3, 4))[1].prod(axis=1)
    kept = []
    for image in np.unique(found["image_id"]):
        rows = np.flatnonzero(found["image_id"] == image)
        chosen = []
        for i in rows[np.argsort(-scores[rows], kind="stable")]:
            distances = ((points[chosen] - points[i]) ** 2).sum(axis=-1)
            scale = (areas[chosen] + areas[i])[:, None] / 2 + np.spacing(1)
            if not (np.exp(-distances / VARIANCES / scale / 2).mean(axis=1) > 0.9).any():
                chosen.append(i)
        kept += chosen
    return np.array(kept)


def evaluated(truth, found, points, joint_scores):
    """The same predictions, evaluated by pycocotools itself, image by image."""
    scores = instance_scores(found["score"], joint_scores)
    ids = np.union1d(truth["image_id"], found["image_id"])
    keypoints = np.concatenate([points, np.ones((len(points), 17, 1))], axis=2)
    annotations = [
        {
            "id": i + 1,
            "image_id": int(np.searchsorted(ids, truth["image_id"][i])),
            "category_id": 1,
            "bbox": truth["bbox"][i].tolist(),
            "area": float(truth["area"][i]),
            "iscrowd": int(truth["iscrowd"][i]),
            "keypoints": truth["keypoints"][i].astype(float).ravel().tolist(),
            "num_keypoints": int((truth["keypoints"][i, :, 2] > 0).sum()),
        }
        for i in range(len(truth["bbox"]))
    ]
    results = [
        {
            "image_id": int(np.searchsorted(ids, found["image_id"][i])),
            "category_id": 1,
            "keypoints": keypoints[i].ravel().tolist(),
            "score": float(scores[i]),
        }
        for i in kept_rows(found, points, scores)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i} for i in range(len(ids))],
            "annotations": annotations,
            "categories": [{"id": 1, "name": "person"}],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize(("seed", "dtype"), [(0, np.float64), (1, np.float32), (2, np.float64)])
def test_every_metric_and_every_match_is_that_of_pycocotools_to_the_last_bit(seed, dtype):
    truth, found, points, scores = crowded(seed, dtype)
    expected = evaluated(truth, found, points, scores)
    ours = keypoint_ap(truth, found, points, scores)
    assert 5 < ours["ap"] < 95
    assert [ours[name] for name in METRICS] == [100 * value for value in expected.stats]

    of_all_sizes = expected.evalImgs[: len(expected.params.imgIds)]
    matched = np.concatenate([result["dtMatches"] != 0 for result in of_all_sizes], axis=1)
    ignored = np.concatenate([result["dtIgnore"] for result in of_all_sizes], axis=1)
    order = np.argsort(-np.concatenate([result["dtScores"] for result in of_all_sizes]), kind="stable")
    matches = keypoint_matches(truth, found, points, scores)
    np.testing.assert_array_equal(matches.true, (matched & ~ignored)[:, order])
    np.testing.assert_array_equal(matches.false, (~matched & ~ignored)[:, order])
    assert matches.labelled.tolist() == [int((result["gtIgnore"] == 0).sum()) for result in of_all_sizes]
    image = np.repeat(np.arange(len(of_all_sizes)), [len(result["dtScores"]) for result in of_all_sizes])
    np.testing.assert_array_equal(matches.image, image[order])
    assert np.bincount(image)[0] == 20  # more are not counted


def test_duplicates_of_one_image_are_those_of_a_greedy_search():
    """Chains too: a prediction that is a duplicate of a suppressed one only is kept."""
    rng = np.random.default_rng(0)
    person = rng.uniform(0, 100, (17, 2))
    points = person + np.linspace(0, 30, 40)[:, None, None] + rng.normal(size=(40, 17, 2))
    found = {"image_id": np.zeros(40, int), "bbox": np.tile([0.0, 0, 90, 110], (40, 1))}
    scores = rng.choice([0.2, 0.4, 0.6], 40)
    kept = suppress_duplicates(points, scores, box_to_region(found["bbox"], (3, 4))[1].prod(axis=1))
    assert 1 < len(kept) < 20
    assert kept.tolist() == kept_rows(found, points, scores).tolist()
