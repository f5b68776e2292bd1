"""Random views of a person, drawn as one region of the image: everything that moves with it uses its one affine.

The distributions are those of deep-high-resolution-net.pytorch (lib/dataset/JointsDataset.py).
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from kdlib.geometry import PADDING, Rows, region_rows
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


Region = tuple[tuple[float, float], tuple[float, float]]
"""Centre (x, y) and size (width, height) in image pixels."""
NONE = Augmentation(0.0, 0.0, 0.0, 0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class View:
    """One view of a person."""

    affine: Rows
    """Image pixels to input pixels, the mirror included."""
    flip: bool
    replayed: int | None = None
    """The stored view that it starts from, and that alone teaches it."""


def draw_view(
    rng: np.random.Generator,
    augmentation: Augmentation,
    region: Region,
    keypoints: NDArray[np.float32],
    input_size: tuple[int, int],
) -> View:
    """Draw the region, rotation and mirror of one view.

    Args:
        rng: The only source of randomness.
        augmentation: What to draw from.
        region: The plain crop.
        keypoints: (K, 3) x, y in image pixels and visibility.
        input_size: Width and height of the student's input.
    """
    draws = rng.random(3).tolist()
    if draws[0] < augmentation.half_body:
        region = _half_body(rng, keypoints, region, input_size)
    spread = augmentation.scale
    scale = min(max(rng.normal(1.0, spread), 1 - spread), 1 + spread)
    rotation = 0.0
    if draws[1] < augmentation.rotation_probability:
        limit = 2 * augmentation.rotation
        rotation = min(max(rng.normal(0.0, augmentation.rotation), -limit), limit)
    flip = draws[2] < augmentation.flip
    return View(region_rows(region[0], region[1][0] * scale, input_size, rotation, flip=flip), flip)


def _half_body(
    rng: np.random.Generator, keypoints: NDArray[np.float32], region: Region, input_size: tuple[int, int]
) -> Region:
    """Region around the labelled joints of the upper or lower body, or the region as it was where there are too few."""
    points = keypoints.tolist()
    labelled = [k for k, (_, _, visibility) in enumerate(points) if visibility > 0]
    if len(labelled) <= HALF_BODY_JOINTS:
        return region
    upper, lower = [k for k in labelled if k in UPPER_BODY], [k for k in labelled if k not in UPPER_BODY]
    first, second = (upper, lower) if rng.random() < 0.5 else (lower, upper)
    chosen = first if len(first) > 2 else second
    if len(chosen) < 2:
        return region
    columns, rows = [points[k][0] for k in chosen], [points[k][1] for k in chosen]
    width, height = max(columns) - min(columns), max(rows) - min(rows)
    aspect = input_size[0] / input_size[1]
    sides = (max(width, height * aspect), max(height, width / aspect))
    smallest = 1 / (4 * PADDING)
    grown = [max(side * HALF_BODY_PADDING, old * smallest) for side, old in zip(sides, region[1], strict=True)]
    return (sum(columns) / len(columns), sum(rows) / len(rows)), (grown[0], grown[1])
