"""Several processes train the same student as one process, and end together."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import cache
from kdlib.samples.dataset import StoreDataset
from kdlib.samples.loader import Loader
from kdlib.students.checkpoint import read
from kdlib.students.heads import FusedHead
from tests.support.stores.people import make_store
from tests.support.tiny_training import command, history, results, run_ranks, weights
from train.__main__ import main
from train.evaluate import Predictions, in_store_order, student_loader
from train.recipe import Recipe
from train.run.batch_norm import GlobalBatchNorm2d, has_equal_buffers
from train.run.loop import Trainer
from train.run.settings import Run
from train.supervision import Supervision

ROOT = Path(__file__).resolve().parents[3]
SHARED = {"batch_size": 5, "checkpoint_every": 2, "backbone_norm": "none"}
"""13 instances make two batches of 5 and a rest, and two processes divide neither 5 nor 13. With norms in the whole
backbone, a change of 1e-7 in the weights grows to 1e-1 within four such small batches, with any number of processes."""


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    make_store(folder / "train.zarr", 13)
    make_store(folder / "val.h5", 67)  # two batches of an evaluation
    return folder


@pytest.fixture(scope="module")
def alone(stores, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "run"
    assert main(command(stores, out, gt_weight=0.3, **SHARED)) == 0
    return out


@pytest.fixture(scope="module")
def together(stores, tmp_path_factory):
    """The same command as two ranks."""
    folder = tmp_path_factory.mktemp("together")
    codes, logs = run_ranks(2, command(stores, folder / "run", gt_weight=0.3, **SHARED), folder)
    assert codes == [0, 0], logs
    return folder


def start_weights(stores, run):
    """The initial weights of a run."""
    recipe = Recipe(**json.loads((run / "config.json").read_text())["recipe"])
    train, val = cache.open_store(stores / "train.zarr"), cache.open_store(stores / "val.h5")
    made = Trainer(Run(train, val, run / "nowhere", recipe, distil=True, device=torch.device("cpu")))
    return made.state.model.state_dict()


def apart(one, two):
    """Distance of two students without the last biases, which a softmax cancels, so that only rounding moves them."""
    names = [name for name in one if one[name].is_floating_point() and name != "head.final.bias"]
    return torch.cat([(one[name] - two[name]).double().flatten() for name in names]).norm().item()


def test_two_processes_learn_what_one_learns(stores, alone, together):
    """Weights, losses and evaluation agree to rounding, with batch norm and with joints that weigh differently."""
    start, one, two = start_weights(stores, alone), weights(alone / "last.pt"), weights(together / "run/last.pt")
    movement, distance = apart(one, start), apart(two, one)
    assert movement > 1
    assert distance <= 1e-3 * movement
    for line, other in zip(history(alone), history(together / "run"), strict=True):
        for name in ("loss", "gt", "kd"):
            assert other[name] == pytest.approx(line[name], rel=1e-5)
        assert other["pck@0.1"] == pytest.approx(line["pck@0.1"], abs=0.2)


def test_norms_added_to_the_backbone_see_the_whole_batch_too(stores, tmp_path):
    """With statistics of each part alone, the loss would differ by 5e-5 in this first epoch."""
    flags = SHARED | {"backbone_norm": "batch", "epochs": 1, "learning_rate": 1e-6}
    assert main(command(stores, tmp_path / "one", **flags)) == 0
    codes, logs = run_ranks(2, command(stores, tmp_path / "two", **flags), tmp_path)
    assert codes == [0, 0], logs
    (one,), (two,) = history(tmp_path / "one"), history(tmp_path / "two")
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    for name, value in weights(tmp_path / "one/last.pt").items():
        if name.endswith("running_mean"):
            torch.testing.assert_close(weights(tmp_path / "two/last.pt")[name], value, rtol=1e-3, atol=1e-5)


def test_only_the_first_process_speaks_and_writes(together):
    spoken = [(together / f"rank{rank}.log").read_text() for rank in (0, 1)]
    assert "epoch 2/2" in spoken[0]
    assert spoken[1] == ""
    assert len(list((together / "run").glob("events.out.tfevents.*"))) == 1
    assert json.loads((together / "run/config.json").read_text())["resolved"]["processes"] == 2


def test_an_evaluation_by_several_processes_is_that_of_one_exactly(stores, together):
    """No instance is evaluated twice or dropped: one process measures the same metrics for the same student."""
    again = together / "again.json"
    arguments = ["--store", str(stores / "val.h5"), "--student", str(together / "run/best.pt"), "--out", str(again)]
    assert main(["evaluate", *arguments]) == 0
    metrics, found = results(together / "run")[0], json.loads(again.read_text())
    assert metrics["instances"] == 67
    assert metrics.pop("learned_from") == "the teacher's heatmaps of 13 persons and their labels"
    assert {name: found[name] for name in metrics} == metrics


def test_a_run_goes_on_with_another_number_of_processes(stores, alone, tmp_path, monkeypatch, capsys):
    step = Trainer.train_step

    def signalled(self, batch):
        if self.progress.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "train_step", signalled)
        assert main(command(stores, tmp_path / "run", gt_weight=0.3, **SHARED)) == 1
    codes, logs = run_ranks(2, command(stores, tmp_path / "run", gt_weight=0.3, resume=True, **SHARED), tmp_path)
    assert codes == [0, 0], logs
    assert "was written by 1 processes; continuing with 2" in logs[0]
    assert [line["loss"] for line in history(tmp_path / "run")] == pytest.approx(
        [line["loss"] for line in history(alone)], rel=1e-5
    )


def fail_in_loader():
    fill = StoreDataset.fill

    def failing(self, batch, slot, row, epoch):
        if epoch == 1:
            raise ValueError("a bug")
        fill(self, batch, slot, row, epoch)

    StoreDataset.fill = failing


def die():
    """Die in the middle of the second step, while the other rank waits for the sums of batch norm."""
    forward, calls = FusedHead.forward, []

    def dying(self, features):
        calls.append(features)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return forward(self, features)

    FusedHead.forward = dying


def freeze():
    """Be silent from the second step on, as a process on a machine that has lost its network."""
    step = Trainer.train_step

    def freezing(self, batch):
        if self.progress.step == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        return step(self, batch)

    Trainer.train_step = freezing


def ask_to_stop():
    step = Trainer.train_step

    def asking(self, batch):
        if self.progress.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch)

    Trainer.train_step = asking


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (fail_in_loader, "rank 1 of 2: a loader thread failed: ValueError: a bug"),
        (die, "lost the connection to the other processes: one of them failed or was killed"),
        (ask_to_stop, "stopped by another process, after step 2 of 4"),
    ],
)
def test_when_one_process_ends_all_end_with_one_line_and_a_checkpoint(stores, tmp_path, second, message):
    codes, logs = run_ranks(
        2, command(stores, tmp_path / "run", checkpoint_every=1, batch_size=5), tmp_path, (None, second)
    )
    assert codes[0] == 1
    assert codes[1] != 0
    errors = [line for log in logs for line in log.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, logs
    assert message in errors[0]
    assert "Traceback" not in "".join(logs)
    assert read(tmp_path / "run/last.pt")["progress"]["step"] >= 1


def test_what_one_process_cannot_open_is_said_once_and_by_whom(stores, tmp_path):
    arguments = command(stores, tmp_path / "run")
    arguments[arguments.index("--val-store") + 1] = str(tmp_path / "nowhere.zarr")
    codes, logs = run_ranks(2, arguments, tmp_path)
    assert codes == [1, 1]
    assert "error: rank 0 of 2: " in logs[0]
    assert "nowhere.zarr" in logs[0]
    assert logs[1] == ""


@pytest.mark.parametrize(("lost", "how"), [(1, freeze), (0, die)])
def test_a_lost_process_ends_the_other_in_one_line_within_the_timeout(stores, tmp_path, lost, how):
    hooks = [None, None]
    hooks[lost] = how
    arguments = command(stores, tmp_path / "run", checkpoint_every=1, batch_size=5, timeout=4)
    codes, logs = run_ranks(2, arguments, tmp_path, tuple(hooks), first_to_end=1 - lost)
    assert codes[1 - lost] == 1
    errors = [line for line in logs[1 - lost].splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, logs
    assert "lost the connection to the other processes" in errors[0]
    assert ("rank 1 of 2" in errors[0]) == (lost == 0)
    assert "Traceback" not in "".join(logs)


class Noisy(torch.nn.Module):
    """A module whose output in training depends on a buffer, which changes with the samples."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))


def test_buffers_that_training_reads_are_exchanged():
    norm, plain = torch.nn.BatchNorm2d(3), torch.nn.Conv2d(3, 3, 1)
    plain.register_buffer("places", torch.arange(4))
    assert has_equal_buffers(torch.nn.Sequential(norm, plain, GlobalBatchNorm2d.like(norm)))
    assert not has_equal_buffers(torch.nn.Sequential(norm, Noisy()))


@pytest.mark.slow
def test_torchrun_starts_a_run_of_several_processes(stores, alone, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "train"]
    done = subprocess.run(
        [*launch, *command(stores, tmp_path / "run", gt_weight=0.3, **SHARED)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("distilled on 67 instances") == 1
    assert [line["loss"] for line in history(tmp_path / "run")] == pytest.approx(
        [line["loss"] for line in history(alone)], rel=1e-5
    )


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_every_batch_and_every_evaluation_without_rest(stores, world):
    store = cache.open_store(stores / "train.zarr")
    dataset = StoreDataset(store, (48, 64), views=None)

    def rows(shuffle, part):
        return [b["row"].tolist() for b in Loader(dataset, 5, shuffle=shuffle, threads=1, part=part).epoch(3)]

    whole = rows(True, (0, 1))
    shares = [rows(True, (rank, world)) for rank in range(world)]
    assert [[row for share in shares for row in share[i]] for i in range(len(whole))] == whole
    loaders = [student_loader(store, (48, 64), 5, torch.device("cpu"), part=(rank, world)) for rank in range(world)]
    seen = [[b["row"].numpy() for b in loader.epoch()] for loader in loaders]
    assert [len(loader) for loader in loaders] == [len(of_rank) for of_rank in seen]
    parts = [
        Predictions(
            np.concatenate([*of_rank, np.empty(0, int)]),
            np.zeros((sum(map(len, of_rank)), 17, 2)),
            np.zeros((sum(map(len, of_rank)), 17)),
            0.0,
            "dark",
        )
        for of_rank in seen
    ]
    assert in_store_order(parts).rows.tolist() == list(range(13))


@pytest.mark.parametrize("joints", ["labelled", "all", "confidence"])
@pytest.mark.parametrize(("loss", "logits"), [("kl", "log"), ("kl", "raw"), ("mse", "log")])
def test_the_mean_of_a_batch_is_that_of_its_parts_by_weight(joints, loss, logits):
    rng = torch.Generator().manual_seed(0)
    heatmaps = torch.rand((6, 5, 12, 8), generator=rng)
    heatmaps[0, :3] = 0.0  # nothing above the floor
    heatmaps[1] *= 0.1
    batch = {
        "heatmaps": heatmaps,
        "keypoints": 8 * torch.rand((6, 5, 2), generator=rng),
        "labelled": (torch.rand((6, 5), generator=rng) > 0.4).float(),
    }
    maps = torch.randn((6, 5, 12, 8), generator=rng)
    supervision = Supervision(loss, 1.5, 0.7, 1.3, 2.0, logits, 0.003, joints, mse_weight=5.0)
    parts = [{name: value[rows] for name, value in batch.items()} for rows in (slice(0, 2), slice(2, 6))]
    means = [supervision.terms(maps[rows], part) for rows, part in zip((slice(0, 2), slice(2, 6)), parts, strict=True)]
    weigh = [supervision.weights(part) for part in parts]
    for name, whole in supervision.terms(maps, batch).items():
        of_parts = sum(mean[name] * weight[name] for mean, weight in zip(means, weigh, strict=True))
        torch.testing.assert_close(of_parts / sum(weight[name] for weight in weigh), whole)
