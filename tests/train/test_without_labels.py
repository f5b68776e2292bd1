"""A validation store without labels: missing metrics are "-" in text and null in JSON, and no run ends early."""

import json

import numpy as np
import pytest

import cache
from tests.support.stores.people import make_store
from tests.support.tiny_training import command, history
from tests.support.trained_student import make_checkpoint
from train.__main__ import main
from train.evaluate import cached_teacher, labels_of, measure
from train.run.folder import is_better

PCK = ("pck@0.05", "pck@0.1", "pck@0.2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Stores of the same persons, and two runs for each store without labels of its persons."""
    folder = tmp_path_factory.mktemp("unlabelled")
    make_store(folder / "train.zarr", 8)
    make_store(folder / "labelled.h5", 6)
    for labels in ("images", "nothing"):
        (folder / labels).mkdir()
        (folder / labels / "train.zarr").symlink_to(folder / "train.zarr")
        make_store(folder / labels / "val.h5", 6, labels=labels)
        for name in ("distill", "baseline"):
            assert main(command(folder / labels, folder / labels / name, name)) == 0
    return folder


def strict(path):
    """The content of a JSON file; NaN and Infinity, which JSON does not have, are errors."""

    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(path.read_text(), parse_constant=refuse)


def test_the_ap_of_a_detectors_boxes_is_that_of_the_same_labelled_persons(folder):
    boxes, labelled = (cache.open_store(path) for path in (folder / "images/val.h5", folder / "labelled.h5"))
    found, wanted = (measure(store, cached_teacher(store)) for store in (boxes, labelled))
    assert found["ap"] == wanted["ap"] == 100
    assert all(np.isnan(found[name]) for name in PCK)
    assert (labels_of(boxes), labels_of(labelled)) == ((True, False), (True, True))
    nothing = cache.open_store(folder / "nothing/val.h5")
    assert labels_of(nothing) == (False, False)
    assert np.isnan(measure(nothing, cached_teacher(nothing))["ap"])


@pytest.mark.parametrize(
    ("labels", "shown", "note"),
    [
        ("images", "AP 0.0, PCK@0.05 -,", "its persons have no labels: no PCK; AP chooses best.pt"),
        ("nothing", "AP -, PCK@0.05 -,", "no AP and no PCK; best.pt is the student of the last epoch"),
    ],
)
def test_runs_end_resume_and_report_without_labels(folder, tmp_path, capsys, labels, shown, note):
    out, stores = tmp_path / "run", folder / labels
    assert main(command(stores, out)) == 0
    printed = capsys.readouterr()
    assert printed.err.count(shown) == 2
    assert note in printed.err
    assert printed.out.rstrip().endswith("pck@0.05 -, pck@0.1 -, pck@0.2 -")
    assert main(command(stores, out, resume=True)) == 0
    metrics = strict(out / "metrics.json")
    assert [metrics[name] for name in PCK] == [None] * 3
    assert [line["pck@0.05"] for line in history(out)] == [None, None]
    assert (metrics["ap"] is None) == (labels == "nothing")


def test_without_ground_truth_the_last_epoch_is_kept(folder):
    from kdlib.students import checkpoint

    assert checkpoint.read(folder / "nothing/distill/best.pt")["epoch"] == 2


def test_tensorboard_gets_no_value_where_there_is_none(folder):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = event_accumulator.EventAccumulator(str(folder / "images/distill"))
    board.Reload()
    assert [name for name in board.Tags()["scalars"] if name.startswith("val/")] == ["val/ap"]


@pytest.mark.parametrize("labels", ["images", "nothing"])
def test_evaluation_and_report_show_a_dash(folder, tmp_path, capsys, labels):
    store = str(folder / labels / "val.h5")
    assert main(["evaluate", "--store", store, "--teacher", "--out", str(tmp_path / "metrics.json")]) == 0
    assert "pck@0.05 -" in capsys.readouterr().out
    assert strict(tmp_path / "metrics.json")["pck@0.05"] is None
    runs = [str(folder / labels / name) for name in ("distill", "baseline")]
    assert main(["report", "--store", store, "--runs", *runs, "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "The persons of this store have no labels for it." in page
    assert "No epochs were recorded." not in page
    assert page.count("<article") == 6  # every person once, in the order of the store
    assert 'id="worst"' not in page
    assert "nan" not in page


def test_int8_is_judged_by_ap_and_refused_before_work_without_ground_truth(folder, tmp_path, capsys, monkeypatch):
    pytest.importorskip("onnxscript", reason="exporting needs the extra [export]")
    student = make_checkpoint(tmp_path / "best.pt")
    flags = ["export", "--student", str(student), "--int8", "--calibration-crops", "6", "--check", "6"]
    given = [*flags, "--store", str(folder / "images/val.h5"), "--out"]
    assert main([*given, str(tmp_path / "a.onnx"), "--max-drop", "100"]) == 0
    (tmp_path / "a.int8.onnx").unlink()
    monkeypatch.setattr("train.commands.export.export_float32", lambda *_: None)  # a.onnx exists
    assert main([*given, str(tmp_path / "a.onnx"), "--max-drop", "-1000"]) == 1
    assert "points of AP, more than --max-drop" in capsys.readouterr().err
    assert not (tmp_path / "a.int8.onnx").exists()
    assert main([*flags, "--store", str(folder / "nothing/val.h5"), "--out", str(tmp_path / "c.onnx")]) == 1
    assert capsys.readouterr().err.startswith(f"error: {folder}/nothing/val.h5 has no ground truth, so int8 cannot be")
    assert not (tmp_path / "c.onnx").exists()


@pytest.mark.parametrize(
    ("metrics", "best", "wanted"),
    [
        ((10.0, 5.0), (9.0, 50.0), True),
        ((9.0, 50.0), (10.0, 5.0), False),
        ((10.0, 6.0), (10.0, 5.0), True),
        ((10.0, 5.0), (10.0, 5.0), False),
        ((0.0, 1.0), (0.0, 0.0), True),
        ((0.0, None), (0.0, None), False),
        ((1.0, None), (0.0, None), True),
        ((None, 6.0), (None, 5.0), True),
        ((None, 5.0), (None, 5.0), False),
        ((None, None), (None, None), True),
    ],
)
def test_a_tie_in_ap_is_broken_by_pck(metrics, best, wanted):
    one, other = (dict(zip(("ap", "pck@0.05"), values, strict=True)) for values in (metrics, best))
    assert is_better(one, other) is wanted


def test_a_resumed_run_compares_with_both_metrics_of_the_best_epoch(folder, tmp_path, monkeypatch):
    """AP never rises; the PCK of the second of three epochs is the highest, and the run is resumed before the third."""
    from kdlib.students import checkpoint
    from train.run import loop

    scores = iter([1.0, 3.0, 2.0])

    def fake(store, predictions, true=loop.measure):
        return {**true(store, predictions), "ap": 0.0, "pck@0.05": next(scores)}

    def stop(trainer, true=loop.Trainer._train_epoch):
        if trainer.progress.epoch == 2 and not trainer.run.resume:
            raise KeyboardInterrupt
        true(trainer)

    monkeypatch.setattr(loop, "measure", fake)
    monkeypatch.setattr(loop.Trainer, "_train_epoch", stop)
    arguments = command(folder / "images", tmp_path / "run", epochs=3)
    assert main(arguments) == 1
    assert main([*arguments, "--resume"]) == 0
    assert [line["pck@0.05"] for line in history(tmp_path / "run")] == [1.0, 3.0, 2.0]
    assert checkpoint.read(tmp_path / "run/best.pt")["epoch"] == 2
    assert strict(tmp_path / "run/metrics.json")["pck@0.05"] == 3.0
