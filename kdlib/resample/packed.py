"""The training loader's image resampling, with packed pixels of four bytes in fixed-point steps of 1/256 pixel.

A packed pixel is one 32-bit word, so one load reads two neighbours and one multiplication weights two channels. The
result is closer to exact interpolation than OpenCV 4's warp (1/32 pixel): within two grey levels, mostly one on
photographs. docs/decisions/0017-hand-written-kernels.md compares the speed with OpenCV's.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from kdlib.geometry import invert_affine
from kdlib.resample.exact import blacken, crop_image, cut_shown, fill_border, gather, is_exact, span, unpack

CHANNEL_PAIR = 0x00FF00FF
"""Mask of two channels of a packed pixel; each has 8 bits of room above it."""
LARGEST_SIDE = 32_767
"""Pixels per side of the largest image: positions are 32-bit numbers in 1/65536 pixel."""


@numba.njit(nogil=True, cache=True)
def _locate(x, y, dx, dy, columns, n, at, weights):
    """Fill at (n,) int32 with the index of each pixel's upper left neighbour, and weights (n,) with its fractions.

    x, y, dx and dy are in 1/65536 pixel. Of a weight, the low byte is the fraction of x and the next byte that of y.
    """
    for u in range(n):
        px, py = np.int32(x + dx * np.int32(u)), np.int32(y + dy * np.int32(u))
        at[u] = np.int32(np.int32(py >> 16) * np.int32(columns) + np.int32(px >> 16))
        weights[u] = np.uint32(np.int32(np.int32(px >> 8) & np.int32(255)) | np.int32(py & np.int32(0xFF00)))


@numba.njit(nogil=True, cache=True, inline="always")
def _mix(p, q, r, s, a, b, c, d):
    """Two channels of the weighted sum of four packed pixels, times 256, rounded half up; the weights add up to 256."""
    mask, half = np.uint32(CHANNEL_PAIR), np.uint32(0x00800080)
    north = np.uint32(np.uint32(np.uint32(p & mask) * a) + np.uint32(np.uint32(q & mask) * b))
    south = np.uint32(np.uint32(np.uint32(r & mask) * c) + np.uint32(np.uint32(s & mask) * d))
    return np.uint32(north + np.uint32(south + half))


@numba.njit(nogil=True, cache=True)
def _blend(north, south, weights, n, out):
    """Fill out (n,) uint32 with interpolated pixels, three channels in the low bytes; see `gather` and `_locate`."""
    byte, mask = np.uint32(8), np.uint32(CHANNEL_PAIR)
    left, one = np.uint64(0), np.uint64(1)
    for u in range(n):
        x, y = np.uint32(weights[u] & np.uint32(255)), np.uint32(weights[u] >> byte)
        d = np.uint32(np.uint32(np.uint32(x * y) + np.uint32(128)) >> byte)
        b, c = np.uint32(x - d), np.uint32(y - d)
        a = np.uint32(np.uint32(256) - x - c)
        p, q, r, s = north[left], north[left + one], south[left], south[left + one]
        even = _mix(p, q, r, s, a, b, c, d)
        odd = _mix(np.uint32(p >> byte), np.uint32(q >> byte), np.uint32(r >> byte), np.uint32(s >> byte), a, b, c, d)
        out[u] = np.uint32(np.uint32(even >> byte) & mask) | np.uint32(odd & np.uint32(0xFF00))
        left += one + one


@numba.njit(nogil=True, cache=True)
def _resample(pixels, inverse, out):
    """Fill out (h, w, 3) uint8 from packed pixels (H, W) uint32.

    In each row, pixels without a neighbour in the image are black, pixels with some neighbours outside are computed one
    by one, and the others in four steps over the whole row. Each step except the gathering is a loop that the compiler
    vectorises. The steps take whole arrays and a count, because slicing an array costs as much as a dozen pixels.
    """
    (rows, columns), (height, width) = pixels.shape, out.shape[:2]
    flat, flat_out, unit = pixels.reshape(-1), out.reshape(-1), 65536.0
    weights, packed, at = np.empty(width, np.uint32), np.empty(width, np.uint32), np.empty(width, np.int32)
    north, south = np.empty(2 * width, np.uint32), np.empty(2 * width, np.uint32)
    dx, dy = np.int32(round(inverse[0, 0] * unit)), np.int32(round(inverse[1, 0] * unit))
    margin = 0.01 + width / unit  # bounds the sum of the rounding errors of dx and dy over a row
    exact = is_exact(inverse, width, height)
    for v in range(height):
        x, y = inverse[0, 1] * v + inverse[0, 2], inverse[1, 1] * v + inverse[1, 2]
        begin, end = span(inverse[0, 0], x, -1.01, columns + 0.01, 0, width - 1)
        begin, end = span(inverse[1, 0], y, -1.01, rows + 0.01, begin, end)
        first, last = span(inverse[0, 0], x, margin, columns - 1 - margin, begin, end)
        first, last = span(inverse[1, 0], y, margin, rows - 1 - margin, first, last)
        if last < first or not exact:
            first, last = end + 1, end
        line, n = v * width, last - first + 1
        blacken(flat_out, line, line + begin)
        fill_border(flat, pixels.shape, inverse, v, begin, first, out)
        if n > 0:
            fx = np.int32(round((x + inverse[0, 0] * first) * unit))
            fy = np.int32(round((y + inverse[1, 0] * first) * unit))
            _locate(fx, fy, dx, dy, columns, n, at, weights)
            gather(flat, at, columns, n, north, south)
            _blend(north, south, weights, n, packed)
            unpack(packed, n, flat_out, line + first)
        fill_border(flat, pixels.shape, inverse, v, last + 1, end + 1, out)
        blacken(flat_out, line + end + 1, line + width)


def warp_packed(image: NDArray[np.uint8], inverse: NDArray[np.float64], out: NDArray[np.uint8]) -> None:
    """Resample an image bilinearly, in three quarters of the time of `kdlib.resample.exact.crop_image`.

    Args:
        image: (H, W, 4) uint8, contiguous; the last channel is ignored. Of an image with more than `LARGEST_SIDE`
            pixels on a side, only the part that the result shows is used; where that is larger still, the result is
            that of `crop_image`.
        inverse: (2, 3) float64, pixels of the result to image pixels.
        out: (height, width, 3) uint8, contiguous; is overwritten.
    """
    if max(image.shape) > LARGEST_SIDE:
        size = out.shape[1], out.shape[0]
        image, corner = cut_shown(image, inverse, size)
        inverse = inverse - np.column_stack([np.zeros((2, 2)), corner])
        if max(image.shape) > LARGEST_SIDE:
            out[:] = crop_image(image, invert_affine(inverse), size)[..., :3]
            return
        image = np.ascontiguousarray(image)
    _resample(image.view(np.uint32)[..., 0], inverse, out)
