"""Resampling images under an affine: with exact coordinates for stores, and with OpenCV.

OpenCV 4 rounds source coordinates to 1/32 pixel and OpenCV 5 does not; the same crop then differs by up to 5 grey
levels. A store must not depend on the version of OpenCV, so `crop_image` uses exact coordinates (decision 0001), in the
time of OpenCV's warp. `warp_image` is OpenCV's own function. In both, pixels outside the image are black.

OpenCV does not warp images of 32,767 or more pixels per side, and single precision does not hold fractions of pixels
there. Of such an image, each function takes the part that the crop shows, and resamples that.

A packed pixel is one 32-bit word, so one load reads all channels. `crop_image` and the training loader
(`kdlib.resample.packed`) share the steps of a row that move packed pixels; they differ in the arithmetic.
"""

import math
from typing import Final

import cv2
import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdlib.geometry import invert_affine

LARGEST_SIDE: Final = 32_766
"""Pixels per side of the largest image that is resampled as a whole: `cv2.warpAffine` needs less than SHRT_MAX."""


@numba.njit(nogil=True, cache=True, inline="always")
def taps(inverse, u, v, rows, columns):
    """Source rows, columns and weights of the four neighbours of output pixel (u, v); weight 0 outside the source."""
    x = np.float32(inverse[0, 0] * u + inverse[0, 1] * v + inverse[0, 2])
    y = np.float32(inverse[1, 0] * u + inverse[1, 1] * v + inverse[1, 2])
    x = min(max(x, np.float32(-1)), np.float32(columns))
    y = min(max(y, np.float32(-1)), np.float32(rows))
    x0, y0 = int(np.floor(x)), int(np.floor(y))
    right, down = np.float32(x - x0), np.float32(y - y0)
    left = np.float32(1) - right if 0 <= x0 < columns else np.float32(0)
    up = np.float32(1) - down if 0 <= y0 < rows else np.float32(0)
    right = right if x0 + 1 < columns else np.float32(0)
    down = down if y0 + 1 < rows else np.float32(0)
    first, last = min(max(x0, 0), columns - 1), min(max(x0 + 1, 0), columns - 1)
    top, bottom = min(max(y0, 0), rows - 1), min(max(y0 + 1, 0), rows - 1)
    return top, bottom, first, last, up * left, up * right, down * left, down * right


@numba.njit(nogil=True, cache=True)
def span(slope, start, low, high, first, last):
    """First and last u in first..last with low <= slope * u + start <= high; (first, first - 1) if there is none."""
    if last < first or high < low:
        return first, first - 1
    if abs(slope) < 1e-9:
        return (first, last) if low <= start <= high else (first, first - 1)
    one, other = (low - start) / slope, (high - start) / slope
    begin = int(max(math.ceil(max(min(one, other), -1e9)), first))
    end = int(min(math.floor(min(max(one, other), 1e9)), last))
    return (begin, end) if begin <= end else (first, first - 1)


@numba.njit(nogil=True, cache=True)
def is_exact(inverse, width, height):
    """Whether sums of coordinates of a (height, width) output lose less than a millionth of a pixel to rounding.

    Otherwise the range of `span` and the coordinates of a row may differ by pixels, and only `taps`, which limits every
    index, may read the image.
    """
    for axis in range(2):
        reach = abs(inverse[axis, 0]) * width + abs(inverse[axis, 1]) * height + abs(inverse[axis, 2])
        if not reach < 1e9:  # also NaN
            return False
    return True


@numba.njit(nogil=True, cache=True)
def blacken(out, first, last):
    """Fill pixels first..last - 1 of out (3 * n,) uint8 with 0."""
    k = np.uint64(3 * first)
    for _ in range(3 * (last - first)):
        out[k] = 0
        k += np.uint64(1)


@numba.njit(nogil=True, cache=True)
def fill_border(flat, shape, inverse, v, first, last, out):
    """Fill out[v, first:last] from the packed pixels of an image of that shape; neighbours outside are black."""
    half, byte = np.float32(0.5), np.uint32(255)
    for u in range(first, last):
        top, bottom, left, right, a, b, c, d = taps(inverse, u, v, shape[0], shape[1])
        p, q = flat[top * shape[1] + left], flat[top * shape[1] + right]
        r, s = flat[bottom * shape[1] + left], flat[bottom * shape[1] + right]
        for k in range(3):
            shift = np.uint32(8 * k)
            value = a * np.float32((p >> shift) & byte) + b * np.float32((q >> shift) & byte)
            value += c * np.float32((r >> shift) & byte) + d * np.float32((s >> shift) & byte)
            out[v, u, k] = np.uint8(value + half)


@numba.njit(nogil=True, cache=True)
def gather(flat, at, columns, n, north, south):
    """Copy the upper two neighbours of n pixels to north and the lower two to south: words 2 u and 2 u + 1 of each."""
    left, one, line = np.uint64(0), np.uint64(1), np.uint64(columns)
    for u in range(n):
        p = np.uint64(np.uint32(at[u]))
        q = p + line
        north[left], north[left + one] = flat[p], flat[p + one]
        south[left], south[left + one] = flat[q], flat[q + one]
        left += one + one


@numba.njit(nogil=True, cache=True)
def unpack(packed, n, out, first):
    """Write the three low bytes of packed (n,) uint32 to pixels first..first + n - 1 of out (3 * m,) uint8."""
    k, one = np.uint64(3 * first), np.uint64(1)
    for u in range(n):
        pixel = packed[u]
        out[k] = np.uint8(pixel)
        out[k + one] = np.uint8(pixel >> np.uint32(8))
        out[k + one + one] = np.uint8(pixel >> np.uint32(16))
        k += np.uint64(3)


@numba.njit(nogil=True, cache=True)
def _locate(slopes, x, y, shift_x, shift_y, first, columns, n, at, right, down):
    """Fill at (n,) with the index of each pixel's upper left neighbour, and right and down (n,) with its fractions.

    The sums are those of `taps`, in the same order, so that the coordinates are equal to the last bit.
    """
    for i in range(n):
        u = np.float64(first + i)
        px = np.float32(slopes[0] * u + x + shift_x)
        py = np.float32(slopes[1] * u + y + shift_y)
        column, row = np.int32(px), np.int32(py)
        at[i] = np.int32(row * np.int32(columns) + column)
        right[i], down[i] = px - np.float32(column), py - np.float32(row)


@numba.njit(nogil=True, cache=True, inline="always")
def _mix(p, q, r, s, a, b, c, d):
    """The low byte of four packed pixels, weighted, rounded half up."""
    byte = np.int32(255)
    value = a * np.float32(np.int32(p) & byte) + b * np.float32(np.int32(q) & byte)
    value += c * np.float32(np.int32(r) & byte) + d * np.float32(np.int32(s) & byte)
    return np.uint32(np.int32(value + np.float32(0.5)))


@numba.njit(nogil=True, cache=True)
def _blend(north, south, right, down, n, out):
    """Fill out (n,) uint32 with interpolated pixels, three channels in the low bytes; see `gather` and `_locate`."""
    one, eight, sixteen = np.uint64(1), np.uint32(8), np.uint32(16)
    left = np.uint64(0)
    for u in range(n):
        east, lower = right[u], down[u]
        west, upper = np.float32(1) - east, np.float32(1) - lower
        a, b, c, d = upper * west, upper * east, lower * west, lower * east
        p, q, r, s = north[left], north[left + one], south[left], south[left + one]
        first = _mix(p, q, r, s, a, b, c, d)
        second = _mix(p >> eight, q >> eight, r >> eight, s >> eight, a, b, c, d)
        third = _mix(p >> sixteen, q >> sixteen, r >> sixteen, s >> sixteen, a, b, c, d)
        out[u] = np.uint32(first | np.uint32(second << eight) | np.uint32(third << sixteen))
        left += one + one


@numba.njit(nogil=True, cache=True)
def _resample(pixels, inverse, out):
    """Fill out (h, w, 3) uint8 from packed pixels (H, W) uint32; see `kdlib.resample.packed` for the steps of a row."""
    (rows, columns), (height, width) = pixels.shape, out.shape[:2]
    flat, flat_out = pixels.reshape(-1), out.reshape(-1)
    at, packed = np.empty(width, np.int32), np.empty(width, np.uint32)
    right, down = np.empty(width, np.float32), np.empty(width, np.float32)
    north, south = np.empty(2 * width, np.uint32), np.empty(2 * width, np.uint32)
    slopes = inverse[0, 0], inverse[1, 0]
    margin = 0.01 + 1e-7 * max(rows, columns)  # bounds the rounding to float32
    exact = is_exact(inverse, width, height)
    for v in range(height):
        x, y = inverse[0, 1] * v, inverse[1, 1] * v
        start_x, start_y = x + inverse[0, 2], y + inverse[1, 2]
        begin, end = span(slopes[0], start_x, -1.01, columns + 0.01, 0, width - 1)
        begin, end = span(slopes[1], start_y, -1.01, rows + 0.01, begin, end)
        first, last = span(slopes[0], start_x, margin, columns - 1 - margin, begin, end)
        first, last = span(slopes[1], start_y, margin, rows - 1 - margin, first, last)
        if last < first or not exact:
            first, last = end + 1, end
        line, n = v * width, last - first + 1
        blacken(flat_out, line, line + begin)
        fill_border(flat, pixels.shape, inverse, v, begin, first, out)
        if n > 0:
            _locate(slopes, x, y, inverse[0, 2], inverse[1, 2], first, columns, n, at, right, down)
            gather(flat, at, columns, n, north, south)
            _blend(north, south, right, down, n, packed)
            unpack(packed, n, flat_out, line + first)
        fill_border(flat, pixels.shape, inverse, v, last + 1, end + 1, out)
        blacken(flat_out, line + end + 1, line + width)


def crop_image(image: NDArray[np.uint8], affine: ArrayLike, output_size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resample an image bilinearly with exact source coordinates, as for the teacher's crops and a store's frames.

    The result does not depend on the installed version of OpenCV.

    Args:
        image: (H, W, 3) uint8, or (H, W, 4) whose last channel is ignored: `pack_pixels` makes it once for all crops.
        affine: (2, 3) image pixels to crop pixels.
        output_size: Width and height of the crop.

    Returns:
        (height, width, 3) uint8.
    """
    out, inverse = np.empty((output_size[1], output_size[0], 3), np.uint8), invert_affine(affine)
    if is_huge(image):
        image, corner = cut_shown(image, inverse, output_size)
        inverse[:, 2] -= corner
    _resample(np.ascontiguousarray(pack_pixels(image)).view(np.uint32)[..., 0], inverse, out)
    return out


def pack_pixels(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image (H, W, 3) uint8 with a fourth, unused channel; one that has it already is returned unchanged."""
    if image.shape[2] == 4:
        return image
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2RGBA), np.uint8)


def warp_image(image: NDArray[np.uint8], affine: ArrayLike, output_size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resample an image bilinearly with OpenCV, up to 5 grey levels different from `crop_image`.

    Args:
        image: (H, W, C) uint8.
        affine: (2, 3) image pixels to output pixels.
        output_size: Width and height of the output.

    Returns:
        (height, width, C) uint8.
    """
    matrix = np.array(affine, np.float64)
    if is_huge(image):
        shown, corner = cut_shown(image, invert_affine(matrix), output_size)
        if is_huge(shown):
            return crop_image(image, matrix, output_size)
        image, matrix[:, 2] = shown, matrix[:, 2] + matrix[:, :2] @ corner
    return np.asarray(cv2.warpAffine(image, matrix, output_size, flags=cv2.INTER_LINEAR), np.uint8)


def is_huge(image: NDArray[np.uint8]) -> bool:
    """Whether an image (H, W, C) has more than `LARGEST_SIDE` pixels on a side."""
    return max(image.shape[:2]) > LARGEST_SIDE


def cut_shown(
    image: NDArray[np.uint8], inverse: NDArray[np.float64], output_size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Cut out the part of an image that a crop shows, with the neighbours that interpolation needs.

    Args:
        image: (H, W, C) uint8.
        inverse: (2, 3) crop pixels to image pixels.
        output_size: Width and height of the crop.

    Returns:
        A view of the image with at least one pixel, and the position (2,) of its first pixel: x, y.
    """
    size = np.array(image.shape[1::-1])
    corners = np.array([[u, v, 1.0] for u in (0, output_size[0] - 1) for v in (0, output_size[1] - 1)]) @ inverse.T
    first = np.clip(np.floor(corners.min(axis=0)) - 2, 0, size - 1).astype(np.int64)
    last = np.clip(np.ceil(corners.max(axis=0)) + 3, first + 1, size).astype(np.int64)
    return image[first[1] : last[1], first[0] : last[0]], first
