"""The entries of a batch of `DistillationDataset`, made by compiled code: images, labels' Gaussians, teacher's logits.

Images and logits have exactly the values of `kdlib.images.normalise_images` and `kdlib.losses.TRANSFORMS`, which need
several passes over memory and, for the logits, logarithms of the background. The kernels release the GIL.

Axes: B samples, K joints, H rows and W columns of a heatmap.
"""

import math
from typing import Final

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from kdlib.images import normalise_images
from kdlib.losses import TRANSFORMS

_SMALLEST: Final = float(np.finfo(np.float32).tiny)
"""The smallest normal float32. Processors are slow with smaller numbers, and no loss depends on them."""
_LOWEST: Final = math.log(_SMALLEST)


_NORMALISED: Final = (
    normalise_images(torch.arange(256, dtype=torch.uint8).reshape(1, 256, 1, 1).expand(-1, -1, -1, 3))[0, :, :, 0]
    .contiguous()
    .numpy()
)
"""(3, 256) float32: the normalised value of each value of red, green and blue."""


def fill_normalised(images: NDArray[np.uint8], normalised: NDArray[np.float32]) -> None:
    """Write images (B, H, W, 3) to normalised (B, 3, H, W), with the values of `kdlib.images.normalise_images`."""
    _look_up(images, _NORMALISED, normalised)


def fill_gaussians(points: NDArray[np.float32], sigma: float, target: NDArray[np.float32]) -> None:
    """Write a Gaussian of height 1 around each point, exp(-d^2 / (2 sigma^2)) at the distance d in heatmap pixels.

    Values below float32's smallest normal number, 1.2e-38, become 0.

    Args:
        points: (B, K, 2) x, y in heatmap pixels.
        sigma: Standard deviation in heatmap pixels.
        target: (B, K, H, W), contiguous.
    """
    height, width = target.shape[-2:]
    _gaussians(points.reshape(-1, 2), -0.5 / sigma**2, target.reshape(-1, height, width))


def fill_logits(
    heatmaps: NDArray[np.float32],
    transform: str,
    floor: float,
    logits: NDArray[np.float32],
    heights: NDArray[np.float32],
) -> None:
    """Write the teacher's logits, and the largest value of each of its heatmaps.

    Args:
        heatmaps: (B, H, W, K), contiguous.
        transform: Name in `kdlib.losses.TRANSFORMS`.
        floor: Heatmap value below which a pixel counts as background.
        logits: (B, K, H, W), contiguous.
        heights: (B, K).
    """
    if transform != "log":
        _separate(heatmaps, logits, heights)
        logits[...] = TRANSFORMS[transform](torch.from_numpy(logits), floor).numpy()
        return
    values, places = np.empty(logits.size, np.float32), np.empty(logits.size, np.int64)
    count = _separate_above(heatmaps, np.float32(floor), logits, heights, values, places)
    # torch computes the logarithms, not numba, so that they are those of `kdlib.losses.log_logits` to the bit.
    _scatter(torch.from_numpy(values)[:count].log_().numpy(), places, logits.reshape(-1))


@numba.njit(nogil=True, cache=True)
def _look_up(images: NDArray[np.uint8], table: NDArray[np.float32], found: NDArray[np.float32]) -> None:
    """Write table[c, images[b, y, x, c]] to found[b, c, y, x]."""
    for b in range(len(images)):
        for c in range(3):
            values = table[c]
            for y in range(images.shape[1]):
                for x in range(images.shape[2]):
                    found[b, c, y, x] = values[images[b, y, x, c]]


@numba.njit(nogil=True, cache=True)
def _gaussians(points: NDArray[np.float32], scale: float, target: NDArray[np.float32]) -> None:
    """As `fill_gaussians`, for points (n, 2) and target (n, H, W): the product of a Gaussian in x and one in y."""
    count, height, width = target.shape
    columns = np.empty(width, np.float32)
    for k in range(count):
        for x in range(width):
            exponent = scale * (x - np.float64(points[k, 0])) ** 2
            columns[x] = np.float32(math.exp(exponent) if exponent >= _LOWEST else 0.0)
        for y in range(height):
            exponent = scale * (y - np.float64(points[k, 1])) ** 2
            if exponent >= _LOWEST:
                row = np.float32(math.exp(exponent))
                limit = np.float32((1 + 1e-6) * _SMALLEST / row)  # no product below the smallest normal number
                for x in range(width):
                    column = columns[x] if columns[x] >= limit else np.float32(0)
                    target[k, y, x] = row * column
            else:
                target[k, y, :] = 0


@numba.njit(nogil=True, cache=True)
def _separate(heatmaps: NDArray[np.float32], planes: NDArray[np.float32], heights: NDArray[np.float32]) -> None:
    """Copy heatmaps (B, H, W, K) to planes (B, K, H, W), and their largest values to heights (B, K)."""
    batch, joints, rows, columns = planes.shape
    for b in range(batch):
        heights[b, :] = -np.inf
        for y in range(rows):
            for k in range(joints):
                height = heights[b, k]
                for x in range(columns):
                    value = heatmaps[b, y, x, k]
                    height = value if value > height else height
                    planes[b, k, y, x] = value
                heights[b, k] = height


@numba.njit(nogil=True, cache=True)
def _separate_above(
    heatmaps: NDArray[np.float32],
    floor: float,
    planes: NDArray[np.float32],
    heights: NDArray[np.float32],
    values: NDArray[np.float32],
    places: NDArray[np.int64],
) -> int:
    """As `_separate`, but all planes become -inf; values from the floor up are listed with their places in the planes.

    Returns:
        The number of values listed.
    """
    batch, joints, rows, columns = planes.shape
    count = 0
    planes[:] = -np.inf
    for b in range(batch):
        heights[b, :] = -np.inf
        for y in range(rows):
            for k in range(joints):
                height, place = heights[b, k], ((b * joints + k) * rows + y) * columns
                for x in range(columns):
                    value = heatmaps[b, y, x, k]
                    height = value if value > height else height
                    if value >= floor:
                        values[count], places[count] = value, place + x
                        count += 1
                heights[b, k] = height
    return count


@numba.njit(nogil=True, cache=True)
def _scatter(values: NDArray[np.float32], places: NDArray[np.int64], planes: NDArray[np.float32]) -> None:
    """Write values (n,) to their places in the flattened planes."""
    for i in range(len(values)):
        planes[places[i]] = values[i]
