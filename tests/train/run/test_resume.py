"""A run that ends early, in any way, can be resumed as if it had not ended."""

import errno
import functools
import json
import os
import re
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kdlib.students.checkpoint import read
from tests.support.stores.people import make_store
from tests.support.tiny_training import command, history, processes, results, run_quietly, same_weights
from train.__main__ import main
from train.errors import TrainError
from train.run.folder import save_checkpoint
from train.run.loop import Trainer


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    make_store(folder / "train.zarr", 12)
    make_store(folder / "val.h5", 4)
    return folder


EVERY = {"checkpoint_every": 1, "ema": 0.9}
"""A checkpoint per step, and an average of the weights, which must survive too."""


@pytest.fixture(scope="module")
def whole(stores, tmp_path_factory):
    """An uninterrupted run of two epochs of three steps."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(command(stores, out, **EVERY)) == 0
    return out


def die_at(moment, times):
    """Make this process kill itself after a step, or before or after a file is renamed to its place."""
    seen = []

    def count(what):
        seen.append(what)
        if seen.count(moment) == times:
            os.kill(os.getpid(), signal.SIGKILL)

    step, replace = Trainer.train_step, Path.replace

    def counted_step(self, batch):
        losses = step(self, batch)
        count(f"step {self.progress.step + 1}")
        return losses

    def counted_replace(self, target):
        count(f"before {Path(target).name}")
        replace(self, target)
        count(f"after {Path(target).name}")

    Trainer.train_step, Path.replace = counted_step, counted_replace


@pytest.mark.parametrize(
    ("moment", "times"),
    [
        ("step 1", 1),
        ("before last.pt", 2),
        ("after best.pt", 1),  # between best.pt and last.pt
        ("before history.jsonl", 2),  # between last.pt and its line of the history
        ("step 5", 1),
        ("before metrics.json", 1),
    ],
)
def test_a_run_killed_at_any_moment_ends_as_an_uninterrupted_one(stores, whole, tmp_path, moment, times):
    arguments, log = command(stores, tmp_path / "run", **EVERY), tmp_path / "log"
    process = processes().Process(target=run_quietly, args=(arguments, log, functools.partial(die_at, moment, times)))
    process.start()
    process.join(200)
    assert process.exitcode == -signal.SIGKILL, log.read_text()
    assert main(command(stores, tmp_path / "run", resume=True, **EVERY)) == 0
    assert results(tmp_path / "run") == results(whole)
    assert same_weights(tmp_path / "run/last.pt", whole / "last.pt")
    assert same_weights(tmp_path / "run/best.pt", whole / "best.pt")
    assert not list((tmp_path / "run").glob(".*.tmp*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(stores, whole, tmp_path, monkeypatch, capsys, number):
    step = Trainer.train_step

    def signalled(self, batch):
        if self.progress.step == 4:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)  # as a terminal and torchrun send it, one right after the other
        return step(self, batch)

    before = signal.getsignal(number)
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "train_step", signalled)
        assert main(command(stores, tmp_path / "run", ema=0.9)) == 1
    assert signal.getsignal(number) is before
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"error: stopped by {number.name}, after step 5 of 6, in epoch 2")
    assert "--resume continues" in error
    assert read(tmp_path / "run/last.pt")["progress"]["step"] == 5
    assert main(command(stores, tmp_path / "run", resume=True, ema=0.9)) == 0
    assert same_weights(tmp_path / "run/last.pt", whole / "last.pt")
    assert results(tmp_path / "run") == results(whole)


def test_a_second_signal_ends_the_run_at_once(stores, tmp_path, monkeypatch, capsys):
    def signalled(*_):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "train_step", signalled)
    monkeypatch.setattr("train.run.stopping.REPEAT_SECONDS", 0.0)
    assert main(command(stores, tmp_path / "run")) == 1
    assert "interrupted immediately" in capsys.readouterr().err


def test_a_full_disk_leaves_the_last_checkpoint_whole_and_says_so(stores, whole, tmp_path, monkeypatch, capsys):
    fsync, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return fsync(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert main(command(stores, tmp_path / "run", **EVERY)) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "last.pt" in error or "best.pt" in error
    assert re.search(
        r"the disk that holds \S+/run is full \([\d,]+ bytes are free\); free some space, then continue", error
    )
    assert "Errno" not in error
    assert not list((tmp_path / "run").glob(".*.tmp*"))
    assert 0 < read(tmp_path / "run/last.pt")["progress"]["step"] < 6
    assert main(command(stores, tmp_path / "run", resume=True, **EVERY)) == 0
    assert results(tmp_path / "run") == results(whole)


FULL = Path("/dev/full")
"""A device that refuses every byte, like a full disk; Linux has it."""


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")
def test_what_torch_says_of_a_full_disk_is_not_what_the_run_says(stores, whole, tmp_path, monkeypatch, capsys):
    """Every write fails for real, and torch replaces the error by one of its own when it closes the file."""
    monkeypatch.setattr("kdcli.files.secrets.token_hex", lambda _: "0")
    (tmp_path / "run").mkdir()
    beside = tmp_path / f"run/.last.pt.{os.getpid()}.0.tmp.pt"
    beside.symlink_to(FULL)
    assert main(command(stores, tmp_path / "run", **EVERY)) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"could not write {tmp_path}/run/last.pt: the disk that holds {tmp_path}/run is full (" in error
    assert "inline_container" not in error
    assert not beside.is_symlink()
    assert main(command(stores, tmp_path / "run", resume=True, **EVERY)) == 0
    assert results(tmp_path / "run") == results(whole)


def save_with_room_for(path, nbytes):
    """Body of a process: save a checkpoint while files are limited to a size; writes the refusal beside it."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, resource.RLIM_INFINITY))
    try:
        save_checkpoint(path, {"model": {str(i): torch.ones(1000 * i) for i in range(10)}})
    except TrainError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        path.with_name("refusal").write_text(str(error))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_file_that_may_not_grow_is_named_wherever_it_ends(tmp_path, share):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"model": {str(i): torch.zeros(1000 * i) for i in range(10)}})
    before = path.read_bytes()
    process = processes().Process(target=save_with_room_for, args=(path, int(share * len(before))))
    process.start()
    process.join(60)
    assert (tmp_path / "refusal").read_text() == (
        f"could not write {path}: File too large; solve that, then continue with --resume"
    )
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.pt", "refusal"]


def test_an_error_that_is_not_the_disks_is_not_taken_for_it(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        save_checkpoint(tmp_path / "last.pt", {})
    assert list(tmp_path.iterdir()) == []


def test_a_run_goes_on_only_as_the_run_it_was(stores, whole, tmp_path, capsys):
    assert main(command(stores, whole, resume=True, **(EVERY | {"ema": 0.99}))) == 1
    assert (
        "resuming would change recipe.ema: 0.9 -> 0.99: give the flags that the run was started with"
        in capsys.readouterr().err
    )
    assert main(command(stores, whole, resume=True, **EVERY)) == 0  # there is nothing left to do, and nothing is lost
    assert len(history(whole)) == 2


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.999])
def test_a_checkpoint_that_was_cut_says_what_is_left_of_the_run(stores, whole, tmp_path, capsys, keep):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    content = (out / "last.pt").read_bytes()
    (out / "last.pt").write_bytes(content[: int(keep * len(content))])

    def refusal():
        assert main(command(stores, out, resume=True, **EVERY)) == 1
        return capsys.readouterr().err.strip().splitlines()[-1]

    cut = f"error: {out}/last.pt is not a student's checkpoint: it is truncated or was not written by PyTorch; the run"
    epoch, restart = read(out / "best.pt")["epoch"], "start again with another --out, or with --overwrite"
    assert refusal() == (
        f"{cut} cannot be resumed, but {out}/best.pt, of epoch {epoch}, is complete, and evaluate, predict and export "
        f"accept it: {restart}, which deletes it"
    )
    (out / "best.pt").unlink()
    assert refusal() == f"{cut} cannot be resumed: {restart}"


def test_a_store_is_known_by_its_content_and_not_by_its_name(stores, whole, tmp_path, capsys):
    """A store that was renamed is the same store; another store in its place is not."""
    moved = tmp_path / "moved"
    shutil.copytree(stores / "train.zarr", moved / "persons.zarr")
    shutil.copy(stores / "val.h5", moved / "judges.h5")
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run/metrics.json").unlink()

    def again(train, val):
        paths = {"store": moved / train, "val_store": moved / val}
        return main(command(stores, tmp_path / "run", resume=True, **EVERY, **paths))

    assert again("persons.zarr", "judges.h5") == 0
    assert history(tmp_path / "run") == history(whole)
    assert json.loads((tmp_path / "run/metrics.json").read_text())["store"] == "judges.h5"
    make_store(moved / "other.h5", 6)
    capsys.readouterr()
    for train, val, changed in (("other.h5", "judges.h5", "store"), ("persons.zarr", "other.h5", "val_store")):
        assert again(train, val) == 1
        error = capsys.readouterr().err
        assert f"belongs to another run, and resuming would change {changed}.content_sha256: " in error
        assert ".name" not in error


def test_evaluating_every_few_epochs_changes_no_weight_and_resumes_exactly(stores, tmp_path, capsys):
    """Five epochs, of which the second, fourth and last are evaluated; the run is stopped in the third."""
    flags = {"epochs": 5, "checkpoint_every": 1}
    assert main(command(stores, tmp_path / "each", **flags)) == 0
    capsys.readouterr()
    assert main(command(stores, tmp_path / "some", evaluate_every=2, **flags)) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("distilled epoch")]
    assert ["AP" in line for line in lines] == [False, True, False, True, True]
    each, some = results(tmp_path / "each")[1], results(tmp_path / "some")[1]
    for number, (one, other) in enumerate(zip(each, some, strict=True), start=1):
        assert other == (one if number in (2, 4, 5) else {name: one[name] for name in ("epoch", "loss", "kd")})
    assert same_weights(tmp_path / "each/last.pt", tmp_path / "some/last.pt")
    best = max((line for line in some if "ap" in line), key=lambda line: (line["ap"], line["pck@0.05"]))
    assert read(tmp_path / "some/best.pt")["epoch"] == best["epoch"]

    arguments = command(stores, tmp_path / "killed", evaluate_every=2, **flags)
    process = processes().Process(
        target=run_quietly, args=(arguments, tmp_path / "log", functools.partial(die_at, "step 8", 1))
    )
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert main([*arguments, "--resume"]) == 0
    assert results(tmp_path / "killed") == results(tmp_path / "some")
    assert same_weights(tmp_path / "killed/last.pt", tmp_path / "some/last.pt")
    assert same_weights(tmp_path / "killed/best.pt", tmp_path / "some/best.pt")
    events = EventAccumulator(str(tmp_path / "some")).Reload()
    assert [event.step for event in events.Scalars("val/pck@0.05")] == [6, 12, 15]


def test_a_resident_store_gives_the_same_run_which_resumes_exactly(stores, tmp_path, capsys, monkeypatch):
    assert main(command(stores, tmp_path / "loaded")) == 0
    assert main(command(stores, tmp_path / "resident", resident="on", checkpoint_every=1)) == 0
    loaded, kept = history(tmp_path / "loaded"), history(tmp_path / "resident")
    assert [line["loss"] for line in kept] == pytest.approx([line["loss"] for line in loaded], rel=1e-3)
    assert json.loads((tmp_path / "resident/config.json").read_text())["resolved"]["resident"] is True
    assert json.loads((tmp_path / "loaded/config.json").read_text())["resolved"]["resident"] is False

    step = Trainer.train_step

    def signalled(self, batch):
        if self.progress.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "train_step", signalled)
        assert main(command(stores, tmp_path / "stopped", resident="on")) == 1
    assert main(command(stores, tmp_path / "stopped", resident="on", resume=True)) == 0
    assert results(tmp_path / "stopped") == results(tmp_path / "resident")
    assert same_weights(tmp_path / "stopped/last.pt", tmp_path / "resident/last.pt")


def test_a_store_that_does_not_fit_is_refused_in_one_line(stores, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("kdlib.samples.resident.free_memory", lambda device: 1000)
    assert main(command(stores, tmp_path / "run", resident="on")) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "does not fit into the memory of cpu: --resident needs" in line
    assert "GB are free" in line
    assert not (tmp_path / "run").exists()


def test_checkpoints_hold_what_the_run_resolved_and_where_its_sampler_is(whole):
    content = read(whole / "last.pt")
    config = json.loads((whole / "config.json").read_text())
    assert config.pop("manifests").keys() == {"store", "val_store"}
    assert config.pop("sources")["steps"] == 6
    assert all(content[name] == value for name, value in config.items())
    assert config["resolved"]["tf32"] is False
    assert {"epoch": 2, "step": 6, "steps_of_epoch": 0}.items() <= content["progress"].items()
    assert content["progress"]["history"] == history(whole)


def test_the_time_between_checkpoints_is_read_as_written(stores, tmp_path, capsys):
    assert main(command(stores, tmp_path / "run", checkpoint_every="often")) == 1
    assert "--checkpoint-every takes steps, e.g. 500, or minutes, e.g. 5m; got 'often'" in capsys.readouterr().err
