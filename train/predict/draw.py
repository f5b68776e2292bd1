"""Skeletons painted into a picture with OpenCV, in the report's colours: the person's left one, the right another."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from kdlib.skeleton import JOINTS, LIMBS
from train.predict.people import People
from train.report.overlays import COLOURS, SIDES, limb_side

SHADE: Final = (20, 20, 20)
FRACTION_BITS: Final = 4
"""OpenCV takes coordinates in sixteenths of a pixel."""


def draw_people(people: People, least: float) -> NDArray[np.uint8]:
    """A copy of the scene's picture (H, W, 3) BGR with its people in it.

    Args:
        people: Who is there; the best is drawn last, on top.
        least: Joints with lower heatmaps are left out, and limbs that end in them.
    """
    canvas = people.scene.pixels.copy()
    for i in reversed(range(len(people.points))):
        seen = people.joint_scores[i] >= least
        thickness = _thickness(people.boxes[i])
        if people.points.shape[1] == len(JOINTS):
            _draw_limbs(canvas, people.points[i], seen, thickness)
        _draw_joints(canvas, people.points[i], seen, thickness)
    return canvas


def _thickness(box: NDArray[np.float64]) -> int:
    """Of limbs in pixels: a person's size over 70, and visible."""
    return int(np.clip(round(float(np.sqrt(max(box[2] * box[3], 0.0))) / 70), 1, 12))


def _draw_limbs(
    canvas: NDArray[np.uint8], points: NDArray[np.float64], seen: NDArray[np.bool_], thickness: int
) -> None:
    limbs = [(a, b) for a, b in LIMBS if seen[a] and seen[b]]
    for a, b in limbs:
        _line(canvas, points[a], points[b], SHADE, thickness + 2)
    for a, b in limbs:
        _line(canvas, points[a], points[b], _bgr(limb_side(a, b)), thickness)


def _draw_joints(
    canvas: NDArray[np.uint8], points: NDArray[np.float64], seen: NDArray[np.bool_], thickness: int
) -> None:
    radius = round((thickness + 1) * 2**FRACTION_BITS)
    for k in np.flatnonzero(seen):
        side = SIDES[k] if len(points) == len(JOINTS) else "mid"
        for extra, colour in ((2**FRACTION_BITS, SHADE), (0, _bgr(side))):
            cv2.circle(canvas, _fixed(points[k]), radius + extra, colour, -1, cv2.LINE_AA, FRACTION_BITS)


def _line(
    canvas: NDArray[np.uint8],
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    colour: tuple[int, int, int],
    thickness: int,
) -> None:
    cv2.line(canvas, _fixed(start), _fixed(end), colour, thickness, cv2.LINE_AA, FRACTION_BITS)


def _fixed(point: NDArray[np.float64]) -> tuple[int, int]:
    """A point in the fixed-point form that OpenCV takes."""
    x, y = np.clip(point, -1e5, 1e5) * 2**FRACTION_BITS
    return round(float(x)), round(float(y))


def _bgr(side: str) -> tuple[int, int, int]:
    red, green, blue = COLOURS[side]
    return blue, green, red
