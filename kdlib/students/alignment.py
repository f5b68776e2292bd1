"""Aligning any backbone's features with the grid that the heads build on.

The heads need features at positions from which doublings and 2x2 kernels end on heatmap pixels, at input pixel
stride * u (docs/decisions/0007). For maps of stride 4 these positions are input pixels 16 u + 6, 8 u - 2 and 4 u - 6.
`kdlib.students.feature_grid` finds the positions of a backbone's features. Padding the image at the left and top aligns
stride 16, dropping whole features brings the other strides close, and interpolation moves them by the remaining
fraction of a feature. The remaining error is that of stride 16, where padding is rounded to whole pixels: at most half
an input pixel, which is an eighth of a heatmap pixel of stride 4.
"""

import copy
import dataclasses
import math
from typing import Final

import numpy as np
from torch import Tensor, nn

from kdlib.errors import KdlibError
from kdlib.geometry import STRIDE
from kdlib.students.feature_grid import Grid, trace_grids
from kdlib.students.heads import Interpolation, Taps, crop

STRIDES: Final = Taps(4, 8, 16)
OFFSETS: Final = Taps(6, 4, 0)
"""Input pixels from the first feature of each stride to where the heads begin: 1 1/2 features, 1/2 feature, none."""
EXTRA: Final = Taps(2, 1, 0)
"""Features per side of each stride that the heads take in addition to the side of the image over the stride."""
NEGLIGIBLE: Final = 1 / 64
"""Fraction of a feature below which features are not interpolated."""


@dataclasses.dataclass(frozen=True)
class Alignment:
    """How to pad an image, and what to do with the features of each stride.

    Args:
        before: Pixels of padding at the left and the top.
        after: Pixels of padding at the right and the bottom.
        skip: Features to drop at the left and the top.
        shift: Fraction of a feature, in [0, 1), by which to interpolate after that.
        stride: Stride of the maps. Features of a finer stride are not used and stay as they are.
    """

    before: int
    after: int
    skip: Taps[int]
    shift: Taps[float]
    stride: int

    def pad(self, images: Tensor) -> Tensor:
        """Pad images (B, 3, H, W)."""
        return nn.functional.pad(images, (self.before, self.after, self.before, self.after))

    def apply(self, features: list[Tensor], size: tuple[int, int], shifts: nn.ModuleList) -> Taps[Tensor]:
        """Features on the heads' grid, for images of size (width, height).

        Args:
            features: Features (B, C, H, W) of strides 4, 8 and 16.
            size: Width and height of the images in pixels, without padding.
            shifts: The modules that the method `shifts` returned.
        """
        taps = []
        for i, x in enumerate(features):
            columns, rows = (side // STRIDES[i] + EXTRA[i] + bool(self.shift[i]) for side in size)
            is_used = STRIDES[i] >= self.stride
            taps.append(shifts[i](crop(x, self.skip[i], rows, columns)) if is_used else x)
        return Taps(*taps)

    def shifts(self, channels: Taps[int]) -> nn.ModuleList:
        """Modules that interpolate the features of each stride; ``channels`` is their number of channels."""
        moved = zip(channels, self.shift, strict=True)
        return nn.ModuleList(Interpolation(count, shift) if shift else nn.Identity() for count, shift in moved)


def target_positions(stride: int) -> Taps[float]:
    """Input pixel at which the first feature of each stride must lie, for maps of that stride.

    A doubling puts fine pixel v at coarse pixel (v - 1/2) / 2. A coarse feature of stride t therefore lies in the
    middle of the t / stride map pixels that doublings make of it, and the first one at input pixel (t - stride) / 2.
    The backbone's first feature lies `OFFSETS` before that.
    """
    return Taps(*((of - stride) / 2 - offset for of, offset in zip(STRIDES, OFFSETS, strict=True)))


def align(backbone: nn.Module, name: str, input_size: tuple[int, int], stride: int = STRIDE) -> Alignment:
    """Find the alignment of a backbone that returns features of strides 4, 8 and 16.

    Args:
        backbone: Its weights are not used.
        name: Name of the backbone for error messages.
        input_size: Width and height of the images in pixels, divisible by 16.
        stride: Stride of the maps.

    Raises:
        KdlibError: If the backbone does not run on such images, its features have no position, or they are too few.
    """
    blank = copy.deepcopy(backbone).to("meta").eval()
    for extra in (16, 32, 48):
        shapes, grids = _trace(blank, name, (input_size[0] + extra, input_size[1] + extra))
        found = _solve(_first_positions(grids, shapes, name), extra, stride)
        if found is not None and _has_enough_features(found, shapes, input_size):
            return found
    raise KdlibError(f"{name} has too few features for the heads on images of {input_size[1]}x{input_size[0]}")


def _trace(
    blank: nn.Module, name: str, size: tuple[int, int]
) -> tuple[tuple[tuple[int, ...], ...], tuple[Grid | None, ...]]:
    try:
        traced = trace_grids(blank, size)
    except Exception as error:  # networks for a fixed image size raise many kinds of exceptions
        raise KdlibError(
            f"{name} cannot be a student: it does not run on images of {size[1]}x{size[0]} (height x width, padded); "
            "take a convolutional backbone, which runs on any size"
        ) from error
    return tuple(shape for shape, _ in traced), tuple(grid for _, grid in traced)


def _first_positions(grids: tuple[Grid | None, ...], shapes: tuple[tuple[int, ...], ...], name: str) -> Taps[float]:
    """Input pixel of the first feature of each stride."""
    firsts = []
    for stride, grid, shape in zip(STRIDES, grids, shapes, strict=True):
        if grid is None or len(shape) != 4:
            raise KdlibError(
                f"{name} cannot be a student: its features of stride {stride} have no position on the image "
                "(attention, or another order of axes); take a convolutional backbone"
            )
        if not np.allclose(grid.step, stride) or grid.first[0] != grid.first[1]:
            raise KdlibError(
                f"{name} cannot be a student: its features of stride {stride} lie {grid.step} pixels apart"
            )
        firsts.append(float(grid.first[0]))
    return Taps(*firsts)


def _solve(firsts: Taps[float], extra: int, stride: int) -> Alignment | None:
    """The alignment with ``extra`` pixels of padding per axis, or None if it needs more."""
    wanted = target_positions(stride)
    before = round(firsts.stride16 - wanted.stride16) % 16
    while before <= extra:
        places = [(t - c + before) / s if s >= stride else 0.0 for t, c, s in zip(wanted, firsts, STRIDES, strict=True)]
        places[2] = round(places[2])  # the rest, below half a pixel, remains as the error of stride 16
        if min(places) >= 0:
            skip = [math.floor(place + NEGLIGIBLE) for place in places]
            shift = [p - k if p - k > NEGLIGIBLE else 0.0 for p, k in zip(places, skip, strict=True)]
            return Alignment(before, extra - before, Taps(*skip), Taps(*shift), stride=stride)
        before += 16
    return None


def _has_enough_features(found: Alignment, shapes: tuple[tuple[int, ...], ...], input_size: tuple[int, int]) -> bool:
    for i, shape in enumerate(shapes):
        if STRIDES[i] < found.stride:
            continue
        for available, side in zip(shape[2:], reversed(input_size), strict=True):
            if available < found.skip[i] + bool(found.shift[i]) + side // STRIDES[i] + EXTRA[i]:
                return False
    return True
