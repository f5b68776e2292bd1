"""Draws skeletons and heatmaps as SVG over a frame, in frame pixels and the colours of `train.show.drawing`.

In SVG, pixel u covers u to u + 1; in this project, its centre is at u. Everything is therefore shifted by half a pixel.
"""

import base64
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from kdlib.geometry import compose_affines
from kdlib.skeletons.skeleton import Skeleton
from train.show.drawing import FINE, fine_joints, heat_pixels
from train.show.report.markup import Markup, compact, element, join


def panel(layers: Sequence[Markup | None], view_box: str, label: str, class_: str = "") -> Markup:
    """Build a picture from layers, the first at the bottom.

    Args:
        layers: SVG in the frame's pixels; None is left out.
        view_box: The part of the frame that is shown.
        label: Description of the picture for screen readers.
        class_: CSS class.
    """
    return element(
        "svg", join(layer for layer in layers if layer), viewBox=view_box, role="img", aria_label=label, class_=class_
    )


def data_uri(content: bytes, kind: str) -> str:
    """Convert an image file to a data URI; ``kind`` is ``png`` or ``jpeg``."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


# --- skeletons --------------------------------------------------------------------------------------------------------


def draw_skeleton(
    points: NDArray[np.floating],
    counted: NDArray[np.bool_],
    drawn: NDArray[np.bool_],
    scale: float,
    skeleton: Skeleton,
) -> Markup:
    """Draw the limbs and joints of one person.

    Args:
        points: (K, 2) frame pixels.
        counted: (K,) joints that are labelled; limbs of unlabelled joints are faint.
        drawn: (K,) joints to draw at all.
        scale: Thickness of a limb in frame pixels.
        skeleton: The K joints.
    """

    def limbs(chosen: Sequence[tuple[int, int]], side: str, kind: str, width: float | None) -> Markup | None:
        return _path(points, [limb for limb in chosen if skeleton.limb_side(*limb) == side], f"{kind} {side}", width)

    fine = fine_joints(skeleton)
    visible = [(a, b) for a, b in skeleton.limbs if drawn[a] and drawn[b]]
    paths: list[Markup | None] = []
    for width, chosen in (
        (None, [limb for limb in visible if not any(fine[end] for end in limb)]),
        (FINE * scale, [limb for limb in visible if any(fine[end] for end in limb)]),
    ):
        solid = [(a, b) for a, b in chosen if counted[a] and counted[b]]
        faint = [limb for limb in chosen if limb not in solid]
        paths += [limbs(faint, side, "faint", width) for side in ("left", "right", "mid")]
        paths += [_path(points, solid, "under", stroke_width=1.7 * (width or scale))]
        paths += [limbs(solid, side, "limb", width) for side in ("mid", "left", "right")]
    joints = [
        _joint(points[k], skeleton.sides[k], 0.85 * scale * (FINE if fine[k] else 1))
        for k in np.flatnonzero(drawn & counted)
    ]
    return element("g", *paths, *joints, transform="translate(.5 .5)", stroke_width=float(scale))


def _path(
    points: NDArray[np.floating], limbs: Sequence[tuple[int, int]], class_: str, stroke_width: float | None = None
) -> Markup | None:
    ends = [(*points[a], *points[b]) for a, b in limbs]
    d = "".join("M{} {}L{} {}".format(*map(compact, end)) for end in ends)
    return element("path", d=d, class_=class_, stroke_width=stroke_width) if d else None


def _joint(point: NDArray[np.floating], side: str, radius: float) -> Markup:
    return element("circle", cx=float(point[0]), cy=float(point[1]), r=float(radius), class_=f"joint {side}")


# --- heatmaps ---------------------------------------------------------------------------------------------------------


def heat_layer(heatmaps: NDArray[np.floating], to_frame: NDArray[np.float64], skeleton: Skeleton) -> Markup:
    """Draw the maximum of heatmaps over the joints.

    Args:
        heatmaps: (K, H, W).
        to_frame: (2, 3) affine from heatmap to frame pixels.
        skeleton: The K joints.
    """
    height, width = heatmaps.shape[-2:]
    return element(
        "image",
        href=data_uri(heat_png(heatmaps, skeleton), "png"),
        width=width,
        height=height,
        transform=_matrix(to_frame),
        preserveAspectRatio="none",
    )


def heat_png(heatmaps: NDArray[np.floating], skeleton: Skeleton) -> bytes:
    """Encode `train.show.drawing.heat_pixels` of heatmaps (K, H, W) as a PNG file."""
    pixels = heat_pixels(heatmaps, skeleton)[..., [2, 1, 0, 3]]
    return cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()


def _matrix(affine: NDArray[np.float64]) -> str:
    """SVG's matrix of an affine between pixel centres."""
    half = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]])
    back = np.array([[1.0, 0.0, -0.5], [0.0, 1.0, -0.5]])
    whole = compose_affines(half, compose_affines(affine, back))
    return f"matrix({' '.join(f'{value:.5g}' for value in whole.T.reshape(-1))})"
