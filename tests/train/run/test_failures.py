"""A problem during a run ends it with one line that gives the problem, its place, and how to continue."""

import errno
import json
import os
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import cache
from kdcli import system
from kdlib.samples.dataset import StoreDataset
from kdlib.students.checkpoint import read
from kdlib.students.loading import TorchStudent
from tests.support.stores.people import IMAGE_SIZE, make_store
from tests.support.tiny_training import command, history, results
from train.__main__ import main
from train.errors import TrainError
from train.run.folder import check_writable
from train.run.loop import Trainer
from train.run.step import Stepper

BAD = (3, 4, 9)
"""Damaged rows of the store; two of them are adjacent, so that one replacement is damaged itself."""

NOBODY = 65534
CUBLAS = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    make_store(folder / "train.zarr", 12)
    make_store(folder / "val.h5", 4)
    return folder


@pytest.fixture(scope="module")
def damaged(stores, tmp_path_factory):
    """The same stores with one flipped bit in each of three frames."""
    folder = tmp_path_factory.mktemp("damaged") / "stores"
    shutil.copytree(stores, folder)
    store = cache.open_store(folder / "train.zarr")
    for row in BAD:
        frame, found = store.frame(row), 0
        for path in (folder / "train.zarr").rglob("*"):
            if path.is_file() and frame in (content := path.read_bytes()):
                at = content.index(frame) + len(frame) // 2
                path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
                found += 1
        assert found == 1
    return folder


CUBLAS = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"


def error_of(capsys):
    lines = capsys.readouterr().err.strip().splitlines()
    assert "Traceback" not in "\n".join(lines)
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    return lines[-1]


def test_a_corrupt_record_ends_the_run_and_is_named(damaged, tmp_path, capsys):
    assert main(command(damaged, tmp_path / "run")) == 1
    error = error_of(capsys)
    assert any(f"instance {row} (annotation {1000 + row}), frame: the bytes do not match" in error for row in BAD)
    assert str(damaged / "train.zarr") in error
    assert "--skip-bad-records" in error
    assert "there is no checkpoint yet" in error


def test_a_corrupt_record_of_the_validation_store_ends_the_run_behind_a_checkpoint(stores, damaged, tmp_path, capsys):
    run = command(stores, tmp_path / "run", val_store=str(damaged / "train.zarr"), skip_bad_records=True)
    assert main(run) == 1
    error = error_of(capsys)
    assert f"in the evaluation: {damaged / 'train.zarr'}: instance " in error
    assert any(f" {row} (annotation {1000 + row}), frame: the bytes do not match" in error for row in BAD)
    assert "after step 3 of 6, in epoch 1" in error
    assert "--resume continues" in error
    assert read(tmp_path / "run/last.pt")["progress"]["step"] == 3


def test_corrupt_records_are_replaced_counted_and_reported(damaged, tmp_path, capsys):
    flags = {"skip_bad_records": True}
    assert main(command(damaged, tmp_path / "one", **flags)) == 0
    assert capsys.readouterr().err.count("3 bad records so far were replaced by others, e.g. ") == 2
    assert json.loads((tmp_path / "one/metrics.json").read_text())["bad_records"] == 3
    assert [line["bad_records"] for line in history(tmp_path / "one")] == [3, 3]
    assert main(command(damaged, tmp_path / "two", threads=1, **flags)) == 0
    assert results(tmp_path / "one") == results(tmp_path / "two")


def test_skipping_goes_on_where_a_corrupt_record_ended_the_run(damaged, tmp_path):
    assert main(command(damaged, tmp_path / "cut")) == 1
    assert main(command(damaged, tmp_path / "cut", skip_bad_records=True, resume=True)) == 0
    assert main(command(damaged, tmp_path / "whole", skip_bad_records=True)) == 0
    assert results(tmp_path / "cut") == results(tmp_path / "whole")


def test_a_store_of_bad_records_is_not_skipped_through(stores, tmp_path, monkeypatch, capsys):
    def damaged(self, row):
        raise cache.StoreFormatError(f"record {row} is damaged")

    monkeypatch.setattr(cache.Store, "frame", damaged)
    assert main(command(stores, tmp_path / "run", skip_bad_records=True)) == 1
    assert "is damaged" in error_of(capsys)


@pytest.mark.parametrize("skip", [{}, {"skip_bad_records": True}])
def test_a_store_that_vanishes_ends_the_run_with_a_checkpoint(stores, tmp_path, monkeypatch, capsys, skip):
    """A network file system that disappears: every read fails, and no failure is a bad record."""
    read_at, fill, gone = system.read_at, StoreDataset.fill, []

    def stale(handle, *where):
        if gone:
            raise OSError(errno.ESTALE, "Stale file handle")
        return read_at(handle, *where)

    def vanish(self, batch, slot, row, epoch):
        if epoch == 1:
            gone.append(row)
        fill(self, batch, slot, row, epoch)

    with monkeypatch.context() as patched:
        patched.setattr(system, "read_at", stale)
        patched.setattr(StoreDataset, "fill", vanish)
        assert main(command(stores, tmp_path / "run", **skip)) == 1
    error = error_of(capsys)
    assert "train.zarr" in error
    assert "Stale file handle" in error
    assert "after step 3 of 6, in epoch 2" in error
    assert read(tmp_path / "run/last.pt")["progress"]["step"] == 3
    assert main(command(stores, tmp_path / "run", resume=True, **skip)) == 0


def test_a_store_whose_folder_is_removed_ends_the_run(stores, tmp_path, monkeypatch, capsys):
    moved = tmp_path / "stores"
    shutil.copytree(stores, moved)
    train = Trainer.train

    def remove(self):
        shutil.rmtree(moved / "train.zarr")
        train(self)

    monkeypatch.setattr(Trainer, "train", remove)
    assert main(command(moved, tmp_path / "run")) == 1
    error = error_of(capsys)
    assert "missing; the store is incomplete or damaged" in error
    assert "after step 0 of 6" in error


@pytest.fixture(scope="module")
def frameless(stores, tmp_path_factory):
    """The same stores without frames, and the folder of their images."""
    folder = tmp_path_factory.mktemp("frameless")
    make_store(folder / "train.zarr", 12, frames=False)
    shutil.copy(stores / "val.h5", folder)
    (folder / "images").mkdir()
    for name in set(cache.open_store(folder / "train.zarr").instances["file_name"]):
        cv2.imwrite(str(folder / "images" / name), np.zeros((*IMAGE_SIZE[::-1], 3), np.uint8))
    return folder


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_fails_before_its_first_step_leaves_its_folder_free(frameless, tmp_path, capsys):
    images, out = {"images": frameless / "images"}, tmp_path / "new/run"
    assert main(command(frameless, out, images=tmp_path)) == 1
    assert "is missing; is" in (error := error_of(capsys))
    assert error.endswith("after step 0 of 6, in epoch 1; there is no checkpoint yet")
    assert not (tmp_path / "new").exists()
    assert main(command(frameless, out, **images)) == 0
    before = files(out)
    assert main(command(frameless, out, images=tmp_path, overwrite=True)) == 1
    assert error_of(capsys).endswith("there is no checkpoint yet")  # the old run's checkpoint does not count
    assert files(out) == before


def test_a_folder_that_another_run_took_meanwhile_is_left_to_it(stores, tmp_path, monkeypatch, capsys):
    step = Trainer.train_step

    def while_another_begins(self, batch):
        (tmp_path / "run").mkdir()
        (tmp_path / "run/config.json").write_text("another's")
        return step(self, batch)

    monkeypatch.setattr(Trainer, "train_step", while_another_begins)
    assert main(command(stores, tmp_path / "run")) == 1
    assert "already holds a run" in error_of(capsys)
    assert {str(name): text for name, text in files(tmp_path / "run").items()} == {"config.json": b"another's"}


@pytest.mark.parametrize("flags", [{}, {"resume": True}, {"overwrite": True}])
def test_a_file_in_the_place_of_the_run_folder_is_refused_at_once(stores, tmp_path, capsys, flags):
    file = tmp_path / "file"
    file.write_text("precious")
    assert main(command(stores, file, **flags)) == 1
    assert error_of(capsys) == f"error: --out {file} is a file; give a folder; it is created if it does not exist"
    assert main(command(stores, file / "run", **flags)) == 1
    assert error_of(capsys) == f"error: --out {file}/run cannot be created: {file} is a file; give another folder"
    assert file.read_text() == "precious"


@pytest.fixture
def locked():
    """A folder that the user may enter but not write to; root becomes another user during the test."""
    root = os.geteuid() == 0
    folder = Path(tempfile.mkdtemp())
    (folder / "closed").mkdir(mode=0)
    (folder / "link").symlink_to("nothing")
    folder.chmod(0o555)
    if root:
        os.setresuid(NOBODY, NOBODY, 0)
    yield folder
    if root:
        os.setresuid(0, 0, 0)
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_run_folder_that_cannot_be_written_to_is_refused_before_anything_is_computed(locked):
    for out in (locked, locked / "run", locked / "several/folders/down"):
        with pytest.raises(TrainError) as refusal:
            check_writable(out)
        assert str(refusal.value) == f"--out {out}: no permission to write to {locked}; give another folder"
    with pytest.raises(
        TrainError, match=rf"--out {locked}/closed/run: no permission to read its parent folders .*; give"
    ):
        check_writable(locked / "closed/run")
    with pytest.raises(TrainError, match=rf"link/run cannot be created: {locked}/link is a broken link"):
        check_writable(locked / "link/run")


def test_a_loader_thread_that_fails_is_named_with_its_place(stores, tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise ArithmeticError("no more")

    monkeypatch.setattr("kdlib.samples.dataset.warp_packed", broken)
    assert main(command(stores, tmp_path / "run")) == 1
    error = error_of(capsys)
    assert "a loader thread failed: ArithmeticError: no more (test_failures.py, line " in error
    assert error.endswith("there is no checkpoint yet")


def test_a_disk_too_full_for_tensorboard_ends_the_run_in_one_line(stores, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
    assert main(command(stores, tmp_path / "run")) == 1
    assert "could not write TensorBoard's events in" in error_of(capsys)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB"), RuntimeError(CUBLAS)])
@pytest.mark.parametrize("where", ["step", "build", "evaluation", "loader"])
def test_full_memory_names_the_flags_that_need_less(stores, tmp_path, monkeypatch, capsys, error, where):
    def fail(*_, **__):
        raise error

    owner, name = {
        "step": (Stepper, "compute_gradients"),
        "build": (Stepper, "wrap"),
        "evaluation": (TorchStudent, "points"),
        "loader": (StoreDataset, "empty_batch"),
    }[where]
    monkeypatch.setattr(owner, name, fail)
    assert main(command(stores, tmp_path / "run")) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "--batch-size" in line
    assert "--accumulate" in line
