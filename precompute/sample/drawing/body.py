"""The solids of a dressed person: the cones and ellipsoids of the head, the trunk, the arms and the legs."""

import numpy as np

from precompute.sample.drawing.appearance import (
    Outfit,
    head_paint,
    plain_paint,
    seat_paint,
    shirt_paint,
    shoe_paint,
    sleeve_paint,
)
from precompute.sample.drawing.figure import SIDES, Figure
from precompute.sample.drawing.solids import Cone, Ellipsoid, Paint, Solid

Array = np.ndarray


def _head(figure: Figure, outfit: Outfit) -> list[Solid]:
    size = figure.scales["head"] * figure.build.head
    frame, points = figure.frames["head"], figure.points

    def blob(center: Array, radii: tuple[float, float, float], colour: Array) -> Ellipsoid:
        return Ellipsoid(center, size * np.array(radii), frame, plain_paint(colour))

    def offset(left: float, up: float, front: float) -> Array:
        return points["head"] + frame @ (size * np.array([left, up, front]))

    solids: list[Solid] = [
        Ellipsoid(points["head"], size * np.array([0.062, 0.085, 0.074]), frame, head_paint(outfit)),
        blob(offset(0, -0.008, 0.074), (0.011, 0.02, 0.016), outfit.skin * 0.93),
        *(blob(points[f"{side}_ear"], (0.011, 0.021, 0.016), outfit.skin * 0.85) for side, _ in SIDES),
    ]
    if outfit.hair_style == "long":
        solids.append(blob(offset(0, -0.03, -0.035), (0.07, 0.10, 0.048), outfit.hair))
    elif outfit.hair_style == "bun":
        solids.append(blob(offset(0, 0.05, -0.075), (0.03, 0.03, 0.03), outfit.hair))
    elif outfit.hair_style == "cap":
        solids.append(blob(offset(0, 0.04, 0.085), (0.05, 0.008, 0.045), outfit.shirt[1] * 0.8))
    return solids


def _tube(figure: Figure, ends: tuple[str, str], segment: str, girths: tuple[float, ...], paint: Paint) -> Cone:
    """Build a round limb between two points of the figure. Girths are half-widths in statures."""
    start, end = ends
    scales = np.linspace(figure.scales[start], figure.scales[end], len(girths))
    radii = scales * girths * figure.build.girth
    return Cone(figure.points[start], figure.points[end], radii, radii, figure.frames[segment], paint)


def _arm(figure: Figure, outfit: Outfit, side: str) -> list[Solid]:
    cloth, skin, bulk = outfit.shirt[0], outfit.skin, outfit.bulk
    upper, lower, hand = f"{side}_upper_arm", f"{side}_forearm", f"{side}_wrist"
    thick = bulk if outfit.sleeve > 1 else 1.0
    sleeve, cuff = sleeve_paint(cloth, skin, outfit.sleeve), sleeve_paint(cloth, skin, outfit.sleeve - 1)
    return [
        _tube(
            figure, (f"{side}_shoulder", f"{side}_elbow"), upper, (0.042 * bulk, 0.036 * thick, 0.031 * thick), sleeve
        ),
        _tube(figure, (f"{side}_elbow", hand), lower, (0.031 * thick, 0.029 * thick, 0.022 * thick), cuff),
        _tube(figure, (hand, f"{side}_hand"), lower, (0.02, 0.027, 0.018), plain_paint(skin)),
    ]


def _leg(figure: Figure, outfit: Outfit, side: str) -> list[Solid]:
    cloth, skin, bulk = outfit.trousers[0], outfit.skin, outfit.bulk
    thick = bulk if outfit.trouser_leg > 1 else 1.0
    thigh, shank = sleeve_paint(cloth, skin, outfit.trouser_leg), sleeve_paint(cloth, skin, outfit.trouser_leg - 1)
    joints = [f"{side}_{name}" for name in ("hip", "knee", "ankle", "heel", "toe")]
    return [
        _tube(figure, (joints[0], joints[1]), f"{side}_thigh", (0.066 * bulk, 0.06 * thick, 0.046 * thick), thigh),
        _tube(figure, (joints[1], joints[2]), f"{side}_shank", (0.045 * thick, 0.044 * thick, 0.03 * thick), shank),
        _tube(figure, (joints[3], joints[4]), f"{side}_foot", (0.03, 0.032, 0.022), shoe_paint(outfit)),
    ]


def _trunk(figure: Figure, outfit: Outfit) -> list[Solid]:
    points, girth, scale = figure.points, figure.build.girth, figure.scales["waist"]
    shoulder, hip = figure.build.shoulder_width / 2, figure.build.hip_width / 2
    seat = scale * np.array([hip + 0.045 * girth, hip + 0.038 * girth, 0.085 * girth])
    chest = scale * np.array([0.085 * girth, 0.105 * girth, shoulder + 0.012, shoulder - 0.035])
    depths = scale * girth * np.array([0.07, 0.08, 0.076, 0.05])
    solids: list[Solid] = [
        Cone(points["pelvis"], points["waist"], seat, depths[:3], figure.frames["pelvis"], seat_paint(outfit), 0.45),
        Cone(points["waist"], points["neck"], chest, depths, figure.frames["chest"], shirt_paint(outfit, True), 0.2),
        Cone(
            0.65 * points["pelvis"] + 0.35 * points["waist"], points["waist"], seat[:2] * 1.03, depths[:2] * 1.05,
            figure.frames["pelvis"], shirt_paint(outfit, False), 0.15,
        ),
        _tube(figure, ("neck", "head"), "head", (0.036, 0.033), plain_paint(outfit.skin * 0.9)),
    ]  # fmt: skip
    if outfit.skirt:
        solids.append(_skirt(figure, outfit))
    if outfit.shirt_back == "rucksack":
        middle = 0.4 * points["waist"] + 0.6 * points["neck"]
        center = middle - figure.frames["chest"][:, 2] * scale * 0.105
        radii = scale * np.array([0.085, 0.115, 0.06])
        solids.append(Ellipsoid(center, radii, figure.frames["chest"], plain_paint(outfit.trousers[1])))
    return solids


def _skirt(figure: Figure, outfit: Outfit) -> Cone:
    """Build a cone from the pelvis to a little above the knees."""
    points, scale = figure.points, figure.scales["pelvis"]
    hem = 0.3 * points["pelvis"] + 0.35 * (points["left_knee"] + points["right_knee"])
    spread = float(np.linalg.norm(points["left_knee"] - points["right_knee"])) / 2
    widths = np.array([hem_width := spread * 0.8 + 0.09 * scale, 0.75 * hem_width, 0.10 * scale])
    return Cone(
        hem, points["pelvis"], widths, widths * 0.8, figure.frames["pelvis"], plain_paint(outfit.trousers[0]), 0.15
    )


def dress(figure: Figure, outfit: Outfit) -> list[Solid]:
    """Build the solids of a projected figure, farthest first, so that soft edges blend over what is behind them."""
    solids = _trunk(figure, outfit) + _head(figure, outfit)
    for side, _ in SIDES:
        solids += _arm(figure, outfit, side) + _leg(figure, outfit, side)
    return sorted(solids, key=_middle_depth)


def _middle_depth(solid: Solid) -> float:
    return float(solid.center[2] if isinstance(solid, Ellipsoid) else (solid.start[2] + solid.end[2]) / 2)
