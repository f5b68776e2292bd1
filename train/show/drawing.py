"""Draws skeletons into images with OpenCV and heatmaps as pixels, in the colours of the body's sides.

The person's left has one colour and the right another, in limbs and in heatmaps, so that a left-right mistake is
visible. `train.show.report.overlays` draws the same skeletons as SVG.
"""

import functools
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from kdlib.skeletons.skeleton import Skeleton, split_words

COLOURS: Final = {"left": (255, 140, 50), "right": (40, 180, 255), "mid": (245, 245, 240)}
"""RGB of the person's sides; report.css has the same three."""
OUTLINE: Final = (20, 20, 20)
"""Colour around limbs and joints."""
MIN_HEAT: Final = 0.06
"""Heatmap value below which nothing is drawn."""
FRACTION_BITS: Final = 4
"""OpenCV takes coordinates in sixteenths of a pixel."""
MANY_JOINTS: Final = 26
"""Skeletons with more joints than this have fine joints."""
FINE: Final = 0.4
"""Thickness of fine joints and their limbs, relative to the others."""
FINE_PARTS: Final = ("face", "hand", "thumb", "finger", "forefinger")


@functools.cache
def fine_joints(skeleton: Skeleton) -> tuple[bool, ...]:
    """K flags: joints of the face and the hands, and numbered joints, in a skeleton of more than `MANY_JOINTS`.

    These lie so close together that they would hide each other, and the image, with the thickness of a body's joints.
    """
    many = len(skeleton) > MANY_JOINTS
    return tuple(
        many and (joint[-1].isdigit() or not set(FINE_PARTS).isdisjoint(split_words(joint)))
        for joint in skeleton.joints
    )


# --- heatmaps ---------------------------------------------------------------------------------------------------------


def heat_pixels(heatmaps: NDArray[np.floating], skeleton: Skeleton) -> NDArray[np.uint8]:
    """Colour heatmaps by the side of each joint.

    Args:
        heatmaps: (K, H, W).
        skeleton: The K joints.

    Returns:
        (H, W, 4) RGBA. The highest joint sets the opacity; the strengths of the sides mix the colour.
    """
    strength = np.stack([_strongest(heatmaps, skeleton, side) for side in COLOURS])
    mixture = strength / np.maximum(strength.sum(axis=0), 1e-6)
    colour = np.tensordot(mixture, np.array(list(COLOURS.values()), np.float64), axes=(0, 0))
    value = strength.max(axis=0)
    opacity = np.where(value < MIN_HEAT, 0, 255 * value**0.6)
    return np.dstack([colour * (opacity > 0)[..., None], opacity]).round().astype(np.uint8)


def _strongest(heatmaps: NDArray[np.floating], skeleton: Skeleton, side: str) -> NDArray[np.float64]:
    """Maximum over the joints of one side, (H, W) in [0, 1]; 0 if there are none."""
    members = [k for k, found in enumerate(skeleton.sides) if found == side]
    return np.clip(heatmaps[members].max(axis=0, initial=0.0), 0, 1).astype(np.float64)


# --- skeletons --------------------------------------------------------------------------------------------------------


def draw_persons(
    image: NDArray[np.uint8],
    boxes: NDArray[np.float64],
    points: NDArray[np.float64],
    heights: NDArray[np.float32],
    threshold: float,
    skeleton: Skeleton,
) -> NDArray[np.uint8]:
    """Draw skeletons into a copy of an image.

    Args:
        image: (H, W, 3) uint8 BGR.
        boxes: (N, 4) x, y, width, height in pixels, best person first; the best person is drawn last, on top.
        points: (N, K, 2) pixels.
        heights: (N, K) heights of the heatmaps at the points.
        threshold: Joints with lower heatmaps are not drawn, nor limbs that end in them.
        skeleton: The K joints.
    """
    canvas = image.copy()
    for i in reversed(range(len(points))):
        paint_skeleton(canvas, points[i], heights[i] >= threshold, _thickness(boxes[i]), skeleton, bgr=True)
    return canvas


def _thickness(box: NDArray[np.float64]) -> int:
    """Thickness of a person's limbs in pixels: the square root of the box's area, divided by 70, in [1, 12]."""
    return int(np.clip(round(float(np.sqrt(max(box[2] * box[3], 0.0))) / 70), 1, 12))


def paint_skeleton(
    canvas: NDArray[np.uint8],
    points: NDArray[np.floating],
    drawn: NDArray[np.bool_],
    thickness: int,
    skeleton: Skeleton,
    *,
    bgr: bool = False,
) -> None:
    """Paint the joints of one person and the limbs between them.

    Args:
        canvas: (H, W, 3) uint8, painted in place.
        points: (K, 2) pixels.
        drawn: (K,) joints to draw.
        thickness: Thickness of limbs in pixels.
        skeleton: The K joints.
        bgr: Whether the canvas is BGR instead of RGB.
    """
    colours = {side: rgb[::-1] if bgr else rgb for side, rgb in COLOURS.items()}
    limbs = [(a, b) for a, b in skeleton.limbs if drawn[a] and drawn[b]]
    fine = fine_joints(skeleton)

    def thick(*ends: int) -> int:
        return max(1, round(FINE * thickness)) if any(fine[end] for end in ends) else thickness

    for a, b in limbs:
        _line(canvas, points[a], points[b], OUTLINE, thick(a, b) + 2)
    for a, b in limbs:
        _line(canvas, points[a], points[b], colours[skeleton.limb_side(a, b)], thick(a, b))
    for k in map(int, np.flatnonzero(drawn)):
        colour, radius = colours[skeleton.sides[k]], round((thick(k) + (not fine[k])) * 2**FRACTION_BITS)
        for extra, paint in ((2**FRACTION_BITS, OUTLINE), (0, colour)):
            cv2.circle(canvas, _fixed_point(points[k]), radius + extra, paint, -1, cv2.LINE_AA, FRACTION_BITS)


def _line(
    canvas: NDArray[np.uint8],
    start: NDArray[np.floating],
    end: NDArray[np.floating],
    colour: tuple[int, int, int],
    thickness: int,
) -> None:
    cv2.line(canvas, _fixed_point(start), _fixed_point(end), colour, thickness, cv2.LINE_AA, FRACTION_BITS)


def _fixed_point(point: NDArray[np.floating]) -> tuple[int, int]:
    """A point in sixteenths of a pixel, as OpenCV takes it."""
    x, y = np.clip(point, -1e5, 1e5) * 2**FRACTION_BITS
    return round(float(x)), round(float(y))
