"""Reports, cards, predictions and galleries of students of 1, 4 and 133 joints, and their drawings."""

import json
import re

import cv2
import numpy as np
import pytest
import torch

from cache import open_store
from kdlib.skeletons import COCO, Skeleton, load_skeleton
from kdlib.skeletons.reading import built_in_names
from kdlib.students.loading import load_student
from tests.support.stores.people import make_store
from tests.support.trained_student import make_checkpoint, make_run
from train.__main__ import main
from train.deploy.web.facts import describe
from train.show import MIN_LABELS, enough_labels
from train.show.drawing import fine_joints, paint_skeleton
from train.show.gallery.write import annotations
from train.show.report.figures import MOST_ROWS, _merged_joints
from train.show.report.overlays import draw_skeleton

BALL = Skeleton("ball", ("centre",))
TOOL = Skeleton(
    "tool",
    ("tip", "left_grip", "right_grip", "base"),
    flip_pairs=((1, 2),),
    limbs=((0, 3), (1, 3), (2, 3)),
    upper_body=(0, 3),
    head=(0, 3),
)
WHOLE = load_skeleton("coco_wholebody")
SQUARE = (96, 96)


@pytest.fixture(scope="module", params=[BALL, TOOL, WHOLE], ids=lambda skeleton: skeleton.name)
def made(request, tmp_path_factory):
    """A skeleton, and a folder with two stores, and runs on them without training."""
    folder = tmp_path_factory.mktemp(request.param.name)
    stores = [
        make_store(folder / name, 6, skeleton=request.param, input_size=SQUARE) for name in ("train.zarr", "val.h5")
    ]
    for name in ("baseline", "distilled"):
        make_run(folder / name, *stores, name=name, seed=len(name))
    return request.param, folder


def report_of(folder):
    runs = [str(folder / name) for name in ("baseline", "distilled")]
    assert (
        main(["report", "--store", str(folder / "val.h5"), "--out", str(folder / "report.html"), "--runs", *runs]) == 0
    )
    return (folder / "report.html").read_text()


def test_the_report_has_the_metrics_sigmas_and_sides_of_the_skeleton(made):
    skeleton, folder = made
    page = report_of(folder)
    names = re.findall(r'<th scope="row">([^<]*)<small>', page)
    assert ("PCKh@0.5" in names) == (skeleton is TOOL)
    assert ("AP left hand" in names) == (skeleton is WHOLE)
    assert {"AUC", "EPE, px"} <= set(names)
    if skeleton is WHOLE:
        assert f"use the sigmas of coco_wholebody, published by {WHOLE.sigmas_source}" in page
    else:
        assert f"the sigmas of {skeleton.name} are assumed to be 0.05 for all joints" in page
    assert ("the person&#x27;s left" in page or "the person's left" in page) == (skeleton is not BALL)
    least = enough_labels(len(skeleton))
    assert f"persons with at least {least} labelled joint{'s' if least > 1 else ''}, evenly" in page
    cards = re.search(r'id="people".*?</section>', page, re.DOTALL).group()
    assert cards.count("<article") == 6


def test_predictions_and_annotations_name_the_joints(made):
    skeleton, folder = made
    cv2.imwrite(str(folder / "photo.jpg"), np.random.default_rng(0).integers(0, 255, (120, 90, 3), np.uint8))
    out, student = folder / "predictions", str(folder / "distilled/best.pt")
    assert main(["predict", str(folder / "photo.jpg"), "--student", student, "--out", str(out)]) == 0
    (found,) = json.loads((out / "keypoints.json").read_text())
    category = json.loads((out / "category.json").read_text())
    assert len(found["keypoints"]) == 3 * len(skeleton)
    assert category["keypoints"] == list(skeleton.joints)
    assert category["skeleton"] == [[a + 1, b + 1] for a, b in skeleton.limbs]
    assert annotations(open_store(folder / "val.h5"))["categories"] == [category]
    assert category["name"] == skeleton.name


def test_an_exported_file_carries_the_skeleton(tmp_path):
    checkpoint = make_checkpoint(tmp_path / "best.pt", skeleton=TOOL)
    assert main(["export", "--student", str(checkpoint), "--out", str(tmp_path / "tool.onnx"), "--check", "2"]) == 0
    student, loaded = load_student(checkpoint, "cpu"), load_student(tmp_path / "tool.onnx", "cpu")
    assert loaded.skeleton == student.skeleton == TOOL
    crops = torch.randint(0, 255, (2, 64, 48, 3), dtype=torch.uint8)
    np.testing.assert_allclose(loaded.heatmaps(crops), student.heatmaps(crops), atol=1e-5)
    facts = describe(loaded)
    assert (facts["joints"], facts["limbs"]) == (list(TOOL.joints), [[0, 3, "mid"], [1, 3, "left"], [2, 3, "right"]])


def test_the_card_states_joints_and_sigmas_and_speaks_of_persons_only_where_there_are_some(made):
    skeleton, folder = made
    assert main(["card", str(folder / "distilled"), "--out", str(folder / "card.md")]) == 0
    text = (folder / "card.md").read_text()
    assert f"it predicts {len(skeleton)} joint{'s' if len(skeleton) > 1 else ''}." in text
    assert ("human-pose" in text) == ("2D human pose: for a person" in text) == (skeleton is WHOLE)
    assert ("Left and right are" in text) == (skeleton is not BALL)
    assert ("no data set's official metrics" in text) == (skeleton is not WHOLE)


def test_the_metrics_of_a_store_state_the_source_of_the_sigmas(made, tmp_path, capsys):
    skeleton, folder = made
    out = tmp_path / "metrics.json"
    assert main(["evaluate", "--store", str(folder / "val.h5"), "--teacher", "--out", str(out)]) == 0
    metrics = json.loads(out.read_text())
    assert metrics["ap"] > (70 if skeleton is WHOLE else 95)  # small sigmas of faces
    assert metrics["epe"] < 1.5
    assert metrics["oks_sigmas"].startswith("published: " if skeleton is WHOLE else "assumed: 0.05")
    assert ("official" in capsys.readouterr().out) == (skeleton is not WHOLE)
    assert ("pckh@0.5" in metrics) == (skeleton is TOOL)
    assert {f"ap_{part}" for part in ("body", "foot", "face", "left_hand")} <= metrics.keys() or skeleton is not WHOLE


def test_persons_need_a_third_of_the_joints_to_be_shown():
    assert [enough_labels(joints) for joints in (1, 3, 4, 14, 17, 133)] == [1, 1, 2, 5, MIN_LABELS, MIN_LABELS]


def test_every_joint_has_one_row_of_the_chart_and_numbered_ones_share_it():
    known = [load_skeleton(name) for name in built_in_names()]
    for skeleton in [*known, BALL, TOOL, Skeleton("many", tuple(f"joint_{k}" for k in range(1, 101)))]:
        merged = _merged_joints(skeleton)
        assert sorted(joint for members in merged.values() for joint in members) == list(range(len(skeleton)))
        assert 1 <= len(merged) <= MOST_ROWS
    whole = _merged_joints(WHOLE)
    assert [name for name, members in whole.items() if len(members) > 2] == [
        "face", "thumb", "forefinger", "middle finger", "ring finger", "pinky finger"
    ]  # fmt: skip
    assert whole["hand root"] == [91, 112]
    assert list(_merged_joints(COCO))[:3] == ["nose", "eye", "ear"]


def test_faces_and_hands_are_drawn_thin_in_large_skeletons_alone():
    assert not any(fine_joints(COCO))
    assert not any(fine_joints(load_skeleton("coco_wholebody_hand")))
    fine = np.array(fine_joints(WHOLE))
    assert fine[23:].all()
    assert not fine[:23].any()
    points = np.full((133, 2), -50.0)
    points[[5, 7, 92, 93]] = [[20, 20], [20, 60], [60, 20], [60, 60]]  # an arm and a thumb
    canvas, drawn = np.zeros((80, 80, 3), np.uint8), np.zeros(133, bool)
    drawn[[5, 7, 92, 93]] = True
    paint_skeleton(canvas, points, drawn, 5, WHOLE)
    painted = canvas[40].any(axis=1)  # across both limbs, with their outlines
    assert painted[:40].sum() > 1.5 * painted[40:].sum() > 0
    radii = [float(radius) for radius in re.findall(r' r="([\d.]+)"', draw_skeleton(points, drawn, drawn, 4.0, WHOLE))]
    assert radii == [3.4, 3.4, 1.36, 1.36]
