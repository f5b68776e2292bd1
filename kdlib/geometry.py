"""Boxes, regions, affines and sizes, in HRNet's pixel convention.

A *region* is the padded box of fixed aspect ratio that a crop shows: its centre and its size in image pixels. Every
crop, frame and augmented view is one affine 2x3 matrix, which moves image, keypoints and heatmaps together. The
convention is that of deep-high-resolution-net.pytorch (lib/dataset/coco.py, lib/utils/transforms.py): the centre of the
region lies at (width / 2, height / 2) of the crop, and heatmap pixel u lies at input pixel u * stride, without a
half-pixel offset.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdlib.errors import KdlibError

Affine = NDArray[np.float64]
"""(2, 3) matrix that takes column vectors (x, y, 1) of one pixel grid to (x, y) of another."""
LARGEST_COEFFICIENT: Final = 2.0**23
"""Largest absolute value of a number in an affine that the compiled resampling accepts: up to here, float32 represents
every whole pixel."""
PADDING: Final = 1.25
"""Ratio of the side of HRNet's crop to the side of the box."""
MAP_STRIDES: Final = (2, 4, 8)
"""Input pixels per heatmap pixel that students can have."""
STRIDE: Final = 4
"""The default stride, which is HRNet's."""


def clip_boxes(boxes: ArrayLike, image_sizes: ArrayLike) -> NDArray[np.float64]:
    """Clip boxes to their images as HRNet does: the last pixel is width - 1, and a box ends at its last pixel.

    Args:
        boxes: (N, 4) x, y, width, height in image pixels.
        image_sizes: (N, 2) width, height of each box's image.

    Returns:
        (N, 4) float64. A box outside its image gets zero width or height.
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
    """Grow boxes to the aspect ratio of the input and pad them (HRNet's ``_xywh2cs``, in pixels, not pixels / 200).

    Args:
        boxes: (N, 4) x, y, width, height in image pixels.
        input_size: Width and height of the network input; only their ratio matters.
        padding: Factor on width and height.

    Returns:
        Centres and sizes, both (N, 2) float32 in image pixels.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    aspect = input_size[0] / input_size[1]
    width, height = boxes[:, 2], boxes[:, 3]
    centers = np.stack([boxes[:, 0] + width * 0.5, boxes[:, 1] + height * 0.5], axis=1).astype(np.float32)
    sizes = np.stack([np.maximum(width, height * aspect), np.maximum(height, width / aspect)], axis=1)
    # The official code keeps size / 200 in float32; the same rounding makes the crops equal to the last bit.
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
        size: (2,) width and height of the region in image pixels; the scale is computed from the width alone.
        output_size: Width and height of the crop.
        rotation: Degrees; positive turns the content of the image counter-clockwise.
        flip: Mirror the crop left to right: crop column x becomes width - 1 - x.

    Returns:
        (2, 3) float64.
    """
    (x, y), region_width = np.asarray(center, np.float64).tolist(), float(np.asarray(size).reshape(-1)[0])
    coefficients = region_coefficients(x, y, region_width, math.radians(rotation), flip, *map(float, output_size))
    return np.array(coefficients).reshape(2, 3)


def region_coefficients(
    x: float, y: float, region_width: float, angle: float, flip: bool, width: float, height: float
) -> tuple[float, float, float, float, float, float]:
    """The six coefficients of `region_affine`, row by row. kdlib/samples/views.py compiles this function with numba.

    Args:
        x: Column of the region's centre in image pixels.
        y: Row of the region's centre in image pixels.
        region_width: Width of the region in image pixels.
        angle: Rotation in radians.
        flip: Mirror the crop.
        width: Width of the crop in pixels.
        height: Height of the crop in pixels.
    """
    scale = width / region_width
    a, b = scale * math.cos(angle), scale * math.sin(angle)
    u, v = width / 2 - a * x - b * y, height / 2 + b * x - a * y
    if flip:
        return -a, -b, width - 1 - u, -b, a, v
    return a, b, u, -b, a, v


def scale_affine(scale: float) -> Affine:
    """The affine that multiplies coordinates by a factor, as from heatmap to input pixels. (2, 3) float64."""
    return np.array([[scale, 0.0, 0.0], [0.0, scale, 0.0]])


def invert_affine(affine: ArrayLike) -> NDArray[np.float64]:
    """Invert affines (..., 2, 3); float64. Raises numpy.linalg.LinAlgError if one is singular."""
    affine = np.asarray(affine, np.float64)
    linear = np.linalg.inv(affine[..., :2])
    return np.concatenate([linear, -linear @ affine[..., 2:]], axis=-1)


def compose_affines(outer: ArrayLike, inner: ArrayLike) -> NDArray[np.float64]:
    """The affines that apply ``inner`` first and then ``outer``; they broadcast, (..., 2, 3) float64."""
    outer, inner = np.asarray(outer, np.float64), np.asarray(inner, np.float64)
    linear = outer[..., :2] @ inner[..., :2]
    return np.concatenate([linear, outer[..., :2] @ inner[..., 2:] + outer[..., 2:]], axis=-1)


def transform_points(points: ArrayLike, affine: ArrayLike) -> NDArray[np.float64]:
    """Transform points (..., K, 2) by affines (..., 2, 3); float64 of the points' shape."""
    points, affine = np.asarray(points, np.float64), np.asarray(affine, np.float64)
    return points @ np.swapaxes(affine[..., :2], -1, -2) + affine[..., None, :, 2]


def parse_size(text: str) -> tuple[int, int]:
    """Parse an input size such as ``256x192``, height x width as usual in the field; returns (width, height).

    Raises:
        KdlibError: If the text is not two positive whole numbers joined by ``x``.
    """
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise KdlibError(f"an input size looks like 256x192 (height x width), got {text!r}")
    return int(parts[1]), int(parts[0])


def check_stride(stride: int) -> None:
    """Check the stride of a student's maps.

    Raises:
        KdlibError: If it is not one of `MAP_STRIDES`.
    """
    if stride not in MAP_STRIDES:
        raise KdlibError(
            f"the stride of a student's maps must be one of {', '.join(map(str, MAP_STRIDES))}, got {stride}"
        )
