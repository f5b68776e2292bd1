"""The fast resampling of the loader: pictures of four bytes a pixel, in whole numbers, to 1/256 pixel.

A packed pixel is one 32-bit word, so that a tap is one load and two channels are weighted by one multiplication. It is
nearer to exact interpolation than OpenCV 4's warp (1/32 pixel): within two grey levels, on photographs mostly one.
"""

import math

import numba
import numpy as np
from numpy.typing import NDArray

from kdlib.warp import resample_pixel

LANES = 0x00FF00FF
"""Two channels of a packed pixel, each with 8 bits of room above."""
LARGEST_SIDE = 32_767
"""Pixels: positions are 32-bit numbers in 1/65536 pixel."""


@numba.njit(nogil=True, cache=True)
def _span(slope, start, low, high, first, last):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """(first, last) of the whole u in first..last with low <= slope * u + start <= high; empty: last = first - 1."""
    if last < first or high < low:
        return first, first - 1
    if abs(slope) < 1e-9:
        return (first, last) if low <= start <= high else (first, first - 1)
    one, other = (low - start) / slope, (high - start) / slope
    begin = int(max(math.ceil(max(min(one, other), -1e9)), first))
    end = int(min(math.floor(min(max(one, other), 1e9)), last))
    return (begin, end) if begin <= end else (first, first - 1)


@numba.njit(nogil=True, cache=True)
def _place(x, y, dx, dy, columns, at, weights):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Fill at (n,) int32 with the first tap of each pixel and weights with its fractions, x's in the low 8 bits.

    All are in 1/65536 pixels.
    """
    for u in range(at.size):
        px, py = np.int32(x + dx * np.int32(u)), np.int32(y + dy * np.int32(u))
        at[u] = np.int32(np.int32(py >> 16) * np.int32(columns) + np.int32(px >> 16))
        weights[u] = np.uint32(np.int32(np.int32(px >> 8) & np.int32(255)) | np.int32(py & np.int32(0xFF00)))


@numba.njit(nogil=True, cache=True)
def _gather(pixels, at, columns, taps):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Fill taps (4, n) uint32 with the four neighbours of each pixel of pixels (H * W,) uint32."""
    one, line = np.uint64(1), np.uint64(columns)  # unsigned indices never count from the end
    for u in range(at.size):
        i = np.uint64(np.uint32(at[u]))
        taps[0, u], taps[1, u], taps[2, u], taps[3, u] = (
            pixels[i],
            pixels[i + one],
            pixels[i + line],
            pixels[i + line + one],
        )


@numba.njit(nogil=True, cache=True, inline="always")
def _mix(p, q, r, s, a, b, c, d):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Two channels of the weighted sum of four packed pixels, times 256, rounded half up; the weights add up to 256."""
    mask, half = np.uint32(LANES), np.uint32(0x00800080)
    north = np.uint32(np.uint32(np.uint32(p & mask) * a) + np.uint32(np.uint32(q & mask) * b))
    south = np.uint32(np.uint32(np.uint32(r & mask) * c) + np.uint32(np.uint32(s & mask) * d))
    return np.uint32(north + np.uint32(south + half))


@numba.njit(nogil=True, cache=True)
def _blend(p, q, r, s, weights, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Fill out (n,) uint32 with the interpolated pixels of the taps, three channels in the low bytes."""
    byte, mask = np.uint32(8), np.uint32(LANES)
    for u in range(out.size):
        x, y = np.uint32(weights[u] & np.uint32(255)), np.uint32(weights[u] >> byte)
        d = np.uint32(np.uint32(np.uint32(x * y) + np.uint32(128)) >> byte)
        b, c = np.uint32(x - d), np.uint32(y - d)
        a = np.uint32(np.uint32(256) - x - c)
        even = _mix(p[u], q[u], r[u], s[u], a, b, c, d)
        odd = _mix(
            np.uint32(p[u] >> byte),
            np.uint32(q[u] >> byte),
            np.uint32(r[u] >> byte),
            np.uint32(s[u] >> byte),
            a,
            b,
            c,
            d,
        )
        out[u] = np.uint32(np.uint32(even >> byte) & mask) | np.uint32(odd & np.uint32(0xFF00))


@numba.njit(nogil=True, cache=True)
def _unpack(packed, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Fill out (3 * n,) uint8 with the three low bytes of packed (n,) uint32."""
    k, one = np.uint64(0), np.uint64(1)
    for u in range(packed.size):
        pixel = packed[u]
        out[k] = np.uint8(pixel)
        out[k + one] = np.uint8(pixel >> np.uint32(8))
        out[k + one + one] = np.uint8(pixel >> np.uint32(16))
        k += np.uint64(3)


@numba.njit(nogil=True, cache=True)
def _resample(image, pixels, inverse, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Fill out (h, w, 3) uint8 from image (H, W, 4) uint8, whose packed form is pixels (H, W) uint32.

    A row goes through in steps, each of which the compiler makes a loop over eight pixels at a time, but the gathering;
    pixels near or beyond the border are made one by one.
    """
    (rows, columns), (height, width) = pixels.shape, out.shape[:2]
    flat, unit = pixels.ravel(), 65536.0
    at, weights = np.empty(width, np.int32), np.empty(width, np.uint32)
    taps, packed = np.empty((4, width), np.uint32), np.empty(width, np.uint32)
    dx, dy = np.int32(round(inverse[0, 0] * unit)), np.int32(round(inverse[1, 0] * unit))
    margin = 0.01 + width / unit  # what rounding the steps may add up to
    for v in range(height):
        x, y = inverse[0, 1] * v + inverse[0, 2], inverse[1, 1] * v + inverse[1, 2]
        first, last = _span(inverse[0, 0], x, margin, columns - 1 - margin, 0, width - 1)
        first, last = _span(inverse[1, 0], y, margin, rows - 1 - margin, first, last)
        n = last - first + 1
        for u in range(first):
            resample_pixel(image, inverse, u, v, out)
        for u in range(last + 1, width):
            resample_pixel(image, inverse, u, v, out)
        if n > 0:
            fx = np.int32(round((x + inverse[0, 0] * first) * unit))
            fy = np.int32(round((y + inverse[1, 0] * first) * unit))
            _place(fx, fy, dx, dy, columns, at[:n], weights[:n])
            _gather(flat, at[:n], columns, taps[:, :n])
            _blend(taps[0, :n], taps[1, :n], taps[2, :n], taps[3, :n], weights[:n], packed[:n])
            _unpack(packed[:n], out[v, first : last + 1].ravel())


def warp_packed(image: NDArray[np.uint8], inverse: NDArray[np.float64], out: NDArray[np.uint8]) -> None:
    """Resample an image bilinearly, nine times as fast as `crop_image`.

    Args:
        image: Contiguous (H, W, 4) uint8 of at most `LARGEST_SIDE` pixels a side; the last channel is ignored.
        inverse: (2, 3) float64 pixels of the result to image pixels.
        out: Contiguous (height, width, 3) uint8 array to fill.
    """
    _resample(image, image.view(np.uint32)[..., 0], inverse, out)
