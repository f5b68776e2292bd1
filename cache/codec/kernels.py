"""Compiled inner loops of the codecs: fourth-root codes of heatmaps, their differences, decoding, halves, divergences.

All functions release the GIL, so several threads may encode or decode at once, and use a single thread themselves. The
compiled code is cached on disk, so a second process starts in a fraction of a second.

Axes: C maps (one per view and joint) of H rows and W columns, P = H·W pixels; L levels.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Array = npt.NDArray[Any]

SMALL = 0.1  # below this difference between an exact and a stored value, a short series is as accurate as exp
NOTHING_ABOVE_FLOOR = np.nan  # the error of a map whose log logits are all removed: it has no distribution
# Constants for arithmetic on eight bytes at a time:
_BYTES, _LOW_BITS, _HIGH_BITS = np.uint64(8), np.uint64(0x7F7F7F7F7F7F7F7F), np.uint64(0x8080808080808080)
_EVEN, _EACH, _LAST = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0001000100010001), np.uint64(0xFF)


@njit(nogil=True, cache=True)
def _peak(row: Array) -> tuple[int, float]:
    """(index, value) of the first maximum of `row` (P,) float32; the index is -1 if a value is not finite."""
    best = 0
    for p in range(row.size):
        if not math.isfinite(row[p]):
            return -1, row[p]
        if row[p] > row[best]:
            best = p
    return best, row[best]


@njit(nogil=True, cache=True)
def _fourth_root(value: float) -> float:
    """value^(1/4) in float64, as two square roots, which every IEEE 754 machine rounds identically."""
    return math.sqrt(math.sqrt(np.float64(value)))


@njit(nogil=True, cache=True)
def _fill_values(peak: float, floor: float, levels: int, values: Array) -> None:
    """Write the value of each code into `values` (L + 1,) float32: 0, then floor ... peak."""
    values[:] = 0
    if peak <= floor:
        return
    low = _fourth_root(floor)
    step = (_fourth_root(peak) - low) / (levels - 1)
    for code in range(2, levels):
        root = low + (code - 1) * step
        values[code] = (root * root) * (root * root)
    values[1] = floor
    values[levels] = peak


@njit(nogil=True, cache=True)
def fill_tables(peaks: Array, floor: float, levels: int, tables: Array) -> None:
    """Write the value of every code of every map into `tables` (C, L + 1) float32, from `peaks` (C,) float32."""
    for c in range(peaks.size):
        _fill_values(peaks[c], floor, levels, tables[c])


@njit(nogil=True, cache=True)
def decode_root(residuals: Array, peaks: Array, floor: float, levels: int, maps: Array) -> bool:
    """Decode `residuals` (C, H, W) uint8 into `maps` (C, H, W) float32.

    Most rows equal the row above, and most are entirely below the floor: these take almost no time.

    Returns:
        False if a code is above `levels` or a peak is not finite.
    """
    count, height, width = residuals.shape
    values = np.full(256, np.nan, np.float32)
    codes = np.empty(width, np.uint8)
    largest = np.uint8(0)
    for c in range(count):
        _fill_values(peaks[c], floor, levels, values[: levels + 1])
        codes[:] = 0
        above_floor = np.uint8(0)  # bits of all codes of the row
        for y in range(height):
            differs = np.uint8(0)
            for x in range(width):
                differs |= residuals[c, y, x]
            if differs:
                step = above_floor = np.uint8(0)
                for x in range(width):
                    step = np.uint8(step + residuals[c, y, x])
                    codes[x] = np.uint8(codes[x] + step)
                for x in range(width):
                    above_floor |= codes[x]
                    largest = max(largest, codes[x])
            if above_floor:
                for x in range(width):
                    maps[c, y, x] = values[codes[x]]
            else:
                maps[c, y, :] = 0
    return bool(largest <= levels and np.isfinite(peaks).all())


@njit(nogil=True, cache=True)
def _add_bytes(first: np.uint64, second: np.uint64) -> np.uint64:
    """Add the eight bytes of two words pairwise, modulo 256."""
    return ((first & _LOW_BITS) + (second & _LOW_BITS)) ^ ((first ^ second) & _HIGH_BITS)


@njit(nogil=True, cache=True)
def _sum_bytes(word: np.uint64, before: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Running sums of the eight bytes of a word, from the lowest byte up, modulo 256.

    In the product of a number with `_EACH`, each 16-bit part is the sum of the number's 16-bit parts up to that one.

    Args:
        word: The eight bytes.
        before: What is added to every sum: the last running sum of the previous word, 0..255.

    Returns:
        The running sums as a word, and the last of them.
    """
    odd = (word >> _BYTES) & _EVEN
    pairs = ((word & _EVEN) + odd) * _EACH
    after = (before + (pairs >> np.uint64(48))) & _LAST
    pairs += before * _EACH
    return ((pairs - odd) & _EVEN) | ((pairs & _EVEN) << _BYTES), after


@njit(nogil=True, cache=True)
def decode_root_interleaved(words: Array, peaks: Array, order: Array, floor: float, levels: int, out: Array) -> bool:
    """Decode into `out` (H, W, C) float32, which is filled with 0; its map c is map order[c] of `words`.

    Args:
        words: Residuals (C, H, W / 8) uint64: eight pixels of a row per word, the first in the lowest byte.
        peaks: (C,) float32.
        order: (C,) int64.
        floor: As float32, in heatmap units.
        levels: The highest code.
        out: (H, W, C) float32, any strides.

    Returns:
        False if a code is above `levels` or a peak is not finite.
    """
    count, height, row_words = words.shape
    values = np.full(256, np.nan, np.float32)
    rows = np.empty(row_words, np.uint64)  # running sums of the residuals down the columns
    largest = np.uint64(0)
    for c in range(count):
        j = order[c]
        _fill_values(peaks[j], floor, levels, values[: levels + 1])
        rows[:] = 0
        for y in range(height):
            above_floor = np.uint64(0)
            for w in range(row_words):
                rows[w] = _add_bytes(rows[w], words[j, y, w])
                above_floor |= rows[w]
            if above_floor:  # most rows are entirely background
                code = np.uint64(0)
                for w in range(row_words):
                    codes, code = _sum_bytes(rows[w], code)
                    if codes:
                        for i in range(8):
                            largest = max(largest, codes & _LAST)
                            out[y, 8 * w + i, c] = values[codes & _LAST]
                            codes >>= _BYTES
    return bool(largest <= levels and np.isfinite(peaks).all())


@njit(nogil=True, cache=True)
def undo_differences(residuals: Array, codes: Array) -> int:
    """Write the cumulative sums of `residuals` (C, H, W) uint8 along both axes, modulo 256, into `codes` (C, H, W).

    Returns:
        The largest code.
    """
    count, height, width = residuals.shape
    row = np.empty(width, np.uint8)
    largest = np.uint8(0)
    for c in range(count):
        row[:] = 0
        for y in range(height):
            differs = np.uint8(0)
            for x in range(width):
                differs |= residuals[c, y, x]
            if differs:  # most rows equal the row above
                step = np.uint8(0)
                for x in range(width):
                    step = np.uint8(step + residuals[c, y, x])
                    row[x] = np.uint8(row[x] + step)
                for x in range(width):
                    largest = max(largest, row[x])
            codes[c, y] = row
    return int(largest)


@njit(nogil=True, cache=True)
def _difference(codes: Array) -> None:
    """Replace `codes` (H, W) by their differences along both axes, modulo 256."""
    height, width = codes.shape
    # From the last pixel to the first, because each difference needs the original neighbour.
    for y in range(height - 1, -1, -1):
        if y:
            for x in range(width):
                codes[y, x] -= codes[y - 1, x]
        for x in range(width - 1, 0, -1):
            codes[y, x] -= codes[y, x - 1]


@njit(nogil=True, cache=True)
def _encode_row(row: Array, top: int, floor: float, levels: int, codes: Array) -> None:
    """Write the codes (P,) of the map `row` (P,), whose peak, at pixel `top`, is above the floor."""
    low = _fourth_root(floor)
    scale = (levels - 1) / (_fourth_root(row[top]) - low)
    for p in range(row.size):
        if row[p] < floor:
            codes[p] = 0
        else:
            code = 1 + int((_fourth_root(row[p]) - low) * scale + 0.5)
            codes[p] = min(code, levels - 1)  # only the peak gets its code: the argmax of ties does not change
    codes[top] = levels


@njit(nogil=True, cache=True)
def _log_divergence(row: Array, codes: Array, values: Array) -> tuple[float, float]:
    """KL in nats at T = 1 and T = 4 between the normalised exact and stored map above the floor.

    With p = h^(1/T) / Zp and q = v^(1/T) / Zq: KL = E_p[ln(h / v)] / T - ln Zp + ln Zq.
    """
    logs = np.log(np.maximum(values, np.float32(1e-37)).astype(np.float64))
    roots = np.sqrt(np.sqrt(values.astype(np.float64)))
    zp1 = zq1 = e1 = zp4 = zq4 = e4 = 0.0
    for p in range(row.size):
        code = codes[p]
        if code > 0:
            h = np.float64(row[p])
            gap = math.log(h) - logs[code]
            root = math.sqrt(math.sqrt(h))
            zp1 += h
            zq1 += values[code]
            e1 += h * gap
            zp4 += root
            zq4 += roots[code]
            e4 += root * gap
    return e1 / zp1 + math.log(zq1 / zp1), e4 / zp4 / 4 + math.log(zq4 / zp4)


@njit(nogil=True, cache=True)
def _exp_series(x: float) -> float:
    """exp(x) for |x| < SMALL, accurate to 2e-9, in a third of the time of `math.exp`."""
    return 1 + x * (1 + x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120)))))


@njit(nogil=True, cache=True)
def _raw_divergence(row: Array, top: float, codes: Array, values: Array) -> tuple[float, float]:
    """KL in nats at T = 1 and T = 4 between softmax(exact / T), whose peak is `top`, and softmax(stored / T)."""
    stored_top = np.float64(values.max())
    weights = np.exp(values.astype(np.float64) - stored_top)
    roots = np.exp((values.astype(np.float64) - stored_top) / 4)
    zp1 = zq1 = e1 = zp4 = zq4 = e4 = 0.0
    for p in range(row.size):
        code = codes[p]
        h = np.float64(row[p]) - np.float64(top)
        gap = h - (np.float64(values[code]) - stored_top)
        if abs(gap) < SMALL:
            weight, root = weights[code] * _exp_series(gap), roots[code] * _exp_series(gap / 4)
        else:
            weight, root = math.exp(h), math.exp(h / 4)
        zp1 += weight
        zq1 += weights[code]
        e1 += weight * gap
        zp4 += root
        zq4 += roots[code]
        e4 += root * gap
    return e1 / zp1 + math.log(zq1 / zp1), e4 / zp4 / 4 + math.log(zq4 / zp4)


@njit(nogil=True, cache=True)
def encode_root(maps: Array, floor: float, levels: int, residuals: Array, peaks: Array, error: Array) -> int:
    """Encode `maps` (C, H, W) float32 into `residuals` (C, H, W) uint8 and `peaks` (C,) float32.

    `error` (C, 4) float64 receives the KL of each map in nats: log logits at T = 1 and T = 4, then raw logits at both.

    Returns:
        The index of the first map with a value that is not finite, or -1.
    """
    values = np.empty(levels + 1, np.float32)
    for c in range(maps.shape[0]):
        row, codes = maps[c].ravel(), residuals[c].ravel()  # views: both are contiguous
        top, peak = _peak(row)
        if top < 0:
            return c
        peaks[c] = peak
        _fill_values(peak, floor, levels, values)
        if peak <= floor:
            codes[:] = 0
            error[c, 0] = error[c, 1] = NOTHING_ABOVE_FLOOR
        else:
            _encode_row(row, top, floor, levels, codes)
            error[c, 0], error[c, 1] = _log_divergence(row, codes, values)
        error[c, 2], error[c, 3] = _raw_divergence(row, peak, codes, values)
        _difference(residuals[c])
    return -1


@njit(nogil=True, cache=True)
def _half_to_float(half: np.uint16) -> np.float32:
    """The float32 that is equal to the half with these bits; infinities and NaN stay what they are (IEEE 754)."""
    magnitude = np.uint32(half) & np.uint32(0x7FFF)
    if magnitude >= np.uint32(0x7C00):
        bits = (magnitude << np.uint32(13)) | np.uint32(0x7F800000)
    elif magnitude >= np.uint32(0x0400):
        bits = (magnitude << np.uint32(13)) + np.uint32(112 << 23)
    else:  # subnormal: a multiple of 2^-24
        bits = np.float32(np.float32(magnitude) * np.float32(2.0**-24)).view(np.uint32)
    return np.uint32(bits | ((np.uint32(half) & np.uint32(0x8000)) << np.uint32(16))).view(np.float32)


@njit(nogil=True, cache=True)
def _float_to_half(value: np.float32) -> np.uint16:
    """The bits of the half that is nearest to a float32; of two equally near ones, the even one (IEEE 754).

    Values from 65520 up become infinity. NaN stays NaN.
    """
    bits = np.float32(value).view(np.uint32)
    magnitude, sign = bits & np.uint32(0x7FFFFFFF), (bits >> np.uint32(16)) & np.uint32(0x8000)
    if magnitude >= np.uint32(0x477FF000):  # 65520
        half = np.uint32(0x7E00 if magnitude > np.uint32(0x7F800000) else 0x7C00)
    elif magnitude >= np.uint32(113 << 23):  # 2^-14, the smallest normal half
        odd = (magnitude >> np.uint32(13)) & np.uint32(1)
        half = (magnitude - np.uint32(112 << 23) + np.uint32(0xFFF) + odd) >> np.uint32(13)
    else:  # near 0.5, float32 has the spacing of subnormal halves, 2^-24: the addition rounds
        half = np.float32(np.uint32(magnitude).view(np.float32) + np.float32(0.5)).view(np.uint32) - np.uint32(
            0x3F000000
        )
    return np.uint16(half | sign)


@njit(nogil=True, cache=True)
def _next_half(half: np.uint16, up: bool) -> np.uint16:
    """The bits of the next half above or below a finite one or an infinity that is not passed."""
    negative = half >= np.uint16(0x8000)
    if half & np.uint16(0x7FFF) == 0:
        return np.uint16(0x0001) if up else np.uint16(0x8001)
    return np.uint16(half - 1) if negative == up else np.uint16(half + 1)


@njit(nogil=True, cache=True)
def decode_half(halves: Array, order: Array, out: Array) -> bool:
    """Write the values of `halves` (C, H, W) uint16, the bits of float16, into `out` (C, H, W) float32, any strides.

    Map c of `out` is map order[c] of `halves`.

    Returns:
        False if a value is not finite.
    """
    count, height, width = halves.shape
    largest = np.uint16(0)
    for c in range(count):
        j = order[c]
        for y in range(height):
            for x in range(width):
                half = halves[j, y, x]
                largest = max(largest, half & np.uint16(0x7FFF))
                out[c, y, x] = _half_to_float(half)
    return bool(largest < 0x7C00)


@njit(nogil=True, cache=True)
def encode_half(maps: Array, floor: float, cut: bool, halves: Array, shown: Array, peaks: Array) -> int:
    """Round `maps` (C, H, W) float32 to the nearest `halves` (C, H, W) uint16, the bits of float16.

    No value crosses the floor, and none becomes equal to the peak of its map: it moves one step back.

    Args:
        maps: The maps.
        floor: As float32, in heatmap units.
        cut: Whether values below the floor become 0.
        halves: Receives the bits.
        shown: (C, H, W) float32, receives the values that decoding gives.
        peaks: (C,) float32, receives the largest rounded value of each map, also of one that is cut.

    Returns:
        The index of the first map with a value that is not finite or too large, or -1.
    """
    for c in range(maps.shape[0]):
        row, halves_row, shown_row = maps[c].ravel(), halves[c].ravel(), shown[c].ravel()  # views: all are contiguous
        top, peak = _peak(row)
        if top < 0:
            return c
        top_shown, largest = _half_to_float(_float_to_half(peak)), np.float32(-np.inf)
        for p in range(row.size):
            half = _float_to_half(row[p])
            value = _half_to_float(half)
            if value == top_shown and row[p] != peak:
                half = _next_half(half, False)
                value = _half_to_float(half)
            if (row[p] >= floor) != (value >= floor):
                half = _next_half(half, value < floor)
                value = _half_to_float(half)
            if not math.isfinite(value):
                return c
            largest = max(largest, value)
            if cut and value < floor:
                half, value = np.uint16(0), np.float32(0)
            halves_row[p], shown_row[p] = half, value
        peaks[c] = largest
    return -1


@njit(nogil=True, cache=True)
def divergences(exact: Array, stored: Array, floor: float, error: Array) -> None:
    """Write the KL in nats of each pair of maps `exact`, `stored` (C, H, W) float32 into `error` (C, 4) float64.

    The first two columns are for log logits at T = 1 and T = 4, over the pixels at or above the floor: infinite if
    these are not the same pixels in both maps, nan if there are none. The last two are for raw logits, over all pixels.
    """
    for c in range(exact.shape[0]):
        row, other = exact[c].ravel(), stored[c].ravel()
        error[c, 0], error[c, 1] = _pair_log_divergence(row, other, floor)
        error[c, 2], error[c, 3] = _pair_raw_divergence(row, other)


@njit(nogil=True, cache=True)
def _pair_log_divergence(row: Array, other: Array, floor: float) -> tuple[float, float]:
    """As `_log_divergence`, with the stored map given as values."""
    zp1 = zq1 = e1 = zp4 = zq4 = e4 = 0.0
    same = True
    for p in range(row.size):
        same &= (row[p] >= floor) == (other[p] >= floor)
        if row[p] >= floor and other[p] >= floor:
            h, v = np.float64(row[p]), np.float64(other[p])
            gap = math.log(h / v) if h != v else 0.0
            root = math.sqrt(math.sqrt(h))
            zp1 += h
            zq1 += v
            e1 += h * gap
            zp4 += root
            zq4 += math.sqrt(math.sqrt(v))
            e4 += root * gap
    if not same:
        return np.inf, np.inf
    if zp1 == 0:
        return NOTHING_ABOVE_FLOOR, NOTHING_ABOVE_FLOOR
    return e1 / zp1 + math.log(zq1 / zp1), e4 / zp4 / 4 + math.log(zq4 / zp4)


@njit(nogil=True, cache=True)
def _pair_raw_divergence(row: Array, other: Array) -> tuple[float, float]:
    """As `_raw_divergence`, with the stored map given as values."""
    top, other_top = np.float64(row.max()), np.float64(other.max())
    zp1 = zq1 = e1 = zp4 = zq4 = e4 = 0.0
    for p in range(row.size):
        h, v = np.float64(row[p]) - top, np.float64(other[p]) - other_top
        weight, other_weight = math.exp(h), math.exp(v)
        root = math.sqrt(math.sqrt(weight))
        zp1 += weight
        zq1 += other_weight
        e1 += weight * (h - v)
        zp4 += root
        zq4 += math.sqrt(math.sqrt(other_weight))
        e4 += root * (h - v)
    return e1 / zp1 + math.log(zq1 / zp1), e4 / zp4 / 4 + math.log(zq4 / zp4)
