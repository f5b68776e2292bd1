"""Logits and losses against float64 numpy, closed forms, and gradcheck."""

import functools
import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax

from kdlib.losses import density_heatmaps, gaussian_logits, heatmap_mse, log_logits, log_softmax, raw_logits, spatial_kl

SHAPE = (2, 5, 8, 6)


def random_maps(seed):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=SHAPE))


def numpy_kl(student, teacher, weight, temperature):
    """T^2 KL in float64, map by map."""
    total = 0.0
    for b, k in np.ndindex(*weight.shape):
        t, s = teacher[b, k].ravel() / temperature, student[b, k].ravel() / temperature
        log_p, log_q = t - logsumexp(t), s - logsumexp(s)
        kept = np.isfinite(log_p)
        total += weight[b, k] * (np.exp(log_p[kept]) * (log_p[kept] - log_q[kept])).sum()
    return temperature**2 * total / weight.sum()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("transform", [raw_logits, log_logits])
def test_the_kl_equals_a_float64_computation(temperature, transform):
    student, maps = random_maps(0).float(), random_maps(1).float()
    teacher = transform(maps, 0.1)
    weight = torch.rand(SHAPE[:2], generator=torch.Generator().manual_seed(0))
    expected = numpy_kl(student.double().numpy(), teacher.double().numpy(), weight.double().numpy(), temperature)
    assert spatial_kl(student, teacher, weight, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_the_kl_of_equal_maps_is_zero_and_never_negative():
    maps, weight = random_maps(2).float(), torch.ones(SHAPE[:2])
    assert spatial_kl(maps, maps + 3.0, weight, 2.0).item() == pytest.approx(0.0, abs=1e-5)
    for seed in range(5):
        assert spatial_kl(random_maps(seed).float(), maps, weight).item() >= -1e-6


def test_at_high_temperature_the_kl_becomes_the_mse_of_centred_logits():
    student, teacher, weight = random_maps(3), random_maps(4), torch.ones(SHAPE[:2])
    difference = (student - teacher).flatten(2)
    centred = difference - difference.mean(dim=-1, keepdim=True)
    expected = 0.5 * centred.square().mean()
    assert spatial_kl(student, teacher, weight, 1e2).item() == pytest.approx(expected.item(), rel=0.05)


def test_squared_temperature_keeps_the_size_of_the_gradient():
    norms = []
    for temperature in (20.0, 200.0):
        student = random_maps(5).requires_grad_()
        spatial_kl(student, random_maps(6), torch.ones(SHAPE[:2]), temperature).backward()
        norms.append(student.grad.norm().item())
    assert norms[0] == pytest.approx(norms[1], rel=0.1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("transform", [raw_logits, log_logits])
def test_gradients_pass_gradcheck(temperature, transform):
    student = random_maps(7)[:1, :2].requires_grad_()
    maps = random_maps(8)[:1, :2]
    teacher, weight = transform(maps, 0.2), torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    kl = functools.partial(spatial_kl, teacher=teacher, weight=weight, temperature=temperature)
    mse = functools.partial(heatmap_mse, target=maps, weight=weight)
    assert torch.autograd.gradcheck(kl, (student,))
    assert torch.autograd.gradcheck(mse, (student,))
    assert torch.autograd.gradcheck(lambda s: kl(s) + 70 * mse(density_heatmaps(s, 1.5)), (student,))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_gradient_is_the_temperature_times_the_difference_of_the_softmaxes(temperature):
    student, teacher = random_maps(9).float().requires_grad_(), log_logits(random_maps(10).float(), 0.1)
    weight = torch.rand(SHAPE[:2], generator=torch.Generator().manual_seed(0))
    spatial_kl(student, teacher, weight, temperature).backward()
    q, p = (softmax(maps.detach().double().numpy() / temperature, axis=(-2, -1)) for maps in (student, teacher))
    expected = temperature * (q - p) * (weight / weight.sum()).double().numpy()[..., None, None]
    np.testing.assert_allclose(student.grad, expected, atol=1e-7, rtol=1e-4)


def pixel(value):
    """Maps that are ``value`` in one pixel and zero elsewhere."""
    maps = torch.zeros(SHAPE)
    maps[..., 3, 2] = value
    return maps


EXTREME = {
    **{f"constant {value:g}": torch.full(SHAPE, value) for value in (0.0, -1.0, 0.5, 1e4, 1e15, -1e15)},
    **{f"one pixel {value:g}": pixel(value) for value in (-1.0, 1e-30, 1e4, 1e15, -1e15)},
    "huge": 1e15 * random_maps(16).float(),
}


@pytest.mark.parametrize("name", EXTREME)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 8.0])
@pytest.mark.parametrize("teach", [raw_logits, log_logits, None])
def test_maps_of_any_size_give_finite_losses_and_gradients(name, temperature, teach):
    """As the teacher's maps and as the student's; ``None`` is the MSE."""
    usual, extreme, weight = random_maps(11).float(), EXTREME[name], torch.ones(SHAPE[:2])
    for start, maps in ((usual, extreme), (extreme, usual)):
        student = start.clone().requires_grad_()
        loss = spatial_kl(student, teach(maps), weight, temperature) if teach else heatmap_mse(student, maps, weight)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(student.grad).all()
        if teach is log_logits and maps.max() < 0.003:
            assert loss.item() == 0.0
            assert not student.grad.any()


def test_joints_of_weight_zero_and_empty_maps_do_not_count():
    student, maps = random_maps(12).float(), random_maps(13).float()
    weight = torch.ones(SHAPE[:2])
    weight[0, 1] = 0
    changed = student.clone()
    changed[0, 1] = 100.0
    assert spatial_kl(student, maps, weight) == spatial_kl(changed, maps, weight)
    empty = log_logits(maps)
    empty[0, 0] = -math.inf
    without = torch.ones(SHAPE[:2])
    without[0, 0] = 0
    torch.testing.assert_close(spatial_kl(student, empty, torch.ones(SHAPE[:2])), spatial_kl(student, empty, without))
    assert spatial_kl(student, maps, torch.zeros(SHAPE[:2])).item() == 0.0


def test_log_logits_normalise_to_the_map_itself_and_remove_the_background():
    maps = torch.tensor([[[[0.5, 0.25, 0.002], [-0.3, 0.003, 0.0]]]])
    for temperature in (1.0, 4.0):
        p = log_softmax(log_logits(maps, 0.003), temperature).exp()
        kept = torch.where(maps >= 0.003, maps, 0.0) ** (1 / temperature)
        torch.testing.assert_close(p, kept / kept.sum())
    assert (raw_logits(maps) == maps).all()


def test_ground_truth_logits_are_the_log_of_the_gaussian():
    points = torch.tensor([[[2.5, 3.25], [0.0, 7.0]]])
    logits = gaussian_logits(points, (6, 8), 1.5)
    rows, columns = np.mgrid[:8, :6]
    for k, (x, y) in enumerate(points[0].tolist()):
        expected = -((columns - x) ** 2 + (rows - y) ** 2) / (2 * 1.5**2)
        np.testing.assert_allclose(logits[0, k], expected, atol=1e-5)


def test_density_heatmaps_of_a_gaussian_peak_at_one():
    logits = gaussian_logits(torch.tensor([[[24.0, 32.0]]]), (48, 64), 2.0)
    for temperature in (0.5, 1.0, 2.0):
        assert density_heatmaps(logits, 2.0, temperature).max().item() == pytest.approx(1.0, abs=2e-3)


def test_the_mse_is_the_weighted_mean_over_joints():
    student, target = random_maps(14).float(), random_maps(15).float()
    weight = torch.rand(SHAPE[:2], generator=torch.Generator().manual_seed(1))
    per_joint = ((student - target) ** 2).mean(dim=(-2, -1))
    torch.testing.assert_close(heatmap_mse(student, target, weight), (per_joint * weight).sum() / weight.sum())
    assert heatmap_mse(student, target, torch.zeros(SHAPE[:2])).item() == 0.0
