"""Training and evaluation on the GPU of a Mac, on fake tensors: nothing mixes devices, and float64 stays on the CPU."""

import dataclasses

import numpy as np
import pytest
import torch

import cache
from kdcli.flags import run_command
from kdlib.readout import Readout
from kdlib.samples.dataset import StoreDataset
from kdlib.samples.loader import Loader
from kdlib.students.loading import TorchStudent
from kdlib.students.networks import build_student
from tests.support.machines.fake_mps import MPS, fake_mps
from tests.support.stores.people import make_store
from train.errors import TrainError
from train.recipe import Recipe
from train.run import ranks
from train.run.loop import READ_EVERY
from train.run.ranks import Ranks
from train.run.step import Stepper
from train.supervision import supervision_of

SIZE = (48, 64)
"""Width and height of the student's input."""
CASES = {
    "default": {},
    "mse and head deconv": {"loss": "mse", "head": "deconv", "clip": 0.0},
    "every term, average, parts": {"mse_weight": 9.0, "gt_weight": 0.5, "ema": 0.9, "logits": "raw", "accumulate": 2},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("mps") / "s.zarr"
    make_store(path, 5)
    return cache.open_store(path)


def train(recipe, device, loader):
    """Two steps on a device, from the same weights and with the same batch."""
    torch.manual_seed(0)
    model = build_student(recipe.student, recipe.head, 17, SIZE, recipe.stride)
    model.to(device, memory_format=torch.channels_last)
    supervision = supervision_of(recipe, SIZE, 0.003, distil=True)
    made = Stepper(model, supervision, recipe, 100, Ranks(device), bf16=False)
    model.train()
    (batch,) = loader.epoch(0)
    return made, batch, [made.step(batch, step).read() for step in range(2)]


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_a_batch_of_the_loader_trains_a_student_as_on_the_cpu(store, settings):
    recipe, dataset = dataclasses.replace(Recipe(), **settings), StoreDataset(store, SIZE, views="mean")
    on_cpu, _, expected = train(recipe, torch.device("cpu"), Loader(dataset, 4, shuffle=True, threads=1))
    with fake_mps() as device:
        made, batch, found = train(recipe, MPS, Loader(dataset, 4, shuffle=True, threads=1, device=MPS))
        assert {name for name, tensor in batch.items() if tensor.device == MPS} == batch.keys() - {"affine", "row"}
        assert {tensor.device for tensor in made.student.state_dict().values()} == {MPS}
        assert device.functions["backward"] == 2 * recipe.accumulate
        weights = {name: tensor.cpu() for name, tensor in made.student.state_dict().items()}
    assert found == expected
    assert all(torch.equal(weights[name], tensor) for name, tensor in on_cpu.student.state_dict().items())
    assert torch.float32 in device.dtypes
    assert torch.float64 not in device.dtypes


@pytest.mark.parametrize("loss", ["kl", "mse"])
def test_a_student_predicts_as_on_the_cpu(loss):
    torch.manual_seed(0)
    model = build_student("squeezenet1_1", "fused", 17, SIZE, 4)
    student = TorchStudent(model, Readout(loss, 1.5, 0.5), SIZE)
    crops = np.random.default_rng(0).integers(0, 256, (3, 64, 48, 3), dtype=np.uint8)
    expected = student.heatmaps(crops)
    with fake_mps() as device:
        model.to("mps")
        assert student.device == MPS
        np.testing.assert_array_equal(student.heatmaps(crops), expected)
    assert device.functions["conv2d"]


def test_what_a_mac_refuses_raises():
    with fake_mps():
        with pytest.raises(TypeError, match="MPS has no float64"):
            torch.zeros(2, dtype=torch.float64).to("mps")
        with pytest.raises(RuntimeError, match="to be on the same device"):
            torch.zeros(2, device="mps") + torch.zeros(2)
        with pytest.raises(TypeError, match="to numpy"):
            torch.zeros(2, device=MPS).numpy()


def test_a_batch_that_is_not_finite_is_skipped_by_the_host():
    """Not every optimiser of torch can skip an update on MPS."""
    recipe = Recipe()
    made = Stepper(
        build_student(recipe.student, recipe.head, 17, SIZE, 4),
        supervision_of(recipe, SIZE, 0.003, distil=True),
        recipe,
        100,
        Ranks(MPS),
        bf16=False,
    )
    assert not made.skips_on_device
    assert READ_EVERY["mps"] == 1


def test_several_processes_train_on_the_cpu_of_a_mac_or_not_at_all(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(ranks, "_connect", lambda joined: None)
    monkeypatch.setattr(ranks, "_refuse_shared_gpus", lambda joined: None)
    environment = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert ranks.join("auto", environment).device == torch.device("cpu")
    assert ranks.join("auto", {}).device == torch.device("mps")
    with pytest.raises(TrainError, match="several processes cannot train on the GPU of a Mac"):
        ranks.join("mps", environment)


def test_a_full_gpu_of_a_mac_is_one_line(capsys):
    """Torch raises a plain `RuntimeError` for it."""

    def fail():
        raise RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB, max allowed: 9.07 GB).\nmore")

    assert run_command(fail, ()) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "MPS backend out of memory" in error
    assert "give smaller batches or --device cpu" in error
