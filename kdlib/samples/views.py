"""Augmented views: the random region, rotation and mirror under which a student sees an instance.

The distributions are those of deep-high-resolution-net.pytorch (lib/dataset/JointsDataset.py). A view depends on seed,
epoch and row alone, not on the order in which views are drawn. Its random numbers come from SplitMix64 (Steele, Lea &
Flood 2014, "Fast splittable pseudorandom number generators"), which starts from a new seed at no cost.
"""

import dataclasses
import functools
import math
from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from kdlib.geometry import PADDING, region_coefficients

HALF_BODY_JOINTS = 8
"""The half-body augmentation applies only to instances with more labelled joints than this, or than half of the joints
of a skeleton of fewer than 16."""
HALF_BODY_PADDING = 1.5
"""Ratio of the side of a half-body region to the side of the box around its joints."""
Epoch = int | NDArray[np.int64]
"""An epoch for all samples, or one for each, (n,)."""
_SPLITMIX_STEP: Final = np.uint64(0x9E3779B97F4A7C15)
"""SplitMix64's increment: 2^64 over the golden ratio."""
_LARGEST_UINT64: Final = 2**64 - 1


def epoch_of(epoch: Epoch, chosen: NDArray[np.int64] | slice) -> Epoch:
    """The epochs of some of n samples, by their positions; one epoch for all stays one number."""
    return epoch[chosen] if isinstance(epoch, np.ndarray) else epoch


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The random changes by which augmented views differ from the plain crop."""

    flip: float = 0.5
    """Probability of mirroring."""
    rotation: float = 45.0
    """Standard deviation in degrees; rotations are clipped to twice this."""
    rotation_probability: float = 0.6
    """Probability of rotating at all."""
    scale: float = 0.35
    """Standard deviation of the region's relative change in size, and the limit it is clipped to."""
    half_body: float = 0.3
    """Probability of showing the upper or the lower body alone."""

    @functools.cached_property
    def values(self) -> tuple[float, ...]:
        """The values of the fields in the order of their declaration."""
        return tuple(map(float, dataclasses.astuple(self)))


NO_AUGMENTATION = Augmentation(0.0, 0.0, 0.0, 0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class AugmentedViews:
    """The augmented views of n instances."""

    image_to_input: NDArray[np.float64]
    """(n, 2, 3) image pixels to input pixels, including the mirror of a flipped view."""
    flips: NDArray[np.bool_]
    """(n,) True where the view is mirrored."""
    replayed: NDArray[np.int64] | None = None
    """(n,) the stored view that each was made from with ``views="replay"``, otherwise None."""


def draw_views(
    seed: int,
    epoch: Epoch,
    rows: NDArray[np.int64],
    augmentation: Augmentation,
    regions: tuple[NDArray[np.floating], NDArray[np.floating]],
    keypoints: NDArray[np.floating],
    is_upper: NDArray[np.bool_],
    input_size: tuple[int, int],
) -> AugmentedViews:
    """Draw region, rotation and mirror of n instances.

    Args:
        seed: Seed of the augmentation; any integer, taken modulo 2^64.
        epoch: Second part of the seed, in the same range; one number, or one for each instance, (n,).
        rows: (n,) int64, third part of the seed.
        augmentation: The distributions to draw from.
        regions: The plain crops: centres (n, 2) and sizes (n, 2) in image pixels.
        keypoints: (n, K, 3) x, y in image pixels and visibility.
        is_upper: (K,) True for joints of the upper body; half bodies show these or the others.
        input_size: Width and height of the student's input in pixels.
    """
    image_to_input, flips = np.empty((len(rows), 2, 3)), np.empty(len(rows), np.bool_)
    centers, sizes = (np.asarray(column, np.float64) for column in regions)
    starts, values = _starts(seed, epoch, rows), augmentation.values
    _draw(starts, values, centers, sizes, keypoints, is_upper, input_size, image_to_input, flips)
    return AugmentedViews(image_to_input, flips)


def draw_choices(seed: int, epoch: Epoch, rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Draw (n,) int64 from 0 to count - 1, equally likely and independent of what `draw_views` draws for a row."""
    chosen = np.empty(len(rows), np.int64)
    _choose(_starts(seed, epoch, rows), count, chosen)
    return chosen


def _starts(seed: int, epoch: Epoch, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The SplitMix64 states (n,) at which the random numbers of rows (n,) start; seed and epoch count modulo 2^64."""
    starts = np.empty(len(rows), np.uint64)
    if isinstance(epoch, np.ndarray):
        epochs = epoch.astype(np.uint64)
    else:
        epochs = np.full(len(rows), int(epoch) & _LARGEST_UINT64, np.uint64)
    _start(np.uint64(seed & _LARGEST_UINT64), epochs, rows, starts)
    return starts


_region_coefficients = numba.njit(nogil=True, cache=True)(region_coefficients)
"""Compiled into `_draw`. numba renews its cache only when this file changes: if you change the formula, edit
this file too."""


@numba.njit(nogil=True, cache=True)
def _mix(word):
    """SplitMix64's mixing function of a uint64."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@numba.njit(nogil=True, cache=True)
def _start(seed, epochs, rows, starts):
    """Fill starts (n,) uint64 from a seed, uint64, epochs (n,) uint64 and rows (n,) int64."""
    for i in range(len(rows)):
        starts[i] = _mix(_mix(_mix(seed) ^ epochs[i]) ^ np.uint64(rows[i]))


@numba.njit(nogil=True, cache=True)
def _uniform(start, k):
    """The k-th random number of a row, a float64 in [0, 1) with 53 random bits."""
    return np.float64(_mix(start + np.uint64(k + 1) * _SPLITMIX_STEP) >> np.uint64(11)) / 9007199254740992.0


@numba.njit(nogil=True, cache=True)
def _half_body(points, is_upper, prefer_upper, aspect, width):
    """Centre x, y and width of the region around the labelled joints of one half of the body.

    The other half is taken where the preferred one has fewer than three labelled joints. The width is 0 where there are
    too few joints for either.
    """
    counts = np.zeros(2, np.int64)
    for k in range(len(points)):
        if points[k, 2] > 0:
            counts[np.int64(is_upper[k])] += 1
    chosen = np.int64(prefer_upper)
    if counts[chosen] <= 2:
        chosen = 1 - chosen
    if counts[0] + counts[1] <= min(HALF_BODY_JOINTS, len(points) // 2) or counts[chosen] < 2:
        return 0.0, 0.0, 0.0
    left, top, right, bottom, x, y = math.inf, math.inf, -math.inf, -math.inf, 0.0, 0.0
    for k in range(len(points)):
        if points[k, 2] > 0 and np.int64(is_upper[k]) == chosen:
            u, v = np.float64(points[k, 0]), np.float64(points[k, 1])
            left, top, right, bottom = min(left, u), min(top, v), max(right, u), max(bottom, v)
            x, y = x + u, y + v
    grown = max(right - left, (bottom - top) * aspect) * HALF_BODY_PADDING
    return x / counts[chosen], y / counts[chosen], max(grown, width / (4 * PADDING))


@numba.njit(nogil=True, cache=True)
def _draw(starts, values, centers, sizes, keypoints, is_upper, input_size, affines, flips):
    """Fill affines (n, 2, 3), image to input pixels, and flips (n,); values are those of an `Augmentation`."""
    flip, rotation, rotation_probability, spread, half_body = values
    columns, lines = np.float64(input_size[0]), np.float64(input_size[1])
    for i in range(len(starts)):
        start = starts[i]
        x, y, width = np.float64(centers[i, 0]), np.float64(centers[i, 1]), np.float64(sizes[i, 0])
        if _uniform(start, 0) < half_body:
            half = _half_body(keypoints[i], is_upper, _uniform(start, 1) < 0.5, columns / lines, width)
            if half[2] > 0:
                x, y, width = half
        radius, turn = math.sqrt(-2 * math.log(1 - _uniform(start, 2))), 2 * math.pi * _uniform(start, 3)
        # radius * cos(turn) and radius * sin(turn) are two independent normal numbers (Box & Muller 1958).
        width *= 1 + spread * min(max(radius * math.cos(turn), -1.0), 1.0)
        angle = 0.0
        if _uniform(start, 4) < rotation_probability:
            angle = math.radians(rotation * min(max(radius * math.sin(turn), -2.0), 2.0))
        flips[i] = _uniform(start, 5) < flip
        coefficients = _region_coefficients(x, y, width, angle, flips[i], columns, lines)
        for k in range(6):
            affines[i, k // 3, k % 3] = coefficients[k]


@numba.njit(nogil=True, cache=True)
def _choose(starts, count, chosen):
    """Fill chosen (n,) int64 with numbers from 0 to count - 1."""
    for i in range(len(starts)):
        chosen[i] = np.int64(_uniform(starts[i], 6) * count)
