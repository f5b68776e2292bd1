"""What a training step asks of a GPU, on fake CUDA tensors: no mixed devices, no waiting, no copies, few kernels."""

import copy
import dataclasses

import pytest
import torch

from kdlib.students.heads import HEADS
from kdlib.students.networks import build_student
from tests.support.fake_cuda import CUDA, fake_cuda
from train.recipe import Recipe
from train.run.ranks import Ranks
from train.run.step import Stepper
from train.supervision import supervision_of

SIZE = (48, 64)
"""Width and height of the student's input."""
BATCH = 4
BUDGET = {"forward": 217, "update": 8, "average": 2}
"""Kernels of one step of the default distillation: forward with loss, optimiser, and moving average."""


def stepper(device, recipe):
    model = build_student(recipe.student, recipe.head, 17, SIZE, recipe.stride)
    model.to(device.cuda, memory_format=torch.channels_last)
    model.add_norms()
    supervision = supervision_of(recipe, SIZE, 0.003, distil=True)
    made = Stepper(model, supervision, recipe, 100, Ranks(CUDA), bf16=True)
    made.wrap(compiled=False)
    model.train()
    return made


def batch(stride=4):
    width, height = SIZE
    maps = torch.empty(BATCH, height // stride, width // stride, 17, device=CUDA).permute(0, 3, 1, 2)
    return {
        "image": torch.empty(BATCH, height, width, 3, dtype=torch.uint8, device=CUDA),
        "keypoints": torch.empty(BATCH, 17, 2, device=CUDA),
        "labelled": torch.empty(BATCH, 17, device=CUDA),
        "heatmaps": maps,
        "row": torch.zeros(BATCH, dtype=torch.int64),
        "affine": torch.zeros(BATCH, 2, 3, dtype=torch.float64),
    }


DISTIL = Recipe()
CASES = {
    **{f"head {name}": {"head": name} for name in HEADS},
    **{f"stride {stride}": {"stride": stride} for stride in (2, 8)},
    "mse": {"loss": "mse"},
    "kl and mse": {"mse_weight": 100.0, "gt_weight": 0.5},
    "raw logits": {"logits": "raw", "temperature": 4.0, "kd_schedule": "linear", "gt_weight": 1.0},
    "labelled joints": {"joints": "labelled"},
    "average": {"ema": 0.999},
    "accumulated": {"accumulate": 2, "gt_weight": 0.5},
    "no clipping": {"clip": 0.0},
    "fp32": {"precision": "fp32"},
}


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_a_step_waits_for_nothing_and_copies_nothing(settings):
    recipe = dataclasses.replace(DISTIL, **settings)
    with fake_cuda() as device:
        made = stepper(device, recipe)
        given = batch(recipe.stride)
        for step in range(2):  # the first one creates constants and the optimiser's state
            with device.recording():
                measured = made.step(given, step)
        assert (device.synchronisations, device.uploads, device.downloads) == ([], [], [])
        assert {measured.terms.device, measured.norm.device} == {CUDA}
        with device.recording():
            measured.read()
        assert device.synchronisations


def test_the_kernels_of_a_step_stay_within_their_budget():
    """Without the backward pass and clipping, whose kernels autograd and torch choose only on a real device."""
    found = {}
    with fake_cuda() as device:
        made = stepper(device, dataclasses.replace(DISTIL, ema=0.999))
        made.step(batch(), 0)
        with device.recording():
            made.compute_gradients(batch(), 1)
        found["forward"] = device.operators
        with device.recording():
            made.update(1, torch.zeros((), dtype=torch.bool, device=CUDA))
        found["average"] = sum(device.kernels[f"aten._foreach_{name}"] for name in ("lerp_.Scalar", "copy_.default"))
        found["update"] = device.operators - found["average"]
    assert all(0 < found[part] <= BUDGET[part] for part in BUDGET), found


def test_a_tensor_on_the_wrong_device_raises():
    with fake_cuda() as device:
        made = stepper(device, DISTIL)
        wrong = batch() | {"heatmaps": torch.empty(BATCH, 17, 16, 12)}
        with pytest.raises(RuntimeError, match="on the same device"):
            made.step(wrong, 0)


@pytest.mark.parametrize("skips_on_device", [False, True])
def test_a_step_that_is_not_finite_changes_no_weight(skips_on_device):
    """On real tensors: weights and the optimiser's state stay, by the host's decision or by the fused optimiser's."""
    recipe = dataclasses.replace(DISTIL, precision="fp32")
    model = build_student(recipe.student, recipe.head, 17, SIZE, recipe.stride)
    made = Stepper(
        model, supervision_of(recipe, SIZE, 0.003, distil=True), recipe, 100, Ranks(torch.device("cpu")), bf16=False
    )
    made.skips_on_device = skips_on_device
    generator = torch.Generator().manual_seed(0)
    good = {
        "image": torch.randint(0, 256, (BATCH, 64, 48, 3), dtype=torch.uint8, generator=generator),
        "keypoints": torch.rand(BATCH, 17, 2, generator=generator) * 10,
        "labelled": torch.ones(BATCH, 17),
        "heatmaps": torch.rand(BATCH, 17, 16, 12, generator=generator),
        "row": torch.arange(BATCH),
    }
    made.step(good, 0)
    before = copy.deepcopy(made.state())
    measured = made.step(good | {"heatmaps": torch.full((BATCH, 17, 16, 12), torch.nan)}, 1)
    assert not measured.norm.isfinite() or not measured.terms.isfinite().all()
    after = made.state()
    weights = dict(made.model.named_parameters())
    assert all(torch.equal(value, before["model"][name]) for name, value in weights.items())
    kept, states = before["optimizer"]["state"], after["optimizer"]["state"]
    assert all(torch.equal(states[i][name], kept[i][name]) for i in kept for name in kept[i])
    made.step(good, 1)
    assert any(not torch.equal(value, before["model"][name]) for name, value in weights.items())
