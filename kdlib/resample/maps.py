"""Resampling heatmaps into another view and averaging them over the stored views of one instance.

Maps are *bordered* for this: they are surrounded by zeros, so that the interpolation needs no bounds checks. Their
joints are the last axis, so that one set of interpolation weights serves all joints of a pixel.

No kernel of this project uses numba's `fastmath`: it lets the compiler choose how sums are rounded, and the code that
runs right after compilation may then round differently from the code that later processes load from numba's cache.
"""

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdlib.geometry import invert_affine

BEFORE, AFTER = 1, 2
"""Rows and columns of border before and after the map: a sample lies up to one pixel outside the map, and the
interpolation reads one pixel further."""


@numba.njit(nogil=True, cache=True)
def _fill_weights(inverses, rows, columns, weights):
    """Fill weights (h, w): 1 over the number of views that cover a pixel, or 1 where that number is below 1."""
    zero, one = np.float32(0), np.float32(1)
    for v in range(weights.shape[0]):
        weights[v] = 0
        for view in range(len(inverses)):
            dx, dy = np.float32(inverses[view, 0, 0]), np.float32(inverses[view, 1, 0])
            x0 = np.float32(inverses[view, 0, 1] * v + inverses[view, 0, 2])
            y0 = np.float32(inverses[view, 1, 1] * v + inverses[view, 1, 2])
            for u in range(weights.shape[1]):
                x, y = dx * np.float32(u) + x0, dy * np.float32(u) + y0
                wide = min(max(min(x + one, np.float32(columns) - x), zero), one)
                high = min(max(min(y + one, np.float32(rows) - y), zero), one)
                weights[v, u] += wide * high
        for u in range(weights.shape[1]):
            weights[v, u] = one / max(weights[v, u], one)


@numba.njit(nogil=True, cache=True)
def _resample(bordered, inverse, weights, is_first, out):
    """Resample bordered maps (H + 3, W + 3, K), times weights (h, w), into out (h, w, K).

    The first maps overwrite out, further ones are added to it.
    """
    zero, one, step = np.float32(0), np.float32(1), np.uint64(1)
    lowest, rightmost = np.float32(bordered.shape[0] - 2), np.float32(bordered.shape[1] - 2)
    joints = bordered.shape[2]
    pixel, line = np.uint64(joints), np.uint64(bordered.shape[1] * joints)  # unsigned: no check for negative indices
    values, flat_weights, results = bordered.reshape(-1), weights.reshape(-1), out.reshape(-1)
    dx, dy, i, at = np.float32(inverse[0, 0]), np.float32(inverse[1, 0]), np.uint64(0), np.uint64(0)
    for v in range(out.shape[0]):
        x0 = np.float32(inverse[0, 1] * v + inverse[0, 2] + 1)
        y0 = np.float32(inverse[1, 1] * v + inverse[1, 2] + 1)
        for u in range(out.shape[1]):
            x = min(max(x0 + dx * np.float32(u), zero), rightmost)
            y = min(max(y0 + dy * np.float32(u), zero), lowest)
            column, row = np.int32(x), np.int32(y)
            right, down = x - np.float32(column), y - np.float32(row)
            up, down = flat_weights[i] * (one - down), flat_weights[i] * down
            a, b, c, d = up * (one - right), up * right, down * (one - right), down * right
            p = np.uint64(np.uint32(row)) * line + np.uint64(np.uint32(column)) * pixel
            q, r, s = p + pixel, p + line, p + line + pixel
            for _ in range(joints):
                total = a * values[p] if is_first else results[at] + a * values[p]
                results[at] = total + b * values[q] + c * values[r] + d * values[s]
                p, q, r, s, at = p + step, q + step, r + step, s + step, at + step
            i += step


@numba.njit(nogil=True, cache=True)
def _average(views, inverses, rows, columns, out):
    """Fill out (h, w, K) with the mean of the resampled bordered maps (V, H + 3, W + 3, K)."""
    weights = np.ones(out.shape[:2], np.float32)
    if len(views) > 1:  # one view covers no pixel more than once
        _fill_weights(inverses, rows, columns, weights)
    for view in range(len(views)):
        _resample(views[view], inverses[view], weights, view == 0, out)


def bordered_shape(map_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """(H + 3, W + 3, K), the shape of maps (K, H, W) with their border."""
    joints, height, width = map_shape
    return BEFORE + height + AFTER, BEFORE + width + AFTER, joints


def interior(bordered: NDArray[np.float32]) -> NDArray[np.float32]:
    """(..., H, W, K): bordered maps without their border, in the same memory."""
    return bordered[..., BEFORE:-AFTER, BEFORE:-AFTER, :]


def mean_heatmaps(
    views: NDArray[np.float32],
    inverses: NDArray[np.float64],
    map_size: tuple[int, int],
    out: NDArray[np.float32],
) -> None:
    """Resample the heatmaps of several views of one instance bilinearly onto one grid and average them.

    A pixel is the mean over the views that cover it. Where their coverage adds up to less than 1, the rest counts as 0.

    Args:
        views: (V, H + 3, W + 3, K) float32, contiguous, the bordered maps of each view.
        inverses: (V, 2, 3) float64, pixels of the result to pixels of each view's maps.
        map_size: Width and height of the views' maps without their borders.
        out: (height, width, K) float32, contiguous; is overwritten.
    """
    _average(views, inverses, map_size[1], map_size[0], out)


def warp_heatmaps(maps: NDArray[np.float32], affine: ArrayLike, output_size: tuple[int, int]) -> NDArray[np.float32]:
    """Resample the heatmaps of one view bilinearly.

    Args:
        maps: (H, W, K) float32.
        affine: (2, 3) pixels of these maps to pixels of the new ones.
        output_size: Width and height of the new maps.

    Returns:
        (height, width, K) float32.
    """
    height, width, joints = maps.shape
    bordered = np.zeros(bordered_shape((joints, height, width)), np.float32)
    interior(bordered)[...] = maps
    out = np.empty((output_size[1], output_size[0], joints), np.float32)
    mean_heatmaps(bordered[None], invert_affine(affine)[None], (width, height), out)
    return out
