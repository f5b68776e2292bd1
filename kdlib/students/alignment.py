"""Bringing any backbone's features onto the grid on which the heads build.

The heads want features where doublings and 2x2 kernels end on heatmap pixels, at stride * u of the picture
(docs/decisions/0007); for maps of stride 4 these are input pixels 16 u + 6, 8 u - 2 and 4 u - 6. Where a backbone's
features look is found by `kdlib.students.feature_grid`; padding the picture in front brings stride 16 there, whole features cut
off in front bring the others near, and what is left, a fraction of a feature, is interpolated away. Left over is stride
16's rounding to whole pixels of padding: at most half an input pixel, an eighth of a heatmap pixel of stride 4.
"""

import copy
import dataclasses
import math
from typing import Final

import numpy as np
from torch import Tensor, nn

from kdlib.errors import KdlibError
from kdlib.geometry import STRIDE
from kdlib.students.feature_grid import Grid, walk
from kdlib.students.heads import Between, Taps, crop

STRIDES: Final = Taps(4, 8, 16)
FURTHER: Final = Taps(6, 4, 0)
"""Input pixels from each stride's first feature to where the heads begin: one and a half features, a half, none."""
BEYOND: Final = Taps(2, 1, 0)
"""Features that the heads take of each stride, beyond the picture's width over the stride."""
NEGLIGIBLE: Final = 1 / 64
"""Fraction of a feature that is not interpolated."""


@dataclasses.dataclass(frozen=True)
class Alignment:
    """How to pad a picture, and what to do with the features of each stride.

    Args:
        before: Pixels of padding left and above.
        after: Pixels of padding right and below.
        skip: Features to leave out in front.
        shift: Fraction of a feature, in [0, 1), to interpolate further.
        stride: Of the maps; features finer than these are not taken and stay as they are.
    """

    before: int
    after: int
    skip: Taps[int]
    shift: Taps[float]
    stride: int

    def pad(self, images: Tensor) -> Tensor:
        """The padded picture (B, 3, H, W)."""
        return nn.functional.pad(images, (self.before, self.after, self.before, self.after))

    def apply(self, features: list[Tensor], size: tuple[int, int], shifts: nn.ModuleList) -> Taps[Tensor]:
        """Features on the heads' grid, of a picture of that (width, height); ``shifts`` are what `shifts` gave."""
        taps = []
        for i, x in enumerate(features):
            columns, rows = (side // STRIDES[i] + BEYOND[i] + bool(self.shift[i]) for side in size)
            taken = STRIDES[i] >= self.stride
            taps.append(shifts[i](crop(x, self.skip[i], rows, columns)) if taken else x)
        return Taps(*taps)

    def shifts(self, channels: Taps[int]) -> nn.ModuleList:
        """What interpolates the features of each stride, which have that many channels."""
        moved = zip(channels, self.shift, strict=True)
        return nn.ModuleList(Between(count, shift) if shift else nn.Identity() for count, shift in moved)


def targets(stride: int) -> Taps[float]:
    """Input pixel at which the first feature of each stride must lie, for maps of that stride.

    A doubling puts fine pixel v at coarse pixel (v - 1/2) / 2. So what the heads begin with at stride t lies in the
    middle of the t / stride map pixels that are made of it, the first at (t - stride) / 2: `FURTHER` than the feature.
    """
    return Taps(*((of - stride) / 2 - further for of, further in zip(STRIDES, FURTHER, strict=True)))


def align(backbone: nn.Module, name: str, input_size: tuple[int, int], stride: int = STRIDE) -> Alignment:
    """Find the alignment of a backbone that puts out features of strides 4, 8 and 16.

    Args:
        backbone: Its weights are not touched.
        name: For messages.
        input_size: Width and height of the pictures, divisible by 16.
        stride: Of the maps.

    Raises:
        KdlibError: If the features have no place on the picture, or are too few.
    """
    blank = copy.deepcopy(backbone).to("meta").eval()
    for extra in (16, 32, 48):
        shapes, grids = _walked(blank, name, (input_size[0] + extra, input_size[1] + extra))
        found = _solve(_firsts(grids, shapes, name), extra, stride)
        if found is not None and _are_enough(found, shapes, input_size):
            return found
    raise KdlibError(f"{name} makes too few features of a {input_size[1]}x{input_size[0]} picture for the heads")


def _walked(
    blank: nn.Module, name: str, size: tuple[int, int]
) -> tuple[tuple[tuple[int, ...], ...], tuple[Grid | None, ...]]:
    try:
        found = walk(blank, size)
    except Exception as error:  # whatever a network raises that was made for one size of pictures
        raise KdlibError(
            f"{name} cannot be a student: it does not run on pictures of {size[1]}x{size[0]} (height x width, padded); "
            "take a convolutional backbone, which is not made for one size"
        ) from error
    return tuple(shape for shape, _ in found), tuple(grid for _, grid in found)


def _firsts(grids: tuple[Grid | None, ...], shapes: tuple[tuple[int, ...], ...], name: str) -> Taps[float]:
    """Input pixel of the first feature of each stride."""
    firsts = []
    for stride, grid, shape in zip(STRIDES, grids, shapes, strict=True):
        if grid is None or len(shape) != 4:
            raise KdlibError(
                f"{name} cannot be a student: its features of stride {stride} have no place on the picture (attention, "
                "or another order of axes); take a convolutional backbone"
            )
        if not np.allclose(grid.step, stride) or grid.first[0] != grid.first[1]:
            raise KdlibError(f"{name} cannot be a student: its features of stride {stride} step {grid.step} pixels")
        firsts.append(float(grid.first[0]))
    return Taps(*firsts)


def _solve(firsts: Taps[float], extra: int, stride: int) -> Alignment | None:
    """The alignment with that much padding in all; None if it takes more."""
    wanted = targets(stride)
    before = round(firsts.stride16 - wanted.stride16) % 16
    while before <= extra:
        places = [(t - c + before) / s if s >= stride else 0.0 for t, c, s in zip(wanted, firsts, STRIDES, strict=True)]
        places[2] = round(places[2])  # what the padding could not do, below half a pixel, stays
        if min(places) >= 0:
            skip = [math.floor(place + NEGLIGIBLE) for place in places]
            shift = [p - k if p - k > NEGLIGIBLE else 0.0 for p, k in zip(places, skip, strict=True)]
            return Alignment(before, extra - before, Taps(*skip), Taps(*shift), stride=stride)
        before += 16
    return None


def _are_enough(found: Alignment, shapes: tuple[tuple[int, ...], ...], input_size: tuple[int, int]) -> bool:
    for i, shape in enumerate(shapes):
        if STRIDES[i] < found.stride:
            continue
        for there, side in zip(shape[2:], reversed(input_size), strict=True):
            if there < found.skip[i] + bool(found.shift[i]) + side // STRIDES[i] + BEYOND[i]:
                return False
    return True
