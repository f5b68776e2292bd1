"""Skeletons and heatmaps drawn over a frame, in the frame's own pixels.

The person's left is one colour, the right another, in limbs and in heatmaps alike, so that a left-right mistake shows.
Pixel u covers u to u + 1 in SVG and has its centre at u: everything is drawn half a pixel further.
"""

import base64
from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from kdlib.geometry import compose_affines
from kdlib.skeleton import JOINTS, LIMBS
from train.show.report.markup import Markup, compact, element, join

COLOURS = {"left": (255, 140, 50), "right": (40, 180, 255), "mid": (245, 245, 240)}
"""RGB of the person's sides; report.css has the same three."""


SIDES = tuple("left" if name.startswith("left") else "right" if name.startswith("right") else "mid" for name in JOINTS)


FAINTEST = 0.06
"""Heatmap value below which nothing is drawn."""


def limb_side(a: int, b: int) -> str:
    """``left``, ``right``, or ``mid`` where a limb joins the two; the nose takes the other end's side."""
    sides = {SIDES[a], SIDES[b]}
    return SIDES[max(a, b)] if len(sides) == 1 or SIDES[min(a, b)] == "mid" else "mid"


def skeleton(
    points: NDArray[np.floating], counted: NDArray[np.bool_], drawn: NDArray[np.bool_], scale: float
) -> Markup:
    """Limbs and joints of one person.

    Args:
        points: (K, 2) frame pixels.
        counted: (K,) joints that are labelled; limbs between others are faint.
        drawn: (K,) joints to draw at all.
        scale: Thickness of a limb in frame pixels.
    """
    solid = [(a, b) for a, b in LIMBS if drawn[a] and drawn[b] and counted[a] and counted[b]]
    faint = [(a, b) for a, b in LIMBS if drawn[a] and drawn[b] and not (counted[a] and counted[b])]
    paths = [_limbs(points, faint, side, "faint") for side in ("left", "right", "mid")]
    paths += [_path(points, solid, "under", stroke_width=1.7 * scale)]
    paths += [_limbs(points, solid, side, "limb") for side in ("mid", "left", "right")]
    joints = [_joint(points[k], SIDES[k], 0.85 * scale) for k in np.flatnonzero(drawn & counted)]
    return element("g", *paths, *joints, transform="translate(.5 .5)", stroke_width=float(scale))


def _limbs(points: NDArray[np.floating], limbs: Sequence[tuple[int, int]], side: str, kind: str) -> Markup | None:
    return _path(points, [limb for limb in limbs if limb_side(*limb) == side], f"{kind} {side}")


def _path(
    points: NDArray[np.floating], limbs: Sequence[tuple[int, int]], class_: str, stroke_width: float | None = None
) -> Markup | None:
    ends = [(*points[a], *points[b]) for a, b in limbs]
    d = "".join("M{} {}L{} {}".format(*map(compact, end)) for end in ends)
    return element("path", d=d, class_=class_, stroke_width=stroke_width) if d else None


def _joint(point: NDArray[np.floating], side: str, radius: float) -> Markup:
    return element("circle", cx=float(point[0]), cy=float(point[1]), r=float(radius), class_=f"joint {side}")


def heat_layer(heatmaps: NDArray[np.floating], to_frame: NDArray[np.float64]) -> Markup:
    """The maximum over the joints of maps (K, H, W), laid over the frame by an affine heatmap -> frame pixels."""
    height, width = heatmaps.shape[-2:]
    return element(
        "image",
        href=data_uri(heat_png(heatmaps), "png"),
        width=width,
        height=height,
        transform=_matrix(to_frame),
        preserveAspectRatio="none",
    )


def heat_png(heatmaps: NDArray[np.floating]) -> bytes:
    """`heat_pixels` as a PNG file."""
    pixels = heat_pixels(heatmaps)[..., [2, 1, 0, 3]]
    return cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()


def heat_pixels(heatmaps: NDArray[np.floating]) -> NDArray[np.uint8]:
    """RGBA (H, W, 4) of maps (K, H, W): as opaque as the strongest joint, coloured by the strengths of the sides."""
    strength = np.stack([_strongest(heatmaps, side) for side in COLOURS])
    mixture = strength / np.maximum(strength.sum(axis=0), 1e-6)
    colour = np.tensordot(mixture, np.array(list(COLOURS.values()), np.float64), axes=(0, 0))
    value = strength.max(axis=0)
    opacity = np.where(value < FAINTEST, 0, 255 * value**0.6)
    return np.dstack([colour * (opacity > 0)[..., None], opacity]).round().astype(np.uint8)


def _strongest(heatmaps: NDArray[np.floating], side: str) -> NDArray[np.float64]:
    """Maximum over the joints of one side, (H, W) in [0, 1]."""
    members = [k for k, found in enumerate(SIDES) if found == side]
    return np.clip(heatmaps[members].max(axis=0), 0, 1).astype(np.float64)


def _matrix(affine: NDArray[np.float64]) -> str:
    """SVG's matrix of an affine between pixel centres."""
    half = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]])
    back = np.array([[1.0, 0.0, -0.5], [0.0, 1.0, -0.5]])
    whole = compose_affines(half, compose_affines(affine, back))
    return f"matrix({' '.join(f'{value:.5g}' for value in whole.T.reshape(-1))})"


def data_uri(content: bytes, kind: str) -> str:
    """A picture as an address that needs no request."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def panel(layers: Sequence[Markup | None], view_box: str, label: str, class_: str = "") -> Markup:
    """One picture: layers in the frame's pixels, the view box cut out of them."""
    return element(
        "svg", join(layer for layer in layers if layer), viewBox=view_box, role="img", aria_label=label, class_=class_
    )


SHADE: Final = (20, 20, 20)


FRACTION_BITS: Final = 4
"""OpenCV takes coordinates in sixteenths of a pixel."""


def draw_persons(
    picture: NDArray[np.uint8],
    boxes: NDArray[np.float64],
    points: NDArray[np.float64],
    heights: NDArray[np.float32],
    least: float,
) -> NDArray[np.uint8]:
    """A copy of a picture with skeletons drawn into it.

    Args:
        picture: (H, W, 3) uint8 BGR.
        boxes: (N, 4) x, y, width, height in pixels, best person first; the best is drawn last, on top.
        points: (N, K, 2) pixels.
        heights: (N, K) heatmap heights.
        least: Joints with lower heatmaps are left out, and limbs that end in them.
    """
    canvas = picture.copy()
    for i in reversed(range(len(points))):
        seen = heights[i] >= least
        thickness = _thickness(boxes[i])
        if points.shape[1] == len(JOINTS):
            _draw_limbs(canvas, points[i], seen, thickness)
        _draw_joints(canvas, points[i], seen, thickness)
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
