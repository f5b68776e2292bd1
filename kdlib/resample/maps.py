"""Resampling heatmaps into another view: the mean of the stored views of one person, joints last.

Maps are *bordered* on the way: zeros around them, so that no tap of the interpolation needs a check, and all joints of
a pixel beside each other, so that one set of weights serves them all, eight at a time.

No kernel of the project has numba's `fastmath`: it lets the compiler choose how sums are rounded, and it chooses
otherwise in the process that compiles than in those that find the result in numba's cache.
"""

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdlib.geometry import invert_affine
from kdlib.resample.simd import LANES, add_eight, set_eight

BEFORE, AFTER = 1, 2
"""Border rows and columns in front and behind: a tap lies up to a pixel outside and has neighbours behind it."""


@numba.njit(nogil=True, cache=True)
def _fill_share(inverses, rows, columns, share):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Fill share (h, w): 1 over how often the views cover a pixel, 1 where that is less than once."""
    zero, one = np.float32(0), np.float32(1)
    for v in range(share.shape[0]):
        share[v] = 0
        for view in range(len(inverses)):
            dx, dy = np.float32(inverses[view, 0, 0]), np.float32(inverses[view, 1, 0])
            x0 = np.float32(inverses[view, 0, 1] * v + inverses[view, 0, 2])
            y0 = np.float32(inverses[view, 1, 1] * v + inverses[view, 1, 2])
            for u in range(share.shape[1]):
                x, y = dx * np.float32(u) + x0, dy * np.float32(u) + y0
                wide = min(max(min(x + one, np.float32(columns) - x), zero), one)
                high = min(max(min(y + one, np.float32(rows) - y), zero), one)
                share[v, u] += wide * high
        for u in range(share.shape[1]):
            share[v, u] = one / max(share[v, u], one)


@numba.njit(nogil=True, cache=True)
def _resample(bordered, inverse, share, first, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Add share (h, w) times resampled bordered maps (H + 3, W + 3, K) to out (h, w, K), which the first ones fill."""
    zero, one, step, lanes = np.float32(0), np.float32(1), np.uint64(1), np.uint64(LANES)
    lowest, rightmost = np.float32(bordered.shape[0] - 2), np.float32(bordered.shape[1] - 2)
    joints = bordered.shape[2]
    pixel, line = np.uint64(joints), np.uint64(bordered.shape[1] * joints)  # unsigned indices never count from the end
    values, shares, results = bordered.reshape(-1), share.reshape(-1), out.reshape(-1)
    dx, dy, i, at = np.float32(inverse[0, 0]), np.float32(inverse[1, 0]), np.uint64(0), np.uint64(0)
    for v in range(out.shape[0]):
        x0 = np.float32(inverse[0, 1] * v + inverse[0, 2] + 1)
        y0 = np.float32(inverse[1, 1] * v + inverse[1, 2] + 1)
        for u in range(out.shape[1]):
            x = min(max(x0 + dx * np.float32(u), zero), rightmost)
            y = min(max(y0 + dy * np.float32(u), zero), lowest)
            column, row = np.int32(x), np.int32(y)
            right, down = x - np.float32(column), y - np.float32(row)
            up, down = shares[i] * (one - down), shares[i] * down
            a, b, c, d = up * (one - right), up * right, down * (one - right), down * right
            p = np.uint64(np.uint32(row)) * line + np.uint64(np.uint32(column)) * pixel
            q, r, s = p + pixel, p + line, p + line + pixel
            for _ in range(joints // LANES):
                if first:
                    set_eight(values, p, q, r, s, a, b, c, d, results, at)
                else:
                    add_eight(values, p, q, r, s, a, b, c, d, results, at)
                p, q, r, s, at = p + lanes, q + lanes, r + lanes, s + lanes, at + lanes
            for _ in range(joints % LANES):
                value = a * values[p] + b * values[q] + c * values[r] + d * values[s]
                results[at] = value if first else results[at] + value
                p, q, r, s, at = p + step, q + step, r + step, s + step, at + step
            i += step


@numba.njit(nogil=True, cache=True)
def _average(views, inverses, rows, columns, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Fill out (h, w, K) with the mean of the resampled bordered maps (V, H + 3, W + 3, K)."""
    share = np.ones(out.shape[:2], np.float32)
    if len(views) > 1:  # one covers no pixel more than once
        _fill_share(inverses, rows, columns, share)
    for view in range(len(views)):
        _resample(views[view], inverses[view], share, view == 0, out)


def bordered_shape(map_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Shape of the bordered form of maps (K, H, W)."""
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
    """Resample several views' heatmaps of one person bilinearly onto one grid and average them.

    A pixel is the mean of the views that see it; where together they cover it less than once, the rest counts as zero.

    Args:
        views: (V, H + 3, W + 3, K) contiguous, each view's bordered maps.
        inverses: (V, 2, 3) float64 pixels of the result to pixels of each view's maps.
        map_size: Width and height of the views' maps, without their borders.
        out: Contiguous (height, width, K) float32 array to fill.
    """
    _average(views, inverses, map_size[1], map_size[0], out)


def warp_heatmaps(maps: NDArray[np.float32], affine: ArrayLike, output_size: tuple[int, int]) -> NDArray[np.float32]:
    """Resample the heatmaps of one view.

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
