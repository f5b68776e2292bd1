"""PCK and OKS against loops and pycocotools; average precision against pycocotools run on files."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kdlib.metrics.coco import METRICS, instance_scores, keypoint_ap, keypoint_matches, suppress_duplicates
from kdlib.metrics.evaluation import evaluate_points
from kdlib.metrics.keypoints import auc, epe, head_sizes, head_sizes_of_boxes, oks, pck, pckh
from kdlib.skeletons.skeleton import COCO as SKELETON
from kdlib.skeletons.skeleton import Skeleton


def persons(count=30, seed=0):
    """Columns of persons of whom some joints are unlabelled, predictions beside their joints, and joint scores."""
    rng = np.random.default_rng(seed)
    boxes = np.concatenate([rng.uniform(0, 100, (count, 2)), rng.uniform(40, 160, (count, 2))], axis=1)
    keypoints = np.zeros((count, 17, 3), np.float32)
    keypoints[..., :2] = boxes[:, None, :2] + rng.random((count, 17, 2)) * boxes[:, None, 2:]
    keypoints[..., 2] = rng.choice([0, 1, 2], (count, 17), p=[0.3, 0.2, 0.5])
    keypoints[..., 2][:, 0] = 2
    keypoints[keypoints[..., 2] == 0] = 0
    columns = {
        "annotation_id": np.arange(1, count + 1),
        "image_id": np.repeat(np.arange(100, 100 + count // 3), 3)[:count],
        "bbox": boxes,
        "area": boxes[:, 2] * boxes[:, 3] * 0.53,
        "iscrowd": np.zeros(count, np.uint8),
        "keypoints": keypoints,
        "score": rng.uniform(0.5, 1, count),
    }
    predictions = keypoints[..., :2] + rng.normal(size=(count, 17, 2)) * 0.06 * np.sqrt(columns["area"])[:, None, None]
    return columns, predictions, rng.uniform(0, 1, (count, 17)).astype(np.float32)


def coco_json(columns):
    return {
        "images": [{"id": int(i)} for i in np.unique(columns["image_id"])],
        "categories": [{"id": 1, "name": "person", "keypoints": ["k"] * 17, "skeleton": []}],
        "annotations": [
            {
                "id": int(columns["annotation_id"][i]),
                "image_id": int(columns["image_id"][i]),
                "category_id": 1,
                "bbox": columns["bbox"][i].tolist(),
                "area": float(columns["area"][i]),
                "iscrowd": int(columns["iscrowd"][i]),
                "keypoints": columns["keypoints"][i].astype(float).ravel().tolist(),
                "num_keypoints": int((columns["keypoints"][i, :, 2] > 0).sum()),
            }
            for i in range(len(columns["annotation_id"]))
        ],
    }


FACE = Skeleton("face", ("nose", "left_eye", "right_eye"))


def test_pck_counts_joints_within_the_longer_side_and_treats_both_axes_alike():
    keypoints = np.array([[[10, 10, 2], [50, 90, 1], [0, 0, 0]]], np.float32)
    bbox = np.array([[0, 0, 100, 200]], float)  # longer side 200: 0.05 is 10 pixels along x and along y
    for offset, hits in (((9.9, 0), 100), ((0, 9.9), 100), ((10.1, 0), 0), ((0, 10.1), 0), ((7.2, 7.2), 0)):
        predictions = keypoints[..., :2] + np.array(offset)
        assert pck(predictions, keypoints, bbox, (0.05,), FACE)["pck@0.05"] == pytest.approx(hits)
    predictions = keypoints[..., :2].copy()
    predictions[0, 1, 0] += 30
    result = pck(predictions, keypoints, bbox, skeleton=FACE)
    assert (result["pck@0.05"], result["pck@0.2"]) == (50.0, 100.0)
    assert result["per_joint"]["pck@0.05"]["nose"] == 100.0
    assert result["per_joint"]["pck@0.05"]["left_eye"] == 0.0
    assert np.isnan(result["per_joint"]["pck@0.05"]["right_eye"])


MPII = Skeleton(
    "mpii",
    ("knee", "ankle", "pelvis", "thorax", "upper_neck", "head_top"),
    head=(4, 5),
    sigmas=(0.08,) * 6,
    sigmas_source="a test",
)


def measured(count=40, joints=6, seed=5):
    """Labels (count, joints, 3) of which a fifth is missing, and predictions some pixels beside them."""
    rng = np.random.default_rng(seed)
    keypoints = np.concatenate([rng.uniform(0, 200, (count, joints, 2)), np.zeros((count, joints, 1))], axis=2)
    keypoints[..., 2] = rng.choice([0, 1, 2], (count, joints), p=[0.2, 0.2, 0.6])
    return keypoints, keypoints[..., :2] + rng.normal(size=(count, joints, 2)) * rng.uniform(1, 30, (count, 1, 1))


def test_pckh_is_that_of_mpii_with_its_head_boxes():
    """HRNet's evaluation in its own terms: (joint, person) arrays, 0.6 of the box's diagonal, no pelvis, no thorax."""
    keypoints, predictions = measured()
    boxes = np.random.default_rng(6).uniform(0, 100, (40, 4))
    boxes[:, 2:] += boxes[:, :2] + 20
    sizes = 0.6 * np.linalg.norm(boxes[:, 2:] - boxes[:, :2], axis=1)
    visible = (keypoints[..., 2] > 0).T.astype(float)
    error = np.linalg.norm(predictions - keypoints[..., :2], axis=2).T / sizes * visible
    found = pckh(predictions, keypoints, head_sizes_of_boxes(boxes), skeleton=MPII)
    for threshold in (0.1, 0.5):
        of_joints = 100 * ((error <= threshold) * visible).sum(axis=1) / visible.sum(axis=1)
        counted = visible.sum(axis=1)[[0, 1, 4, 5]]
        assert 1 < of_joints.min() < of_joints.max() < 99 or threshold == 0.1
        assert list(found["per_joint"][f"pckh@{threshold}"].values()) == pytest.approx(of_joints)
        assert found[f"pckh@{threshold}"] == pytest.approx((of_joints[[0, 1, 4, 5]] * counted / counted.sum()).sum())


def test_the_head_segment_needs_both_labels_and_a_length():
    keypoints = np.zeros((4, 6, 3))
    keypoints[:, 4:, 2] = 2
    keypoints[:, 5, :2] = 30, 40  # the other end is at 0, 0
    keypoints[1, 5, 2] = 0
    keypoints[2, 5, :2] = 0
    keypoints[3, 4, :2] = 30, -40
    assert head_sizes(keypoints, MPII).tolist() == pytest.approx([50, np.nan, np.nan, 80], nan_ok=True)
    predictions = keypoints[..., :2] + [5, 0]  # a tenth of 50 pixels, and less of 80
    found = pckh(predictions, keypoints, head_sizes(keypoints, MPII), (0.09, 0.1), MPII)
    assert (found["pckh@0.09"], found["pckh@0.1"]) == (50, 100)
    assert np.isnan(found["per_joint"]["pckh@0.1"]["knee"])
    with pytest.raises(ValueError, match="face has no head"):
        head_sizes(keypoints, FACE)


def test_auc_and_epe_are_those_of_a_loop_in_pixels():
    keypoints, predictions = measured(joints=4, seed=7)
    keypoints[:, 1, 2] = 0  # a joint that nobody has labelled
    apart = [
        [float(np.linalg.norm(p - k[:2])) for p, k in zip(predictions[:, j], keypoints[:, j], strict=True) if k[2] > 0]
        for j in range(4)
    ]
    assert epe(predictions, keypoints) == pytest.approx(np.mean(np.concatenate(apart)))
    area = 0.0
    for i in range(20):
        area += np.mean([sum(d < 30 * i / 20 for d in of) / len(of) for of in apart if of]) / 20
    assert auc(predictions, keypoints) == pytest.approx(100 * area)
    assert auc(3 * predictions, 3 * keypoints * [1, 1, 1 / 3], pixels=90) == pytest.approx(100 * area)
    assert np.isnan([auc(predictions, 0 * keypoints), epe(predictions, 0 * keypoints)]).all()


def test_cocos_evaluation_has_no_new_entry_and_others_state_their_sigmas():
    columns, predictions, scores = persons()
    of_coco = evaluate_points(columns, columns, predictions, scores)
    assert list(of_coco) == [*METRICS, "per_joint", "pck@0.05", "pck@0.1", "pck@0.2", "instances"]
    six = {**columns, "keypoints": columns["keypoints"][:, :6]}
    found = evaluate_points(six, six, predictions[:, :6], scores[:, :6], skeleton=MPII)
    assert list(found) == [*of_coco, "auc", "epe", "pckh@0.1", "pckh@0.5", "oks_sigmas"]
    assert list(found["per_joint"]) == ["pck@0.05", "pck@0.1", "pck@0.2", "pckh@0.1", "pckh@0.5"]
    assert found["oks_sigmas"] == "published: a test"
    for sigmas, text in (((), "assumed: 0.05 for all joints"), ((0.1,) * 6, "given without a source")):
        other = Skeleton("other", MPII.joints, sigmas=sigmas)
        found = evaluate_points(six, six, predictions[:, :6], scores[:, :6], skeleton=other)
        assert found["oks_sigmas"] == text
        assert "pckh@0.5" not in found
    assert SKELETON.sigmas_source


def test_oks_equals_pycocotools():
    columns, predictions, _ = persons()
    truth = COCO()
    results = [
        {
            "image_id": int(columns["image_id"][i]),
            "category_id": 1,
            "score": 1.0,
            "keypoints": np.concatenate([predictions[i], np.ones((17, 1))], axis=1).ravel().tolist(),
        }
        for i in range(len(predictions))
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.dataset = coco_json(columns)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
        evaluation._prepare()
    expected = [np.diag(evaluation.computeOks(image, 1)) for image in np.unique(columns["image_id"])]
    np.testing.assert_allclose(oks(predictions, columns["keypoints"], columns["area"]), np.concatenate(expected))


def test_average_precision_equals_pycocotools_from_files(tmp_path):
    columns, predictions, scores = persons()
    (tmp_path / "truth.json").write_text(json.dumps(coco_json(columns)))
    total = instance_scores(columns["score"], scores)
    rows = np.concatenate([predictions, np.ones((len(predictions), 17, 1))], axis=2)
    results = [
        {"image_id": int(image), "category_id": 1, "score": float(s), "keypoints": row.ravel().tolist()}
        for image, s, row in zip(columns["image_id"], total, rows, strict=True)
    ]
    (tmp_path / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "truth.json"))
        evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ours = keypoint_ap(columns, columns, predictions, scores)
    assert 5 < ours["ap"] < 95
    for name, expected in zip(METRICS, evaluation.stats, strict=True):
        assert ours[name] == pytest.approx(100 * expected if expected >= 0 else float("nan"), nan_ok=True)


@pytest.mark.parametrize("first", [0, -3, -(2**63), 2**63 - 40])
def test_ids_have_no_influence_on_any_number(first):
    """For pycocotools, annotation id 0 is "no match"; images stay in the order of their ids, which decides ties."""
    columns, predictions, scores = persons()
    scores[:] = 0.5  # ties
    columns["score"][:] = 1
    matched = keypoint_matches(columns, columns, predictions, scores)
    other = {
        **columns,
        "annotation_id": np.int64(first) + np.arange(30)[::-1],
        "image_id": np.int64(first) + np.arange(30) // 3 * 2,
    }
    assert keypoint_ap(other, other, predictions, scores) == keypoint_ap(columns, columns, predictions, scores)
    found = keypoint_matches(other, other, predictions, scores)
    assert found.image_ids.tolist() == sorted(set(other["image_id"].tolist()))
    for name in ("image", "true", "false", "labelled"):
        np.testing.assert_array_equal(getattr(found, name), getattr(matched, name))


def test_a_person_with_id_0_alone_is_found():
    columns, _, _ = persons(3)
    columns = {name: column[:1] for name, column in columns.items()}
    columns["annotation_id"] = np.array([0])
    assert keypoint_ap(columns, columns, columns["keypoints"][..., :2], np.ones((1, 17)))["ap"] == pytest.approx(100)


def test_without_ground_truth_or_predictions_metrics_are_undefined_or_zero():
    columns, predictions, scores = persons()
    nobody = {name: column[:0] for name, column in columns.items()}
    assert np.isnan(keypoint_ap(nobody, columns, predictions, scores)["ap"])
    assert keypoint_ap(columns, nobody, predictions[:0], scores[:0])["ap"] == 0


def test_perfect_predictions_have_full_precision_and_crowds_do_not_hurt():
    columns, _, _ = persons()
    truth = {name: np.concatenate([column, column[:2]]) for name, column in columns.items()}
    truth["annotation_id"][-2:] = [1000, 1001]
    truth["iscrowd"][-2] = 1
    truth["keypoints"] = truth["keypoints"].copy()
    truth["keypoints"][-1] = 0
    perfect = keypoint_ap(truth, columns, columns["keypoints"][..., :2], np.ones((30, 17)))
    assert perfect["ap"] == pytest.approx(100)
    assert perfect["ar"] == pytest.approx(100)


def test_a_picture_that_counts_twice_counts_like_two_equal_pictures():
    columns, predictions, scores = persons()
    truth = {name: np.concatenate([column, column[:2]]) for name, column in columns.items()}
    truth["annotation_id"][-2:] = [1000, 1001]
    truth["iscrowd"][-2] = 1
    truth["keypoints"][-1] = 0  # a person without labels
    predicted = np.array([*range(3, 30), 5, 8])  # nobody in the first picture, two in pictures without persons
    columns = {name: np.asarray(column)[predicted] for name, column in columns.items()}
    columns["image_id"][-2:] = [90, 990]
    predictions, scores = predictions[predicted], scores[predicted]
    scores[-2:] *= 0.9  # avoids ties, whose order is not defined
    matches = keypoint_matches(truth, columns, predictions, scores)
    assert len(matches.image_ids) == 12
    counts = np.random.default_rng(1).integers(0, 4, len(matches.image_ids))

    def repeated(rows):
        """The same columns with each image repeated as often as it counts, under new ids."""
        parts = []
        for copy in range(counts.max()):
            taken = np.flatnonzero(counts[np.searchsorted(matches.image_ids, rows["image_id"])] > copy)
            part = {name: column[taken] for name, column in rows.items()} | {"row": taken}
            parts.append(part | {"image_id": part["image_id"] + 1000 * copy})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    many, everybody = repeated(columns), repeated(truth)
    everybody["annotation_id"] = np.arange(1, len(everybody["annotation_id"]) + 1)
    for weights, expected in (
        (np.ones_like(counts), keypoint_ap(truth, columns, predictions, scores)),
        (counts, keypoint_ap(everybody, many, predictions[many["row"]], scores[many["row"]])),
    ):
        precisions = matches.average_precision(weights)
        assert 5 < expected["ap"] < 95
        assert precisions.mean() == pytest.approx(expected["ap"])
        assert precisions[[0, 5]] == pytest.approx([expected["ap50"], expected["ap75"]])
    assert np.isnan(matches.average_precision(0 * counts)).all()


def test_duplicates_are_suppressed_and_the_most_confident_stays():
    points = np.random.default_rng(0).uniform(0, 100, (1, 17, 2)).repeat(3, axis=0)
    points[2] += 80
    assert suppress_duplicates(points, np.array([0.2, 0.9, 0.5]), np.full(3, 5000.0)).tolist() == [1, 2]


def test_a_persons_score_is_the_box_times_the_mean_of_confident_joints():
    scores = np.zeros((2, 17), np.float32)
    scores[0, :3] = [0.5, 0.7, 0.1]
    np.testing.assert_allclose(instance_scores(np.array([0.5, 1.0]), scores), [0.3, 0.0], rtol=1e-6)
    every = np.random.default_rng(0).uniform(1e-6, 1, (5, 17)).astype(np.float32)
    np.testing.assert_allclose(instance_scores(np.full(5, 0.5), every, 0.0), 0.5 * every.mean(axis=1), rtol=1e-6)


def test_a_prediction_in_an_image_without_persons_is_a_false_positive():
    columns, predictions, scores = persons()
    alone = keypoint_ap(columns, columns, predictions, scores)
    more = {name: np.concatenate([column, column[:1]]) for name, column in columns.items()}
    more["image_id"][-1] = 9999
    more["score"][-1] = 1e6
    with_more = keypoint_ap(
        columns, more, np.concatenate([predictions, predictions[:1]]), np.concatenate([scores, scores[:1]])
    )
    assert with_more["ap"] < alone["ap"]
    assert with_more["ar"] == pytest.approx(alone["ar"])
