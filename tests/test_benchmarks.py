"""A benchmark's lines have the fields that are relied on, and results are never overwritten; no time is asserted."""

import datetime
import json

import numpy as np
import pytest
import torch

from benchmarks import codec, live, reading, recipes, warping
from benchmarks.effort import QUICK
from benchmarks.report import Line, keep
from benchmarks.timing import interleave
from benchmarks.workspace import Workspace
from tests.people_store import INPUT_SIZE, make_store
from train.augment import Augmentation
from train.dataset import StoreDataset
from train.loader import Loader

FIELDS = {"bench", "metric", "value", "unit", "peer", "peer_value", "ratio", "n", "machine", "versions"}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    return Workspace(folder, QUICK, sample=folder / "none", shared=folder / "none")


@pytest.mark.parametrize("script", [codec, reading])
def test_a_script_reports_lines_with_all_fields_and_a_true_ratio(script, workspace):
    lines = [line.to_json() for line in script.run(workspace)]
    assert lines
    for line in lines:
        assert set(line) >= FIELDS
        json.dumps(line, allow_nan=False)
        if line["peer"] is not None:
            assert line["ratio"] == pytest.approx(line["value"] / line["peer_value"], rel=1e-3)


def test_a_view_that_is_the_plain_crop_is_warped_exactly(workspace, monkeypatch):
    """The identity costs nothing, and the mirror's own map is what the teacher says of the mirror."""
    monkeypatch.setattr(warping, "GRID", [warping.Setting(), warping.Setting(flip=True), warping.Setting(60.0)])
    monkeypatch.setattr(warping, "INSTANCES", 8)
    found = {}
    for line in (line.to_json() for line in warping.run(workspace)):
        found[line["metric"], line["target"], line["rotation"], line["flip"]] = line
    for flip in (False, True):
        assert found["kl", "matching", 0.0, flip]["value"] == pytest.approx(0, abs=1e-4)
        assert found["moved", "matching", 0.0, flip]["value"] == 0
        assert found["wrong", "matching", 0.0, flip]["ratio"] == pytest.approx(1)
    assert found["kl", "average", 60.0, False]["value"] > found["kl", "average", 0.0, False]["value"] > 0


def test_the_table_of_recipes_compares_seed_by_seed():
    def run(ap):
        return {"ap": ap, "ap50": 2 * ap, "pck@0.05": 30.0, "pck@0.1": 50.0}

    lines = recipes.table({"a": [run(10.0), run(12.0)], "b": [run(13.0), None]}).splitlines()
    assert (
        lines[2]
        == "| a | 11.0 (10.0 to 12.0) | 22.0 (20.0 to 24.0) | 30.0 (30.0 to 30.0) | 50.0 (50.0 to 50.0) | +0.0, +0.0 |"
    )
    assert lines[3].startswith("| b | 13.0 | 26.0 |")
    assert lines[3].endswith("| +3.0 |")


def test_every_row_of_the_tables_is_a_command_that_train_understands():
    from train.__main__ import _parser

    needed = ["--store", "s", "--val-store", "v", "--out", "o", "--seed", "1"]
    for row in (row for rows in recipes.TABLES.values() for row in rows.values()):
        assert _parser().parse_args([*row.split(), *needed]).seed == 1


def test_contenders_take_turns_and_the_first_round_does_not_count():
    order = []

    def block(name, seconds):
        def run():
            order.append(name)
            return 2, seconds

        return run

    timings = interleave({"a": block("a", 4.0), "b": block("b", 2.0)}, 3)
    assert (timings.median("a"), timings.median("b")) == (2.0, 1.0)
    assert timings.items == {"a": 6, "b": 6}
    assert order == ["b", "a", "a", "b", "b", "a", "a", "b"]


def test_results_of_one_day_lie_side_by_side(tmp_path):
    line = Line("x", "y", 2.0, "s", 1, "peer", 4.0).to_json()
    assert line["ratio"] == 0.5
    day = datetime.date(2026, 1, 2)
    first, second = (keep([line], tmp_path, day) for _ in range(2))
    assert first != second
    assert first.name.startswith("2026-01-02-")
    assert json.loads(first.read_text()) == line


def test_a_live_teacher_sees_what_the_student_sees(tmp_path):
    """The trainer's pictures and keypoints, and the maps of a teacher that answers with what it was shown."""
    store = make_store(tmp_path / "people.zarr")
    strong = Augmentation(flip=0.5, rotation=40.0, rotation_probability=1.0, scale=0.3, half_body=0.0)
    trainers = Loader(StoreDataset(store, (48, 64), strong, seed=2), 8, shuffle=True)

    def teacher(crops):
        return crops[:, ::4, ::4].transpose(0, 3, 1, 2).astype(np.float32)

    teacher.input_size = INPUT_SIZE
    (expected,), (found,) = trainers.epoch(1), live.LiveLoader(trainers, teacher).epoch(1)
    assert (found["image"].int() - expected["image"].int()).abs().max() <= 1
    torch.testing.assert_close(found["keypoints"], expected["keypoints"])
    assert torch.equal(found["row"], expected["row"])
    assert torch.equal(found["heatmaps"], found["image"][:, ::4, ::4].permute(0, 3, 1, 2).float())
    teacher.input_size = (100, 128)
    with pytest.raises(SystemExit, match="no multiple"):
        live.LiveLoader(trainers, teacher)
