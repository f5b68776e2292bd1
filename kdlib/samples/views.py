"""Random views of persons, each drawn as one region of the image: everything that moves with it uses its one affine.

The distributions are those of deep-high-resolution-net.pytorch (lib/dataset/JointsDataset.py). A view depends on seed,
epoch and row alone, whoever asks and in whatever order: its random numbers are those of SplitMix64 (Steele, Lea & Flood
2014, "Fast splittable pseudorandom number generators"), which starts from any number at no cost.
"""

import dataclasses
import functools
import math
from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from kdlib.geometry import PADDING, region_numbers
from kdlib.skeleton import UPPER_BODY

HALF_BODY_JOINTS = 8
"""A half is cut out only of persons with more labelled joints than this."""
HALF_BODY_PADDING = 1.5


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How far a view may differ from the plain crop."""

    flip: float = 0.5
    """Probability of mirroring."""
    rotation: float = 45.0
    """Standard deviation in degrees, cut at twice that."""
    rotation_probability: float = 0.6
    scale: float = 0.35
    """Standard deviation and limit of the region's relative size."""
    half_body: float = 0.3
    """Probability of showing the upper or the lower body alone."""

    @functools.cached_property
    def knobs(self) -> tuple[float, ...]:
        """The fields in the order declared, as `_draw` takes them apart."""
        return tuple(map(float, dataclasses.astuple(self)))


NONE = Augmentation(0.0, 0.0, 0.0, 0.0, 0.0)
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_WORD: Final = 2**64 - 1


@dataclasses.dataclass(frozen=True)
class Views:
    """How n persons are seen."""

    affines: NDArray[np.float64]
    """(n, 2, 3) image pixels to input pixels, the mirror included."""
    flips: NDArray[np.bool_]
    """(n,)"""
    replayed: NDArray[np.int64] | None = None
    """(n,) the stored view that each starts from, and that alone teaches it."""


def draw_views(
    seed: int,
    epoch: int,
    rows: NDArray[np.int64],
    augmentation: Augmentation,
    regions: tuple[NDArray[np.floating], NDArray[np.floating]],
    keypoints: NDArray[np.floating],
    input_size: tuple[int, int],
) -> Views:
    """Draw region, rotation and mirror of n persons.

    Args:
        seed: Of everything random.
        epoch: The same.
        rows: (n,) the persons.
        augmentation: What to draw from.
        regions: The plain crops: centres (n, 2) and sizes (n, 2) in image pixels.
        keypoints: (n, 17, 3) x, y in image pixels and visibility.
        input_size: Width and height of the student's input.
    """
    affines, flips = np.empty((len(rows), 2, 3)), np.empty(len(rows), np.bool_)
    centers, sizes = (np.asarray(column, np.float64) for column in regions)
    _draw(
        _seeds(seed, epoch), rows, augmentation.knobs, centers, sizes, keypoints, UPPER_BODY, input_size, affines, flips
    )
    return Views(affines, flips)


def draw_choices(seed: int, epoch: int, rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """(n,) one of ``count`` for each row with equal chances, independent of what `draw_views` draws for it."""
    chosen = np.empty(len(rows), np.int64)
    _choose(_seeds(seed, epoch), rows, count, chosen)
    return chosen


def _seeds(seed: int, epoch: int) -> tuple[np.uint64, np.uint64]:
    """Of any sign and size; what is beyond 64 bits is left out."""
    return np.uint64(seed & _WORD), np.uint64(epoch & _WORD)


_region_numbers = numba.njit(nogil=True, cache=True)(region_numbers)
"""Compiled into `_draw`, which numba keeps until this file changes: whoever changes the formula touches it."""


@numba.njit(nogil=True, cache=True)
def _mixed(word):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """SplitMix64's scrambling of 64 bits, uint64."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@numba.njit(nogil=True, cache=True)
def _start(seeds, row):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Where the random numbers of a row begin, uint64."""
    return _mixed(_mixed(_mixed(seeds[0]) ^ seeds[1]) ^ np.uint64(row))


@numba.njit(nogil=True, cache=True)
def _uniform(start, k):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """The k-th random number from there, in [0, 1) with 53 bits."""
    return np.float64(_mixed(start + np.uint64(k + 1) * _GOLDEN) >> np.uint64(11)) / 9007199254740992.0


@numba.njit(nogil=True, cache=True)
def _half_body(points, upper, of_upper, aspect, width):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """(x, y, width) of the region around the labelled joints of one half of the body; width 0 where there are too few.

    The other half is taken where that one has fewer than three.
    """
    counts = np.zeros(2, np.int64)
    for k in range(len(points)):
        if points[k, 2] > 0:
            counts[np.int64(upper[k])] += 1
    chosen = np.int64(of_upper)
    if counts[chosen] <= 2:
        chosen = 1 - chosen
    if counts[0] + counts[1] <= HALF_BODY_JOINTS or counts[chosen] < 2:
        return 0.0, 0.0, 0.0
    left, top, right, bottom, x, y = math.inf, math.inf, -math.inf, -math.inf, 0.0, 0.0
    for k in range(len(points)):
        if points[k, 2] > 0 and np.int64(upper[k]) == chosen:
            u, v = np.float64(points[k, 0]), np.float64(points[k, 1])
            left, top, right, bottom = min(left, u), min(top, v), max(right, u), max(bottom, v)
            x, y = x + u, y + v
    grown = max(right - left, (bottom - top) * aspect) * HALF_BODY_PADDING
    return x / counts[chosen], y / counts[chosen], max(grown, width / (4 * PADDING))


@numba.njit(nogil=True, cache=True)
def _draw(seeds, rows, knobs, centers, sizes, keypoints, upper, input_size, affines, flips):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202, PLR0913, PLR0917
    """Fill affines (n, 2, 3) and flips (n,); knobs are those of an `Augmentation` in its order."""
    flip, rotation, rotation_probability, spread, half_body = knobs
    columns, lines = np.float64(input_size[0]), np.float64(input_size[1])
    for i in range(len(rows)):
        start = _start(seeds, rows[i])
        x, y, width = np.float64(centers[i, 0]), np.float64(centers[i, 1]), np.float64(sizes[i, 0])
        if _uniform(start, 0) < half_body:
            half = _half_body(keypoints[i], upper, _uniform(start, 1) < 0.5, columns / lines, width)
            if half[2] > 0:
                x, y, width = half
        radius, turn = math.sqrt(-2 * math.log(1 - _uniform(start, 2))), 2 * math.pi * _uniform(start, 3)
        width *= 1 + spread * min(max(radius * math.cos(turn), -1.0), 1.0)  # two normal numbers (Box & Muller 1958)
        angle = 0.0
        if _uniform(start, 4) < rotation_probability:
            angle = math.radians(rotation * min(max(radius * math.sin(turn), -2.0), 2.0))
        flips[i] = _uniform(start, 5) < flip
        numbers = _region_numbers(x, y, width, angle, flips[i], columns, lines)
        for k in range(6):
            affines[i, k // 3, k % 3] = numbers[k]


@numba.njit(nogil=True, cache=True)
def _choose(seeds, rows, count, chosen):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Fill chosen (n,)."""
    for i in range(len(rows)):
        chosen[i] = np.int64(_uniform(_start(seeds, rows[i]), 6) * count)
