"""The regions of the stored views. View 0 is HRNet's official crop; further views are its mirror and random views."""

import dataclasses
import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kdlib.inputs.annotations import Instances
from kdlib.geometry import (
    PADDING,
    Affine,
    box_to_region,
    clip_boxes,
    compose_affines,
    invert_affine,
    region_affine,
)

FRAME_MARGIN = 1.25
"""Size of a frame relative to the official crop, so that rotated and larger augmented views stay inside it."""
ROTATION = 40.0
"""Standard deviation in degrees of the rotation of random views (HRNet's training: 45), clipped at twice that."""
SCALE = 0.3
"""Standard deviation of the relative size of random views, and its largest deviation from 1 (HRNet's training: 0.35)."""


@dataclasses.dataclass(frozen=True)
class ViewPlan:
    """Which views a store holds."""

    count: int
    _: dataclasses.KW_ONLY
    flip_test: bool
    """Whether each stored heatmap is averaged with that of the mirrored view; no view is then stored mirrored."""
    seed: int = 0

    @property
    def flips(self) -> NDArray[np.uint8]:
        """(V,) uint8, 1 for mirrored views: every second view, or none with the flip test."""
        return np.array([0 if self.flip_test else v % 2 for v in range(self.count)], np.uint8)

    def to_json(self) -> dict[str, Any]:
        """The plan for the manifest."""
        drawn = {"rotation_std": ROTATION, "scale_std": SCALE} if self.count > 2 - self.flip_test else None
        return {**dataclasses.asdict(self), "flips": self.flips.tolist(), "drawn": drawn}


DEFAULT_PLAN: Final = ViewPlan(1, flip_test=True)


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Affines of N instances."""

    frame_size: tuple[int, int]
    frame: NDArray[np.float64]
    """(N, 2, 3) image pixels to frame pixels."""
    views: NDArray[np.float64]
    """(N, V, 2, 3) frame pixels to teacher input pixels, including the mirror."""

    def image_to_view(self, row: int, view: int) -> Affine:
        """Affine (2, 3) from image pixels to teacher input pixels."""
        return compose_affines(self.views[row, view], self.frame[row])


def plan_geometry(
    instances: Instances,
    input_size: tuple[int, int],
    plan: ViewPlan,
    frame_scale: float = 1.0,
    udp_grid: tuple[int, int] | None = None,
) -> Geometry:
    """Compute the affines of the frames and stored views of instances.

    Args:
        instances: N instances. Their boxes are clipped to the image, as in HRNet.
        input_size: Width and height of the teacher's input.
        plan: The stored views.
        frame_scale: Frame pixels per teacher input pixel.
        udp_grid: Width and height of the heatmaps of a teacher that was trained with UDP, see `udp_scale`; None for
            other teachers.

    Raises:
        ValueError: If a frame would have no pixel, or the seed is negative.
    """
    if not 0 < frame_scale < math.inf or round(min(input_size) * FRAME_MARGIN * frame_scale) < 1:
        raise ValueError(f"--frame-scale {frame_scale:g} gives frames without pixels; the default is 1")
    if plan.seed < 0:
        raise ValueError(f"--seed must be 0 or more, got {plan.seed}")
    centers, sizes = box_to_region(clip_boxes(instances.bbox, instances.image_size), input_size, PADDING)
    width, height = (round(side * FRAME_MARGIN * frame_scale) for side in input_size)
    frames, views = np.empty((len(instances), 2, 3)), np.empty((len(instances), plan.count, 2, 3))
    for i, (center, size) in enumerate(zip(centers, sizes, strict=True)):
        frames[i] = region_affine(center, size * FRAME_MARGIN, (width, height))
        rng = np.random.default_rng((plan.seed, abs(int(instances.annotation_id[i]))))
        for v, flip in enumerate(plan.flips):
            factor, rotation = (1.0, 0.0) if v < 2 - plan.flip_test else _draw(rng)
            region = center, size * np.float32(factor)
            if udp_grid is None:
                views[i, v] = region_affine(*region, input_size, rotation, flip=bool(flip))
            else:
                views[i, v] = _udp_affine(*region, input_size, rotation, udp_grid, flip=bool(flip))
    return Geometry((width, height), frames, compose_affines(views, invert_affine(frames)[:, None]))


def udp_scale(input_size: tuple[int, int], heatmap_size: tuple[int, int]) -> tuple[float, float]:
    """Crop pixels per teacher input pixel, (x, y), of a teacher that was trained with UDP.

    In UDP (unbiased data processing, Huang et al. 2020, arXiv 1911.07524), distances are measured between the centres of
    the first and the last pixel: heatmap pixel u lies at pixel u (W - 1) / (w - 1) of the crop, where W and w are the
    widths of crop and heatmap. In a store, heatmap pixel u lies at input pixel u W / w. The input pixels of a store are
    therefore a little larger than the pixels of the crop on which such a teacher is run, and its heatmaps need not be
    resampled.

    Args:
        input_size: Width and height of the crop.
        heatmap_size: Width and height of the heatmaps.
    """
    x, y = ((side - 1) / (cells - 1) * cells / side for side, cells in zip(input_size, heatmap_size, strict=True))
    return x, y


def _udp_affine(
    center: NDArray[np.float32],
    size: NDArray[np.float32],
    input_size: tuple[int, int],
    rotation: float,
    heatmap_size: tuple[int, int],
    *,
    flip: bool,
) -> Affine:
    """Affine from image pixels to teacher input pixels, such that the crop is UDP's.

    UDP's crop has the first and the last pixel at the edges of the region, so that its affine is that of
    `region_affine` times (W - 1) / W; `udp_scale` converts its pixels to input pixels. A mirrored view is the mirror
    image in input pixels, as for other teachers.
    """
    shrink = 1 - 1 / np.asarray(heatmap_size, np.float64)
    affine = region_affine(center, size, input_size, rotation) * shrink[:, None]
    mirror = np.array([[-1.0, 0.0, input_size[0] - 1], [0.0, 1.0, 0.0]])
    return compose_affines(mirror, affine) if flip else affine


def _draw(rng: np.random.Generator) -> tuple[float, float]:
    """Draw the relative size and the rotation in degrees of one random view."""
    factor = np.clip(rng.normal(1.0, SCALE), 1 - SCALE, 1 + SCALE)
    return float(factor), float(np.clip(rng.normal(0.0, ROTATION), -2 * ROTATION, 2 * ROTATION))
