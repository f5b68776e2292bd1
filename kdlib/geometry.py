"""From a person's box to the network's input and back, in HRNet's pixel convention.

A *region* is the padded box of fixed aspect that a crop shows: its centre and its size in image pixels. Every crop,
frame and augmented view is one affine 2x3 matrix, so that image, keypoints and heatmaps move together. The convention
is that of deep-high-resolution-net.pytorch (lib/dataset/coco.py, lib/utils/transforms.py): the region's centre lands on
(width / 2, height / 2) of the crop, and heatmap pixel u lies at input pixel u * stride, without a half-pixel offset.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdlib.errors import KdlibError

Affine = NDArray[np.float64]
"""(2, 3) matrix that takes column vectors (x, y, 1) of one pixel grid to (x, y) of another."""


LARGEST = 2.0**23
"""The compiled resampling trusts that no number of an affine is larger; float32 then still knows whole pixels."""


PADDING = 1.25
"""HRNet's crops show the box grown by a quarter."""


def clip_boxes(boxes: ArrayLike, image_sizes: ArrayLike) -> NDArray[np.float64]:
    """Clip boxes to their images as HRNet does: the last pixel is width - 1, and a box ends on its last pixel.

    Args:
        boxes: (N, 4) x, y, width, height in image pixels.
        image_sizes: (N, 2) width, height of each box's image.

    Returns:
        (N, 4) float64. A box outside its image comes back with zero width or height.
    """
    boxes, limits = np.asarray(boxes, np.float64), np.asarray(image_sizes, np.float64) - 1
    first = np.maximum(boxes[:, :2], 0)
    last = np.minimum(limits, first + np.maximum(boxes[:, 2:] - 1, 0))
    extent = last - first
    inside = (boxes[:, 2:] > 0).all(axis=1) & (extent >= 0).all(axis=1)
    return np.concatenate([first, np.where(inside[:, None], extent, 0.0)], axis=1)


def box_to_region(
    boxes: ArrayLike, input_size: tuple[int, int], padding: float = PADDING
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Grow boxes to the aspect of the input and pad them (HRNet's ``_xywh2cs``, in pixels instead of pixels / 200).

    Args:
        boxes: (N, 4) x, y, width, height in image pixels.
        input_size: Width and height of the network input; only their ratio counts.
        padding: Factor on both sides.

    Returns:
        Centres and sizes, both (N, 2) float32 in image pixels.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    aspect = input_size[0] / input_size[1]
    width, height = boxes[:, 2], boxes[:, 3]
    centers = np.stack([boxes[:, 0] + width * 0.5, boxes[:, 1] + height * 0.5], axis=1).astype(np.float32)
    sizes = np.stack([np.maximum(width, height * aspect), np.maximum(height, width / aspect)], axis=1)
    # The official code keeps size / 200 in float32; going the same way keeps the crops equal to the last bit.
    return centers, (sizes / 200).astype(np.float32) * np.float32(padding) * np.float32(200)


def region_affine(
    center: ArrayLike,
    size: ArrayLike,
    output_size: tuple[int, int],
    rotation: float = 0.0,
    *,
    flip: bool = False,
) -> Affine:
    """Affine from image pixels to crop pixels (HRNet's ``get_affine_transform``).

    Args:
        center: (2,) centre of the region in image pixels.
        size: (2,) width and height of the region; the scale is taken from the width alone.
        output_size: Width and height of the crop.
        rotation: Degrees; positive turns the picture's content counter-clockwise.
        flip: Mirror the crop left to right: crop column x becomes width - 1 - x.

    Returns:
        (2, 3) float64.
    """
    (x, y), shown = np.asarray(center, np.float64).tolist(), float(np.asarray(size).reshape(-1)[0])
    numbers = region_numbers(x, y, shown, math.radians(rotation), flip, *map(float, output_size))
    return np.array(numbers).reshape(2, 3)


def region_numbers(
    x: float, y: float, shown: float, angle: float, flip: bool, width: float, height: float
) -> tuple[float, float, float, float, float, float]:
    """The numbers of `region_affine`, row by row, of one region; numba compiles it as it stands (kdlib/samples/views.py).

    Args:
        x: Centre of the region.
        y: The same, down the image.
        shown: Width of the region.
        angle: Radians.
        flip: Mirror the crop.
        width: Of the crop.
        height: Of the crop.
    """
    scale = width / shown
    a, b = scale * math.cos(angle), scale * math.sin(angle)
    u, v = width / 2 - a * x - b * y, height / 2 + b * x - a * y
    if flip:
        return -a, -b, width - 1 - u, -b, a, v
    return a, b, u, -b, a, v


def scale_affine(scale: float) -> Affine:
    """Multiply coordinates by a factor, as between heatmap and input pixels. (2, 3) float64."""
    return np.array([[scale, 0.0, 0.0], [0.0, scale, 0.0]])


def invert_affine(affine: ArrayLike) -> NDArray[np.float64]:
    """Inverse of one or many affines, (..., 2, 3) float64. Raises numpy.linalg.LinAlgError if one is singular."""
    affine = np.asarray(affine, np.float64)
    linear = np.linalg.inv(affine[..., :2])
    return np.concatenate([linear, -linear @ affine[..., 2:]], axis=-1)


def compose_affines(outer: ArrayLike, inner: ArrayLike) -> NDArray[np.float64]:
    """The affine that applies ``inner`` first and ``outer`` to its result; broadcasts, (..., 2, 3) float64."""
    outer, inner = np.asarray(outer, np.float64), np.asarray(inner, np.float64)
    linear = outer[..., :2] @ inner[..., :2]
    return np.concatenate([linear, outer[..., :2] @ inner[..., 2:] + outer[..., 2:]], axis=-1)


def transform_points(points: ArrayLike, affine: ArrayLike) -> NDArray[np.float64]:
    """Move points (..., K, 2) by affines (..., 2, 3); returns float64 of the points' shape."""
    points, affine = np.asarray(points, np.float64), np.asarray(affine, np.float64)
    return points @ np.swapaxes(affine[..., :2], -1, -2) + affine[..., None, :, 2]


def parse_size(text: str) -> tuple[int, int]:
    """The field's ``256x192`` (height x width) as (width, height).

    Raises:
        KdlibError: If it is not two positive whole numbers.
    """
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise KdlibError(f"an input size looks like 256x192 (height x width), got {text!r}")
    return int(parts[1]), int(parts[0])


MAP_STRIDES: Final = (2, 4, 8)


STRIDE: Final = 4
"""Where no other is asked for: HRNet's."""


def check_stride(stride: int) -> None:
    """Refuse what is no stride of a student's maps.

    Raises:
        KdlibError: If it is none of `MAP_STRIDES`.
    """
    if stride not in MAP_STRIDES:
        raise KdlibError(f"a student's maps have a stride of {', '.join(map(str, MAP_STRIDES))}, got {stride}")
