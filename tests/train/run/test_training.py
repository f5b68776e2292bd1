"""Runs: learning, resuming, stopping, refusing, and the files that they write."""

import json
import os
import re
import shutil
import signal

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import cache
from kdlib.machine.process import available_cores
from kdlib.students.checkpoint import read
from kdlib.students.loading import load_checkpoint
from tests.support.stores.people import make_store
from train.__main__ import main
from train.evaluate import cached_teacher, measure
from train.recipe import Recipe
from train.run.folder import save_checkpoint
from train.run.loop import READ_EVERY, Trainer
from train.run.ranks import Ranks
from train.run.reporting import Durations
from train.run.settings import Run
from train.run.step import Stepper

FAST = [
    *("--pretrained", "none", "--input-size", "64x48", "--batch-size", "4", "--epochs", "2", "--threads", "2"),
    *("--precision", "fp32"),
]


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    make_store(folder / "train.zarr", 12)
    make_store(folder / "val.h5", 4)
    return folder


def command(stores, out, name="distill", *extra):
    return [
        name,
        *("--store", str(stores / "train.zarr")),
        *("--val-store", str(stores / "val.h5")),
        *("--out", str(out)),
        *FAST,
        *extra,
    ]


def weights(path):
    return load_checkpoint(path).model.state_dict()


@pytest.mark.parametrize("name", ["baseline", "distill"])
def test_a_run_leaves_its_configuration_history_metrics_and_students(stores, tmp_path, name, capsys):
    assert main(command(stores, tmp_path / "run", name)) == 0
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert {"ap", "ap50", "ap75", "ar", "pck@0.05", "pck@0.1", "pck@0.2", "instances", "model", "store"} <= set(metrics)
    assert metrics["store"] == "val.h5"
    assert metrics["instances"] == 4
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["store"]["content_sha256"] == cache.open_store(stores / "train.zarr").manifest["content_sha256"]
    assert config["manifests"]["val_store"] == dict(cache.open_store(stores / "val.h5").manifest)
    assert config["manifests"]["store"]["content_sha256"] == config["store"]["content_sha256"]
    assert (config["supervision"]["kd_weight"] > 0) == (name == "distill")
    history = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in history] == [1, 2]
    assert ("kd" in history[0]) == (name == "distill")
    board = EventAccumulator(str(tmp_path / "run"))
    board.Reload()
    assert [event.step for event in board.Images("val/people")] == [3, 6]
    output = capsys.readouterr()
    assert "pck@0.05" in output.out
    first, last = (line for line in output.err.splitlines() if " epoch " in line)
    assert re.search(r" instances/s, \d+ s to go$", first)
    assert last.endswith(" instances/s")


def test_the_time_left_is_that_of_the_steps_and_of_the_ends_of_epochs():
    durations = Durations()
    assert durations.remaining(30, 3) is None
    durations.add_steps(4, 8.0)  # of 10 steps: the run was resumed
    durations.add_end(5.0)
    durations.add_steps(10, 34.0)
    durations.add_end(7.0)
    assert durations.remaining(30, 3) == pytest.approx(30 * 3.0 + 3 * 6.0)
    assert durations.remaining(0, 0) is None


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"loss": "mse"},
        {"head": "interp", "logits": "raw", "temperature": 4.0},
        {"joints": "labelled"},
        {"stride": 8},
        {"stride": 2, "head": "pyramid"},
    ],
)
def test_steps_on_one_batch_learn_it(stores, tmp_path, settings):
    recipe = Recipe(input_size="64x48", pretrained="none", batch_size=8, epochs=100, precision="fp32", **settings)
    train, val = cache.open_store(stores / "train.zarr"), cache.open_store(stores / "val.h5")
    trainer = Trainer(Run(train, val, tmp_path, recipe, distil=True, device=torch.device("cpu"), threads=1))
    batch = next(trainer.loader.epoch(0))
    losses = [trainer.train_step(batch).read()["loss"] for _ in range(30)]
    assert min(losses[-5:]) < 0.9 * losses[0]


def test_training_and_evaluation_load_with_the_threads_that_were_given(stores, tmp_path):
    train, val = cache.open_store(stores / "train.zarr"), cache.open_store(stores / "val.h5")
    recipe = Recipe(pretrained="none", batch_size=4, input_size="64x48")
    for threads, expected in ((3, 3), (None, available_cores())):
        run = Run(train, val, tmp_path, recipe, distil=True, device=torch.device("cpu"), threads=threads)
        state = Trainer(run).state
        assert (state.loader.threads, state.val_loader.threads) == (expected, expected)


def test_the_same_seed_gives_the_same_student_bit_for_bit(stores, tmp_path):
    for out in ("one", "two"):
        assert main(command(stores, tmp_path / out)) == 0
    one, two = weights(tmp_path / "one/best.pt"), weights(tmp_path / "two/best.pt")
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert main(command(stores, tmp_path / "three", "distill", "--seed", "1")) == 0
    three = weights(tmp_path / "three/best.pt")
    assert any(not torch.equal(one[k], three[k]) for k in one)


def test_an_interrupt_while_the_only_epoch_is_evaluated_is_resumed_by_evaluating_it(stores, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("train.run.loop.predict", interrupt)
        assert main(command(stores, tmp_path / "run", "distill", "--epochs", "1")) == 1
    assert main(command(stores, tmp_path / "run", "distill", "--epochs", "1", "--resume")) == 0
    assert len((tmp_path / "run/history.jsonl").read_text().splitlines()) == 1


def test_overwriting_waits_until_nothing_can_be_refused(stores, tmp_path, capsys):
    assert main(command(stores, tmp_path / "run", "baseline", "--epochs", "1")) == 0
    before = (tmp_path / "run/best.pt").read_bytes()
    wrong = command(stores, tmp_path / "run", "baseline", "--overwrite")
    wrong[wrong.index("--pretrained") + 1] = str(tmp_path / "no.pth")
    assert main(wrong) == 1
    assert main(command(stores, tmp_path / "run", "distill", "--overwrite", "--kd-weight", "0")) == 1
    assert "there is nothing to learn from" in capsys.readouterr().err
    assert (tmp_path / "run/best.pt").read_bytes() == before
    assert main(command(stores, tmp_path / "run", "baseline", "--epochs", "1", "--overwrite", "--seed", "1")) == 0
    assert (tmp_path / "run/best.pt").read_bytes() != before


def test_a_loss_that_is_not_finite_stops_before_the_optimiser_and_names_the_instances(
    stores, tmp_path, monkeypatch, capsys
):
    original, seen = Trainer.train_step, {}

    def poison(self, batch):
        if self.progress.step == 2:
            seen["before"] = {k: v.clone() for k, v in self.state.model.named_parameters()}
            seen["model"], seen["rows"] = self.state.model, batch["row"]
            batch["keypoints"][:] = float("nan")
        return original(self, batch)

    monkeypatch.setattr(Trainer, "train_step", poison)
    assert main(command(stores, tmp_path / "run", "distill", "--gt-weight", "1")) == 1
    error = capsys.readouterr().err
    assert "the loss is nan at step 3" in error
    assert all(str(1000 + int(row)) in error for row in seen["rows"])
    assert all(torch.equal(v, seen["before"][k]) for k, v in seen["model"].named_parameters())


def test_losses_that_are_read_every_few_steps_change_nothing(stores, tmp_path, monkeypatch):
    """As on a GPU: 2 epochs of 3 steps, read after steps 1, 2 and 4 and at the end of each epoch."""
    assert main(command(stores, tmp_path / "each", "distill", "--ema", "0.9")) == 0
    monkeypatch.setitem(READ_EVERY, "cpu", 2)
    assert main(command(stores, tmp_path / "some", "distill", "--ema", "0.9", "--checkpoint-every", "1m")) == 0
    each, some = (tmp_path / name / "history.jsonl" for name in ("each", "some"))
    losses = [[json.loads(line)["loss"] for line in path.read_text().splitlines()] for path in (each, some)]
    assert losses[0] == losses[1]
    assert all(
        torch.equal(v, weights(tmp_path / "some/last.pt")[k]) for k, v in weights(tmp_path / "each/last.pt").items()
    )


@pytest.mark.parametrize("stopped", [False, True])
def test_a_loss_that_is_not_finite_ends_all_processes_alike_when_it_is_read_later(
    stores, tmp_path, monkeypatch, capsys, stopped
):
    """The other ranks end where the loss is read: rank 0 must not wait for them afterwards, also after a signal."""
    step, gather, gathered = Trainer.train_step, Ranks.gather, []

    def poison(self, batch):
        if self.progress.step == 1:
            batch["keypoints"][:] = float("nan")
            if stopped:
                os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch)

    def recorded(self, value):
        gathered.append(value)
        return gather(self, value)

    monkeypatch.setattr(Trainer, "train_step", poison)
    monkeypatch.setattr(Ranks, "gather", recorded)
    monkeypatch.setitem(READ_EVERY, "cpu", 100)
    assert main(command(stores, tmp_path / "run", "distill", "--gt-weight", "1")) == 1
    assert "the loss is nan at step 2, before the optimiser used it" in capsys.readouterr().err
    assert len(gathered[-1]) == 4  # the rows of the batch
    assert not (tmp_path / "run/last.pt").exists()


@pytest.mark.parametrize("clip", ["1", "0"])
def test_a_gradient_that_is_not_finite_stops_before_the_optimiser_where_the_loss_is(
    stores, tmp_path, monkeypatch, capsys, clip
):
    gradients = Stepper.compute_gradients

    def poison(self, batch, step):
        losses = gradients(self, batch, step)
        if step == 5:  # the run's last
            next(self.model.parameters()).grad[0, 0, 0, 0] = float("nan")
        return losses

    monkeypatch.setattr(Stepper, "compute_gradients", poison)
    assert main(command(stores, tmp_path / "run", "distill", "--clip", clip, "--checkpoint-every", "1")) == 1
    assert "the gradient's norm is nan at step 6, before the optimiser used it" in capsys.readouterr().err
    assert all(v.isfinite().all() for v in read(tmp_path / "run/last.pt")["model"].values())
    monkeypatch.undo()
    assert main(command(stores, tmp_path / "run", "distill", "--clip", clip, "--resume")) == 0


def test_a_line_about_a_large_batch_names_its_first_instances(stores, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("train.run.loop.SHOWN_IDS", 3)
    monkeypatch.setattr(Stepper, "clip", lambda self: torch.tensor(torch.inf))
    assert main(command(stores, tmp_path / "run")) == 1
    assert re.search(r"ids of the batch are 10\d\d, 10\d\d, 10\d\d and 1 more: check", capsys.readouterr().err)


def test_the_trainer_needs_nothing_but_the_store(stores, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(stores, moved)
    assert main(command(moved, tmp_path / "run", "distill", "--epochs", "1")) == 0


def test_refusals_are_one_line_and_lose_nothing(stores, tmp_path, capsys):
    def refused(arguments):
        assert main(arguments) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ")
        return error

    out = tmp_path / "run"
    assert main(command(stores, out, "baseline", "--epochs", "1")) == 0
    capsys.readouterr()
    before = (out / "best.pt").read_bytes()
    assert "already holds a run" in refused(command(stores, out, "baseline", "--epochs", "1"))
    assert "would change recipe.epochs: 1 -> 2: give the flags" in refused(command(stores, out, "baseline", "--resume"))
    assert "divisible by 16" in refused(command(stores, tmp_path / "a", "distill", "--input-size", "100x90"))
    assert "looks like 256x192" in refused(command(stores, tmp_path / "a", "distill", "--input-size", "big"))
    assert "--epochs must be positive" in refused(command(stores, tmp_path / "a", "distill", "--epochs", "0"))
    for flag, value, wanted in (
        ("--warmup", "2", "at least 0 and below 1"),
        ("--flip", "1.5", "between 0 and 1"),
        ("--clip", "-1", "0 or more"),
        ("--learning-rate", "nan", "positive"),
    ):
        assert f"{flag} must be {wanted}" in refused(command(stores, tmp_path / "a", "distill", flag, value))
    with pytest.raises(SystemExit, match="2"):
        main(command(stores, tmp_path / "a", "distill", "--threads", "-1"))
    assert not (tmp_path / "a").exists()
    assert "no device" in refused(command(stores, tmp_path / "a", "distill", "--device", "cuda:7"))
    assert "nowhere.zarr" in refused(["evaluate", "--store", "nowhere.zarr", "--teacher"])
    assert f"--out {tmp_path} is a folder; give the name of a file" in refused(
        ["evaluate", "--store", str(stores / "val.h5"), "--teacher", "--out", str(tmp_path)]
    )
    assert "no student at" in refused(["evaluate", "--store", str(stores / "val.h5"), "--student", "no.pt"])
    assert "is a folder; a run's student is" in refused(
        ["evaluate", "--store", str(stores / "val.h5"), "--student", str(tmp_path)]
    )
    for content in ("", "a text\n", "hello world\n", "<html>"):
        (tmp_path / "text.pt").write_text(content)
        assert "text.pt is not a student's checkpoint: it is truncated or was not written by PyTorch" in refused(
            ["evaluate", "--store", str(stores / "val.h5"), "--student", str(tmp_path / "text.pt")]
        )
    newer = read(out / "best.pt")
    newer["recipe"]["quantum"] = 1
    save_checkpoint(tmp_path / "newer.pt", newer)
    assert "a recipe that this version cannot read (quantum)" in refused(
        ["evaluate", "--store", str(stores / "val.h5"), "--student", str(tmp_path / "newer.pt")]
    )
    torch.save({**newer, "version": 2}, tmp_path / "newer.pt")
    assert "newer.pt is not a student's checkpoint of version 1" in refused(
        ["evaluate", "--store", str(stores / "val.h5"), "--student", str(tmp_path / "newer.pt")]
    )
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/precious").write_text("x")
    assert "is not a run folder" in refused(command(stores, tmp_path / "foreign", "distill", "--overwrite"))
    assert (out / "best.pt").read_bytes() == before
    assert (tmp_path / "foreign/precious").exists()


def test_evaluation_of_the_cached_teacher_is_right_when_the_teacher_is(stores, tmp_path, capsys):
    store = cache.open_store(stores / "train.zarr")
    metrics = measure(store, cached_teacher(store, "dark"))
    assert metrics["ap"] == pytest.approx(100)
    assert metrics["pck@0.05"] == pytest.approx(100)
    wrong = make_store(tmp_path / "wrong.zarr", 12, shift=6.0)
    assert measure(wrong, cached_teacher(wrong))["pck@0.05"] < 5
    assert main(["evaluate", "--store", str(stores / "val.h5"), "--teacher", "--out", str(tmp_path / "t.json")]) == 0
    written = json.loads((tmp_path / "t.json").read_text())
    assert (written["model"], written["decoder"]) == ("gaussians", "argmax")


def test_evaluating_a_student_again_gives_the_metrics_of_its_run(stores, tmp_path):
    assert main(command(stores, tmp_path / "run", "baseline", "--epochs", "1")) == 0
    student = str(tmp_path / "run/best.pt")
    assert (
        main(["evaluate", "--store", str(stores / "val.h5"), "--student", student, "--out", str(tmp_path / "e.json")])
        == 0
    )
    again, metrics = (json.loads(p.read_text()) for p in (tmp_path / "e.json", tmp_path / "run/metrics.json"))
    assert all(again[k] == metrics[k] for k in ("ap", "pck@0.05", "pck@0.1", "instances"))
    assert again["decoder"] == "dark"
    assert again["parameters"] > 1e5
    assert again["multiply_adds"] > 1e7
