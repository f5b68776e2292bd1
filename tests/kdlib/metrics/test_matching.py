"""AP and its matches are those of pycocotools to the last bit, also for crowds, ties, duplicates and full images.

For CrowdPose and COCO-WholeBody the reference is pycocotools with the areas, counts and joints that the published
evaluation uses; where xtcocotools is installed, its own numbers are compared as well.
"""

import contextlib
import dataclasses
import importlib.util
import io
import json
import sys
import warnings

import numpy as np
import pycocotools._mask
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kdlib.geometry import box_to_region
from kdlib.metrics.coco import METRICS, instance_scores, keypoint_ap, keypoint_matches, part_ap, suppress_duplicates
from kdlib.metrics.protocols import Protocol, protocol_of
from kdlib.skeletons.reading import load_skeleton
from kdlib.skeletons.skeleton import COCO as SKELETON
from kdlib.skeletons.skeleton import Skeleton

PARTS = {"body": (0, 17), "foot": (17, 23), "face": (23, 91), "left_hand": (91, 112), "right_hand": (112, 133)}


def skeleton(joints, name="custom"):
    """A skeleton of another size than COCO's, whose joints have different sigmas."""
    return with_sigmas(Skeleton(name, tuple(f"joint_{number}" for number in range(joints))))


def with_sigmas(of):
    """A skeleton with random sigmas, different for every joint."""
    sigmas = np.random.default_rng(len(of)).uniform(0.02, 0.12, len(of))
    return dataclasses.replace(of, sigmas=tuple(sigmas.tolist()))


CROWDPOSE, WHOLE = (with_sigmas(load_skeleton(name)) for name in ("crowdpose", "coco_wholebody"))


def crowded(seed, dtype=np.float64, images=40, labelled=260, others=120, joints=17):
    """Columns of persons, crowds and unlabelled persons, and predictions with ties and duplicates.

    Image 0 has 30 predictions, of which COCO counts 20, the last image has predictions and no annotated person, and the
    image before it has annotated persons and no prediction. The rows of an image are not neighbours.
    """
    rng = np.random.default_rng(seed)
    count = labelled + others
    image = rng.integers(0, images - 1, count)
    image[:30], image[30] = 0, images - 2
    boxes = np.concatenate([rng.uniform(0, 300, (count, 2)), np.exp(rng.normal(4.2, 0.9, (count, 2)))], axis=1)
    keypoints = np.zeros((count, joints, 3))
    keypoints[..., :2] = boxes[:, None, :2] + rng.random((count, joints, 2)) * boxes[:, None, 2:]
    keypoints[..., 2] = rng.choice([0, 1, 2], (count, joints), p=[0.4, 0.1, 0.5])
    keypoints[np.arange(count), rng.integers(0, joints, count), 2] = 2
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
    points = (keypoints[rows, :, :2] + rng.normal(size=(len(rows), joints, 2)) * spread).astype(dtype)
    points[-2] = points[-1]
    return truth, found, points, rng.choice([0.1, 0.5, 0.9], (len(rows), joints)).astype(np.float32)


def kept_rows(found, points, scores, of=SKELETON, aspect=(3, 4)):
    """The predictions without duplicates, image by image, as HRNet's ``oks_nms`` chooses them."""
    areas = box_to_region(found["bbox"], aspect)[1].prod(axis=1)
    kept = []
    for image in np.unique(found["image_id"]):
        rows = np.flatnonzero(found["image_id"] == image)
        chosen = []
        for i in rows[np.argsort(-scores[rows], kind="stable")]:
            distances = ((points[chosen] - points[i]) ** 2).sum(axis=-1)
            scale = (areas[chosen] + areas[i])[:, None] / 2 + np.spacing(1)
            if not (np.exp(-distances / (2 * of.spreads) ** 2 / scale / 2).mean(axis=1) > 0.9).any():
                chosen.append(i)
        kept += chosen
    return np.array(kept)


def documents(truth, found, points, joint_scores, of, aspect):
    """The annotations and results of the same persons as COCO files hold them; ids of images are positions."""
    scores = instance_scores(found["score"], joint_scores)
    ids = np.union1d(truth["image_id"], found["image_id"])
    keypoints = np.concatenate([points, np.ones((*points.shape[:2], 1))], axis=2)
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
        for i in kept_rows(found, points, scores, of, aspect)
    ]
    images = [{"id": i, "crowdIndex": 0.5} for i in range(len(ids))]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}, results


def evaluated(truth, found, points, joint_scores, of=SKELETON, aspect=(3, 4), change=None, part=slice(None)):
    """The same predictions, evaluated by pycocotools itself, image by image.

    ``change`` changes an annotation before; ``part`` is evaluated with the areas of the whole person.
    """
    document, results = documents(truth, found, points, joint_scores, of, aspect)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        for annotation in document["annotations"] if change else ():
            change(annotation)
        coco.dataset = document
        coco.createIndex()
        predicted = coco.loadRes(results)
        for entry in (*document["annotations"], *predicted.dataset["annotations"]):
            rows = np.reshape(entry["keypoints"], (-1, 3))
            if part != slice(None):
                body = rows[:17, :2]
                entry["keypoints"] = rows[part].ravel().tolist()
                entry["num_keypoints"] = int((rows[part, 2] > 0).sum())
                if "iscrowd" not in entry:
                    entry["area"] = float(np.ptp(body, axis=0).prod())
        evaluation = COCOeval(coco, predicted, "keypoints")
        evaluation.params.kpt_oks_sigmas = of.spreads[part]
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


@pytest.mark.parametrize("joints", [1, 4, 14, 21, 133])
def test_skeletons_of_any_size_are_evaluated_as_by_pycocotools_with_their_sigmas(joints):
    of, few = skeleton(joints), {"images": 12, "labelled": 80, "others": 30}
    truth, found, points, scores = crowded(joints, joints=joints, **few)
    ours = keypoint_ap(truth, found, points, scores, skeleton=of, aspect=(1, 1))
    expected = evaluated(truth, found, points, scores, of, (1, 1)).stats
    assert 1 < ours["ap"] < 95
    assert [ours[name] for name in METRICS] == [100 * value for value in expected]
    default = dataclasses.replace(of, sigmas=())
    assert keypoint_ap(truth, found, points, scores, skeleton=default, aspect=(1, 1))["ap"] != ours["ap"]


def as_crowdpose(annotation):
    """CrowdPose's files have no area, and count the visible joints."""
    annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3] * 0.53
    annotation["num_keypoints"] = annotation["keypoints"][2::3].count(2.0)


def test_crowdpose_takes_areas_of_boxes_and_persons_with_a_visible_joint():
    of = CROWDPOSE
    truth, found, points, scores = crowded(3, joints=14, images=14, labelled=90, others=40)
    truth["area"] = truth["bbox"][:, 2] * truth["bbox"][:, 3]  # what the reader takes without an annotated area
    hidden = np.arange(0, 90, 5)
    truth["keypoints"][hidden, :, 2] = np.minimum(truth["keypoints"][hidden, :, 2], 1)
    ours = keypoint_ap(truth, found, points, scores, skeleton=of)
    expected = evaluated(truth, found, points, scores, of, change=as_crowdpose).stats
    assert [ours[name] for name in METRICS] == [100 * value for value in expected]
    plain = keypoint_ap(truth, found, points, scores, skeleton=dataclasses.replace(of, name="other"))
    assert abs(plain["ap"] - ours["ap"]) > 0.5
    assert part_ap(truth, found, points, scores, skeleton=of) == {}
    swapped = (0, 1, *range(13, 1, -1))
    for others in (of.select(swapped), skeleton(14, "crowdpose"), with_sigmas(load_skeleton("aic").select(range(14)))):
        assert protocol_of(dataclasses.replace(others, name="crowdpose")) == Protocol()
    likewise = dataclasses.replace(of, joints=skeleton(14).joints)  # the name alone, as for the joints of `of`
    assert keypoint_ap(truth, found, points, scores, skeleton=likewise) == plain


def wholebody():
    """Persons of 133 joints; a third of them have no labelled face, and others no labelled hand."""
    of = WHOLE
    truth, found, points, scores = crowded(4, joints=133, images=12, labelled=70, others=30)
    truth["keypoints"][::3, 23:91, 2] = 0
    truth["keypoints"][1::4, 91:112, 2] = 0
    return of, truth, found, points, scores


def test_wholebody_and_its_parts_are_evaluated_with_the_areas_of_persons():
    of, truth, found, points, scores = wholebody()
    ours = part_ap(truth, found, points, scores, skeleton=of)
    assert list(ours) == [f"{metric}_{name}" for name in PARTS for metric in ("ap", "ar")]
    for name, ends in PARTS.items():
        stats = evaluated(truth, found, points, scores, of, part=slice(*ends)).stats
        assert [ours[f"ap_{name}"], ours[f"ar_{name}"]] == [100 * stats[0], 100 * stats[5]]
    assert len(set(ours.values())) == 10
    whole = keypoint_ap(truth, found, points, scores, skeleton=of)
    expected = evaluated(truth, found, points, scores, of, part=slice(0, 133)).stats
    assert [whole[name] for name in METRICS] == [100 * value for value in expected]


@pytest.mark.skipif(importlib.util.find_spec("xtcocotools") is None, reason="xtcocotools is not installed")
def test_crowdpose_and_wholebody_are_those_of_xtcocotools(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "xtcocotools._mask", pycocotools._mask)  # compiled for an older numpy
    from xtcocotools import coco as extended
    from xtcocotools import cocoeval

    def stats(kind, of, truth, found, points, scores, joints=None, **more):
        document, results = documents(truth, found, points, scores, of, (3, 4))
        document["categories"][0]["keypoints"] = list(of.joints)
        names = dict(
            zip(PARTS, ("keypoints", "foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts"), strict=True)
        )
        for entry in (*document["annotations"], *results):
            if len(of) == 133:
                rows = np.reshape(entry["keypoints"], (133, 3))
                entry |= {names[part]: rows[slice(*ends)].ravel().tolist() for part, ends in PARTS.items()}
            else:
                entry["num_keypoints"] = entry["keypoints"][2::3].count(2.0)
        path = tmp_path / f"{kind}.json"
        path.write_text(json.dumps(document))
        with (
            contextlib.redirect_stdout(io.StringIO()),
            warnings.catch_warnings(action="ignore"),
        ):  # it has no part scores
            coco = extended.COCO(str(path))
            evaluation = cocoeval.COCOeval(coco, coco.loadRes(results), kind, of.spreads[joints or slice(None)], **more)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return 100 * evaluation.stats

    of = CROWDPOSE
    persons = crowded(3, joints=14, images=14, labelled=90, others=40)
    ours = keypoint_ap(*persons, skeleton=of)
    six = [ours[name] for name in ("ap", "ap50", "ap75", "ar", "ar50", "ar75")]
    assert six == stats("keypoints_crowd", of, *persons, use_area=False)[:6].tolist()
    of, *persons = wholebody()
    ours = keypoint_ap(*persons, skeleton=of)
    assert [ours[name] for name in METRICS] == stats("keypoints_wholebody", of, *persons).tolist()
    parts = part_ap(*persons, skeleton=of)
    for (part, ends), kind in zip(PARTS.items(), ("body", "foot", "face", "lefthand", "righthand"), strict=True):
        of_part = stats(f"keypoints_{kind}", of, *persons, joints=slice(*ends))
        assert [parts[f"ap_{part}"], parts[f"ar_{part}"]] == [of_part[0], of_part[5]]


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
