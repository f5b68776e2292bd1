"""Tests of the benchmarks: fields of their lines, results files, turns and ratios. No test asserts a time."""

import datetime
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.store import codec, reading
from benchmarks.study import cost, labels, live, persons, recipes, runtimes, students, warping
from benchmarks.support.batches import StoreBatches, recipe_augmentation
from benchmarks.support.effort import QUICK
from benchmarks.support.files import FileBatches, FilesDataset, write_files
from benchmarks.support.report import Line, write_results
from benchmarks.support.timing import interleave, interleave_on
from benchmarks.support.turn import Turn
from benchmarks.support.workspace import Workspace
from benchmarks.trainer import compiling, loader
from benchmarks.trainer import steps as training
from kdlib.heatmaps import gaussian_heatmaps
from kdlib.samples.dataset import StoreDataset
from kdlib.samples.loader import Loader
from kdlib.samples.views import Augmentation
from tests.support.stores.people import HEATMAP_SIZE, INPUT_SIZE, make_store
from tests.support.trained_student import make_checkpoint
from train.__main__ import main as train

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]
SMALL = (96, 128)
SMALL_TEACHER = "hrnet_w16_sample"
FIELDS = {"bench", "metric", "value", "unit", "peer", "peer_value", "ratio", "n", "machine", "versions"}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    return Workspace(folder, QUICK, sample=folder / "none", shared=folder / "none")


@pytest.mark.parametrize("script", [codec, reading])
def test_a_script_reports_lines_with_all_fields_and_a_true_ratio(script, workspace):
    check_lines([line.to_json() for line in script.run(workspace)])


def check_lines(lines):
    assert lines
    for line in lines:
        assert set(line) >= FIELDS
        json.dumps(line, allow_nan=False)
        if line["peer"] is not None:
            assert line["ratio"] == pytest.approx(line["value"] / line["peer_value"], rel=1e-3)


def test_the_training_benchmark_measures_its_ratios_beside_what_their_parts_predict(workspace):
    lines = [line.to_json() for line in training.measure(workspace, training.Case(SMALL, SMALL_TEACHER, 4))]
    check_lines(lines)
    found = {line["metric"]: line for line in lines}
    assert list(found) == ["distil_over_baseline", "store_over_memory", "offline_over_online", "store_over_files"]
    for line in lines:
        assert line["n"] == 4 * QUICK.steps * QUICK.rounds
        assert (line["input_size"], line["teacher"]) == ("128x96", SMALL_TEACHER)
    memory, online = found["store_over_memory"], found["offline_over_online"]
    load, step = memory["parts_ms"]["load"], memory["parts_ms"]["step"]
    assert memory["predicted"] == pytest.approx(step / (load + step), abs=2e-3)
    assert online["ideal"] > 1
    assert online["reached"] == pytest.approx(online["paired"] / online["ideal"], abs=5e-3)
    assert found["store_over_files"]["bytes"]["files"] > 5 * found["store_over_files"]["bytes"]["store"]


def test_a_gpu_is_expected_to_hide_the_loader_behind_the_step():
    seconds = {"load": [2.0, 1.0], "step": [1.0, 4.0]}
    timings = training.Timings(seconds, {})
    assert training._predict_seconds(timings, "baseline", overlap=True).tolist() == [2.0, 4.0]
    assert training._predict_seconds(timings, "baseline", overlap=False).tolist() == [3.0, 5.0]
    assert training._predict_seconds(timings, "step", overlap=True).tolist() == [1.0, 4.0]


def test_a_turn_makes_as_many_batches_as_it_takes_and_leaves_nothing_running(workspace):
    """No turn uses batches prefetched in another turn, and no turn starts with an empty queue."""
    batches = StoreBatches(workspace.store("sample", SMALL), "average", 4, CPU, threads=2)
    dataset, made = batches._loader.dataset, []
    fill = dataset.fill
    dataset.fill = lambda batch, slots, *arguments: (made.extend(slots), fill(batch, slots, *arguments))
    turn = Turn(batches, 3, CPU)
    assert turn() == 12
    before = len(made)
    assert before > 12
    for _ in range(2):
        assert turn() == 12
    assert len(made) - before == 24
    batches.close()


def test_worker_processes_rest_between_turns_too_and_their_time_counts(workspace, tmp_path):
    store = workspace.store("sample", SMALL)
    write_files(store, tmp_path)
    batches = FileBatches(store, recipe_augmentation(), tmp_path, 4, CPU)
    turn, made = Turn(batches, 3, CPU), batches._dataset.work[:, 0]
    assert turn() == 12
    before, seconds = int(made.sum()), batches.cpu_seconds()
    assert turn() == 12
    assert int(made.sum()) - before == 12
    assert batches.cpu_seconds() > seconds > 0
    batches.close()


def test_samples_from_files_are_those_of_the_store(workspace, tmp_path):
    """The peer does the same work: the same images in the same augmented views, the same maps in the plain crop."""
    store = workspace.store("sample", SMALL)
    write_files(store, tmp_path)
    for augmentation in (None, recipe_augmentation()):
        ours = StoreDataset(store, augmentation=augmentation)
        files = FilesDataset(store, augmentation, tmp_path, workers=1)
        for index in range(8):
            sample, peer = ours[index], files[index]
            assert torch.equal(sample["image"], peer["image"])
            assert torch.equal(sample["keypoints"], peer["keypoints"])
            if augmentation is None:
                assert torch.allclose(sample["heatmaps"], peer["heatmaps"], atol=1e-5)
            else:  # the maps in the files were resampled twice; a mirrored sample uses the same map
                assert (sample["heatmaps"] - peer["heatmaps"]).abs().mean() < 0.01


def test_the_loader_is_compared_and_its_rate_is_given_per_core(workspace, monkeypatch):
    monkeypatch.setattr(loader, "CASES", (("sample", SMALL, SMALL), ("sample", SMALL, (48, 64))))
    lines = [line.to_json() for line in loader.run(workspace)]
    check_lines(lines)
    targets = [line for line in lines if line["metric"] == "target"]
    assert [(line["input_size"], line["of"]) for line in targets] == [
        (size, peer) for size in ("128x96", "64x48") for peer in loader.TARGETS
    ]
    for line in targets:
        assert line["peer_value"] == loader.TARGETS[line["of"]]
        assert line["spread"][0] <= line["value"] <= line["spread"][1]
    rates = [line for line in lines if line["metric"] == "rate"]
    assert [line["maps"] for line in rates] == list(loader.MAPS)
    datasets = [line for line in lines if line["metric"] == "dataset"]
    assert [line["images"] for line in datasets] == [*loader.IMAGES, *loader.IMAGES]
    for line in datasets:
        (trainers,) = (
            other["value"]
            for other in lines
            if (other["metric"], other.get("maps")) == ("decode", "flip test")
            and other["input_size"] == line["input_size"]
        )
        assert line["peer_value"] == trainers
    for line in rates:
        assert line["per_core"] == pytest.approx(line["value"] / line["threads"], rel=0.01, abs=0.51)


def test_compiling_is_compared_with_not_compiling_or_says_why_not(workspace, monkeypatch, capsys):
    monkeypatch.setattr(torch, "compile", lambda network: network)
    (line,) = [line.to_json() for line in compiling.run(workspace, SMALL)]
    check_lines([line])
    assert line["metric"] == "compiled_over_eager"

    def broken(_network):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", broken)
    assert not list(compiling.run(workspace, SMALL))
    assert "no C++ compiler" in capsys.readouterr().err


def test_costs_follow_from_what_was_measured(workspace, tmp_path):
    figures, timings = cost.measure(workspace, cost.Case(SMALL, SMALL_TEACHER, 4))
    found = {line.metric: line for line in cost.lines(figures, timings)}
    check_lines([line.to_json() for line in found.values()])
    of = {name: found[name].value for name in cost.LABELS}
    maps = of["load_maps"] - of["load"]
    epochs = found["paid_after"].value
    assert epochs * of["teacher"] == pytest.approx(2 * of["teacher"] + epochs * maps)
    assert found["epoch"].peer_value - found["epoch"].value == pytest.approx(of["teacher"] - maps)
    assert found["bytes"].peer_value == 17 * 32 * 24 * 4
    page = tmp_path / "page.md"
    page.write_text(f"before\n{cost.BEGIN}\nold\n{cost.END}\nafter\n")
    cost.write_page(page, [figures], 1, datetime.date(2026, 1, 2))
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert read_tables(text) == [figures]


def test_the_tables_of_the_cost_page_are_what_the_benchmark_makes_of_its_figures():
    """Derived numbers that are edited by hand no longer follow from the measured ones."""
    text = cost.PAGE.read_text()
    columns = read_tables(text)
    assert [figures.name for figures in columns] == [str(case) for case in cost.CASES]
    assert cost.tables(columns) in text


def read_tables(text):
    """Read the figures behind the tables of a page from the measured rows alone."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    cells = {row[0]: row[1:] for row in rows}
    names = cells["milliseconds per instance"]
    return [
        cost.Figures(
            name=names[i],
            heatmap_size=tuple(int(side) // 4 for side in reversed(re.search(r"(\d+)x(\d+)", names[i]).groups())),
            views=1,
            passes=2,
            milliseconds={
                name: cost.Measured(*(float(number) for number in re.findall(r"[\d.e-]+", cells[what][i])))
                for name, what in cost.LABELS.items()
            },
            view_bytes=int(cells["bytes of a view's heatmaps"][i].replace(",", "")),
            frame_bytes=int(cells["bytes of a frame"][i].replace(",", "")),
        )
        for i in range(len(names))
    ]


def test_a_view_that_is_the_plain_crop_is_warped_exactly(workspace, monkeypatch):
    """The identity changes nothing, and the mirror's own map equals the teacher's output on the mirrored view."""
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


def test_the_curves_of_labels_and_teacher_show_every_part_as_many_samples_as_the_whole(tmp_path, monkeypatch, capsys):
    def trained(command, seed, out, options):
        commands.append((command, out.name, options.store.name, options.train_args))
        reached = {"baseline-4-0": 12.0, "baseline-12-0": 13.0, "distill-4-0": 9.0, "distill-12-0": 14.0}[out.name]
        return dict.fromkeys(("ap", "ap50", "pck@0.05", "pck@0.1"), reached)

    commands: list = []
    monkeypatch.setattr(labels, "train", trained)
    for count in (4, 12):
        make_store(tmp_path / f"{count}.zarr", count)
    paths = ["--store", tmp_path / "12.zarr", "--parts", tmp_path / "4.zarr", "--val-store", "v", "--out", tmp_path]
    assert labels.main([*map(str, paths), "--epochs", "5", "--train-args=--flip 0"]) == 0
    assert commands == [
        ("baseline", "baseline-4-0", "4.zarr", "--flip 0 --epochs 15"),
        ("distill", "distill-4-0", "4.zarr", "--flip 0 --epochs 15"),
        ("baseline", "baseline-12-0", "12.zarr", "--flip 0 --epochs 5"),
        ("distill", "distill-12-0", "12.zarr", "--flip 0 --epochs 5"),
    ]
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| labels of 4 persons | 12.0 | 12.0 | 12.0 | 12.0 |"
    assert lines[5] == "| the store's teacher on the same 12, no label | 14.0 | 14.0 | 14.0 | 14.0 |"
    drawn = (tmp_path / "labels.svg").read_bytes()
    curves = {"baseline": {4: {"ap": 12.0}, 12: {"ap": 13.0}}, "distill": {4: {"ap": 9.0}, 12: {"ap": 14.0}}}
    labels.draw(curves, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_bytes() == drawn
    assert b"<svg" in drawn


def test_the_curves_of_more_persons_are_printed_as_in_the_docs_and_drawn(tmp_path, capsys):
    points = tmp_path / "points.json"
    entries = [
        ("labels", 20, {"40": [10.0, 14.0]}),
        ("teacher", 20, {"80": [18.0], "40": [13.0]}),
        ("teacher", 900, {}),
    ]
    points.write_text(json.dumps({"curves": [{"source": s, "persons": n, "ap": ap} for s, n, ap in entries]}))
    assert persons.main(["--points", str(points)]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| the teacher's heatmaps of 20 persons | 40 | 13.0 |",
        "| the teacher's heatmaps of 20 persons | 80 | 18.0 |",
        "| the labels of 20 persons | 40 | 10.0, 14.0 |",
    ]
    assert [curve.persons for curve in persons.read_curves(points)] == [900, 20, 20]
    measured = persons.read_curves(persons.POINTS)
    assert persons.table(measured) in (ROOT / "docs/results.md").read_text(encoding="utf-8")
    for name in ("one.svg", "two.svg"):
        persons.draw(measured, tmp_path / name)
    assert b"<svg" in (tmp_path / "one.svg").read_bytes()
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_every_row_of_the_tables_is_a_command_that_train_understands():
    from train.__main__ import _parser

    needed = ["--store", "s", "--val-store", "v", "--out", "o", "--seed", "1"]
    for row in (row for rows in recipes.TABLES.values() for row in rows.values()):
        assert _parser().parse_args([*row.split(), *needed]).seed == 1


def test_the_students_page_has_the_rows_and_counts_that_the_benchmark_makes(capsys):
    def rows(text):
        return [line.strip("| ").split(" | ") for line in re.findall(r"^\| `.*$", text, re.MULTILINE)]

    threads = torch.get_num_threads()
    assert students.main(["--rounds", "1"]) == 0
    made = rows(capsys.readouterr().out)
    page = (ROOT / "docs/students.md").read_text()
    shown = [row for row in rows(page[: page.index("## Export")]) if len(row) == 4]
    assert [row[:3] for row in shown] == [row[:3] for row in made]
    assert shown[0][3] == "1.00"
    assert made[0][3] == "1.00 (1.00 to 1.00)"
    assert torch.get_num_threads() == threads


def test_runtimes_are_compared_on_the_same_crops_and_those_that_are_missing_are_named(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxscript", reason="exporting needs the extra [export]")
    exported = tmp_path / "s.onnx"
    assert train(["export", "--student", str(make_checkpoint(tmp_path / "best.pt")), "--out", str(exported)]) == 0
    monkeypatch.setitem(sys.modules, "openvino", None)
    threads = torch.get_num_threads()
    capsys.readouterr()
    words = ["--runtimes", "opencv", "openvino", "--rounds", "1", "--crops", "4"]
    assert runtimes.main([str(exported), *words]) == 0
    printed = capsys.readouterr()
    lines = [json.loads(line) for line in printed.out.splitlines()]
    check_lines(lines)
    assert [(line["runtime"], line["precision"]) for line in lines] == [("onnxruntime", "fp32"), ("opencv", "fp32")]
    assert "openvino is left out for s.onnx: openvino is not installed" in printed.err
    assert lines[0]["largest_px"] == 0
    assert lines[1]["largest_px"] < 0.05
    assert {line["peer"] for line in lines} == {f"onnxruntime {lines[0]['version']} fp32"}
    assert torch.get_num_threads() == threads
    assert runtimes.main([str(tmp_path / "gone.onnx")]) == 1
    assert capsys.readouterr().err.startswith("error: no student at")


def test_the_distance_of_keypoints_between_runtimes_is_in_pixels_of_the_crop():
    maps = np.tile(gaussian_heatmaps(np.array([[5.2, 7.4]]), np.ones(1), (12, 16), 2.0), (2, 1, 1, 1))
    moved = np.roll(maps, (2, 1), axis=(-2, -1))
    crops = np.zeros((2, 64, 48, 3), np.uint8)
    np.testing.assert_allclose(runtimes._distances(moved, maps, crops), 4 * np.hypot(2, 1), rtol=1e-3)
    assert runtimes._distances(maps, maps, crops).shape == (2, 1)


def test_a_name_that_is_no_student_ends_the_table_of_students_in_one_line(capsys):
    assert students.main(["torchvision:nothing"]) == 1
    assert re.fullmatch(r"error: .*nothing.*\n", capsys.readouterr().err)


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


def test_one_round_is_read_off_several_clocks_and_its_ratios_are_paired():
    now = {"slow": 0.0, "fast": 0.0}

    def taking(*seconds):  # the first is the warm-up's
        each = iter(seconds)

        def work():
            elapsed = next(each)
            now["slow"] += elapsed
            now["fast"] += elapsed / 2
            return 2

        return work

    clocks = {name: lambda name=name: now[name] for name in now}
    timings = interleave_on(clocks, {"a": taking(9.0, 1.0, 10.0, 100.0), "b": taking(9.0, 2.0, 30.0, 300.0)}, 3)
    assert timings["slow"].seconds == {"a": [0.5, 5.0, 50.0], "b": [1.0, 15.0, 150.0]}
    assert timings["fast"].paired("b", "a") == timings["slow"].paired("b", "a") == 3.0
    assert timings["slow"].spread("b", "a") == [2.5, 3.0]
    assert timings["slow"].items == {"a": 6, "b": 6}
    assert np.array_equal(timings["slow"].total("a", "b"), [1.5, 20.0, 200.0])


def test_many_contenders_run_in_another_order_in_every_round():
    order = []
    work = {name: lambda name=name: order.append(name) or 1 for name in "abcde"}
    interleave_on({"wall": lambda: 0.0}, work, 9)
    rounds = ["".join(order[start : start + 5]) for start in range(0, 50, 5)]
    assert all(sorted(of) == list("abcde") for of in rounds)
    assert len(set(rounds)) > 5


def test_results_of_one_day_lie_side_by_side(tmp_path):
    line = Line("x", "y", 2.0, "s", 1, "peer", 4.0).to_json()
    assert line["ratio"] == 0.5
    day = datetime.date(2026, 1, 2)
    first, second = (write_results([line], tmp_path, day) for _ in range(2))
    assert first != second
    assert first.name.startswith("2026-01-02-")
    assert json.loads(first.read_text()) == line


def test_a_live_teacher_sees_what_the_student_sees(tmp_path):
    """The loader yields the trainer's images and keypoints, and the maps of a teacher that returns its input."""
    store = make_store(tmp_path / "people.zarr")
    strong = Augmentation(flip=0.5, rotation=40.0, rotation_probability=1.0, scale=0.3, half_body=0.0)
    trainers = Loader(StoreDataset(store, (48, 64), strong, seed=2), 8, shuffle=True)

    def teacher(crops):
        return crops[:, ::4, ::4].transpose(0, 3, 1, 2).astype(np.float32)

    teacher.input_size, teacher.heatmap_size = INPUT_SIZE, HEATMAP_SIZE
    (expected,), (found,) = trainers.epoch(1), live.LiveLoader(trainers, teacher).epoch(1)
    assert (found["image"].int() - expected["image"].int()).abs().max() <= 1
    torch.testing.assert_close(found["keypoints"], expected["keypoints"])
    assert torch.equal(found["row"], expected["row"])
    assert torch.equal(found["heatmaps"], found["image"][:, ::4, ::4].permute(0, 3, 1, 2).float())
    fine = Loader(StoreDataset(store, (48, 64), strong, stride=2, seed=2), 8, shuffle=True)
    (expected,), (found,) = fine.epoch(1), live.LiveLoader(fine, teacher).epoch(1)
    torch.testing.assert_close(found["keypoints"], expected["keypoints"])
    assert torch.equal(found["heatmaps"], found["image"][:, ::2, ::2].permute(0, 3, 1, 2).float())
    with pytest.raises(SystemExit, match="lack pixels of the student's maps at --stride 2"):
        live.LiveLoader(Loader(StoreDataset(store, INPUT_SIZE, stride=2), 8, shuffle=True), teacher)
    teacher.input_size = (100, 128)
    with pytest.raises(SystemExit, match="not a multiple"):
        live.LiveLoader(trainers, teacher)
