"""Warping whole batches in torch gives the pixels and heatmaps of the compiled kernels."""

import numpy as np
import pytest
import torch

from kdlib.resample.maps import bordered_shape, interior, mean_heatmaps
from kdlib.resample.on_device import bordered_size, mean_maps, warp_frames, without_border
from kdlib.resample.packed import warp_packed

SIZE = (40, 52)
"""Width and height of the results."""


def inverses(rng, count, size):
    """Affines from pixels of a result to pixels of a source: rotated, scaled, mirrored, partly or wholly outside."""
    made = np.empty((count, 2, 3))
    for i in range(count):
        angle, scale = rng.uniform(-np.pi, np.pi), rng.uniform(0.2, 3)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turn[:, 0] *= rng.choice([-1, 1])
        centre = np.array(size) * rng.uniform(-0.3, 1.3, 2)
        made[i] = np.column_stack([turn, centre - turn @ (np.array(SIZE) / 2)])
    made[0] = [[1, 0, 0], [0, 1, 0]]
    made[1] = [[1, 0, -0.5], [0, 1, 0.25]]
    made[2] = [[0, 1, 3.3], [1, 0, -2.7]]
    made[3] = [[1, 0, 5000], [0, 1, 0]]
    made[4] = [[1e-12, 0, 7.5], [0, 1e-12, 7.5]]
    made[5] = [[1e12, 0, 1], [0, 1, 2]]  # too large for exact sums
    return made


def test_frames_have_the_pixels_of_the_loaders_kernel():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (5, 60, 50, 3), dtype=np.uint8)  # noise: a wrong neighbour is a wrong pixel
    affines, which = inverses(rng, 60, (50, 60)), rng.integers(0, 5, 60)
    bordered = torch.zeros(5, *bordered_size((50, 60))[::-1], 3, dtype=torch.uint8)
    without_border(bordered)[:] = torch.from_numpy(frames)
    found = warp_frames(bordered, torch.from_numpy(which), torch.from_numpy(affines), SIZE)
    assert found.shape == (60, SIZE[1], SIZE[0], 3)
    expected = np.empty(found.shape, np.uint8)
    for affine, frame, out in zip(affines, which, expected, strict=True):
        warp_packed(np.concatenate([frames[frame], frames[frame][..., :1]], axis=-1), affine, out)
    apart = np.abs(found.numpy().astype(int) - expected)
    assert apart.max() <= 1
    assert (apart > 0).mean() < 1e-5  # border pixels, whose sums are rounded in another order
    assert (expected > 0).mean() > 0.2


@pytest.mark.parametrize("views", [1, 3])
def test_maps_are_those_of_the_loaders_kernel(views):
    rng = np.random.default_rng(views)
    columns, rows, joints, count = 30, 22, 4, 40
    maps = rng.random((count, views, joints, rows, columns), np.float32)
    affines = np.stack([inverses(rng, count, (columns, rows)) for _ in range(views)], axis=1)
    affines = np.concatenate([affines[:3], affines[6:]])  # the others are not affines that a placement accepts
    maps = np.concatenate([maps[:3], maps[6:]])
    found = mean_maps(torch.from_numpy(maps), torch.from_numpy(affines), SIZE).numpy()
    for ours, stored, of in zip(found, maps, affines, strict=True):
        bordered = np.zeros((views, *bordered_shape((joints, rows, columns))), np.float32)
        interior(bordered)[...] = stored.transpose(0, 2, 3, 1)
        out = np.empty((SIZE[1], SIZE[0], joints), np.float32)
        mean_heatmaps(bordered, of, (columns, rows), out)
        np.testing.assert_allclose(ours, out.transpose(2, 0, 1), atol=2e-6)
    assert (found > 0.1).mean() > 0.1
