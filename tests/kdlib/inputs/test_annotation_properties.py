"""Annotation files in other spellings give pycocotools' numbers; damaged ones too, or one line that names the file."""

import contextlib
import io
import json

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="the extra [dev] is not installed")
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kdlib.errors import InputError
from kdlib.inputs.annotations import read_keypoint_annotations
from kdlib.inputs.notices import Notices
from kdlib.metrics.coco import METRICS, keypoint_ap
from tests.support import annotation_files as files

SCORES = np.linspace(0.9, 0.3, 40)
"""Distinct scores of predictions, the first person's first: the order of equal scores would be undefined."""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("annotations") / "people.json"


def predict(keypoints):
    """(N, 17, 2) points beside the labels (N, 17, 3): the first persons are predicted best."""
    count = len(keypoints)
    offsets = np.random.default_rng(0).normal(size=(count, 17, 2)) * (1 + 3 * np.arange(count))[:, None, None]
    return np.asarray(keypoints)[:, :, :2] + offsets


def read(path):
    """COCO's metrics of predictions for a file, as the commands compute them, and the number of instances."""
    found = read_keypoint_annotations(path, notices=Notices())
    rows = np.arange(len(found.instances))
    scores = np.repeat(SCORES[rows % len(SCORES)][:, None], 17, axis=1)
    points = predict(found.instances.keypoints)
    return keypoint_ap(found.ground_truth.columns(), found.instances.columns(), points, scores), len(rows)


def reference(cleaned, usable):
    """The same metrics by pycocotools alone, of a file with ids from 1."""
    persons = [cleaned["annotations"][i] for i in usable]
    points = predict(np.reshape([person["keypoints"] for person in persons], (-1, 17, 3)))
    results = [
        {
            "image_id": person["image_id"],
            "category_id": 1,
            "score": float(SCORES[row % len(SCORES)]),
            "keypoints": np.column_stack([points[row], np.ones(17)]).ravel().tolist(),
        }
        for row, person in enumerate(persons)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = cleaned
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {
        name: 100 * value if value >= 0 else float("nan") for name, value in zip(METRICS, evaluation.stats, strict=True)
    }


def check(document, path):
    """Read a document and compare with the independent reading; returns whether it was refused."""
    expected = files.clean(json.loads(json.dumps(document)))
    try:
        metrics, count = read(path)
    except InputError as error:
        lines = str(error).splitlines()
        assert len(lines) == 1
        assert path.name in lines[0]
        return True
    assert expected is not None, "a file that does not say what its persons are was read"
    assert count == len(expected[1])
    places = [(p["image_id"], *p["bbox"][:2]) for p in (expected[0]["annotations"][i] for i in expected[1])]
    if len(set(places)) < len(places):  # a person twice under two ids: the metrics suppress duplicates
        return False
    assert metrics == pytest.approx(reference(*expected), nan_ok=True, abs=1e-9)
    return False


def attack_spelling(seed, path):
    rng = files.seeded(seed)
    document = files.rewrite(files.make(rng), rng)
    files.write(document, path, rng)
    assert files.clean(json.loads(json.dumps(document))) is not None
    assert not check(document, path), "a sound file was refused"


def attack_damage(seed, path):
    rng = files.seeded(seed)
    document = files.make(rng)
    if rng.random() < 0.5:
        document = files.rewrite(document, rng)
    document = files.damage(document, rng)
    files.write(document, path, rng)
    return check(document, path)


@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 2**32))
def test_other_spellings_give_the_numbers_of_pycocotools(path, seed):
    attack_spelling(seed, path)


@settings(max_examples=160, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 2**32))
def test_damaged_files_give_the_numbers_of_pycocotools_or_one_line(path, seed):
    attack_damage(seed, path)


def test_the_comparison_sees_an_annotation_that_got_lost(path):
    """The tests above can fail: a person without its area is worth less, and AP follows."""
    document = files.make(files.seeded(3))
    path.write_text(json.dumps(document))
    other = json.loads(json.dumps(document))
    other["annotations"][0]["area"] = 1e-3
    with pytest.raises(AssertionError):
        check(other, path)


def test_both_kinds_of_damage_occur(path):
    assert {attack_damage(seed, path) for seed in range(30)} == {True, False}
