"""Skeletons in space: proportions and a pose make a skeleton, and a camera projects it to image pixels.

Body space: x to the person's own left, y up, z to the front, in units of the person's stature. A figure whose `facing`
is 0 looks into the camera; its left is at larger image x. Image space: x right, y down, z towards the viewer, all in
pixels, so that a z-buffer needs no further conversion.
"""

from dataclasses import dataclass

import numpy as np

from kdlib.skeletons.skeleton import COCO
from precompute.sample.drawing.poses import Pose

Array = np.ndarray

SIDES = (("left", 1.0), ("right", -1.0))
"""Name of each side and the sign of its x in body space."""

JOINT_DEPTH = dict.fromkeys(COCO.joints, 0.02) | {
    f"{side}_{joint}": depth
    for side, _ in SIDES
    for joint, depth in {
        "ear": 0.03, "shoulder": 0.085, "elbow": 0.055, "wrist": 0.045, "hip": 0.12, "knee": 0.075, "ankle": 0.06,
    }.items()
}  # fmt: skip
"""Largest depth in statures of the person's own body and clothes in front of a joint that counts as visible."""


_UP, _FRONT = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class Build:
    """Proportions of a body in units of its stature (after Drillis and Contini's segment lengths), and its girth."""

    shank: float
    thigh: float
    trunk: float
    upper_arm: float
    forearm: float
    shoulder_width: float
    hip_width: float
    head: float
    girth: float


@dataclass(frozen=True)
class Camera:
    """Direction from which a figure is seen, and its place in the image. Angles are in degrees.

    Attributes:
        facing: 0 looks into the camera, 90 towards the right border, 180 away from the camera.
        pitch: positive looks down on the figure.
        roll: rotation of the camera in the image plane.
        distance: distance of the camera in statures; small values are wide-angle.
        stature: height of the person standing upright, in image pixels.
        x: image x of the pelvis in pixels.
        y: image y of the pelvis in pixels.
        z: depth of the pelvis in the scene, in pixels towards the viewer.
    """

    facing: float
    pitch: float
    roll: float
    distance: float
    stature: float
    x: float
    y: float
    z: float


@dataclass(frozen=True)
class Figure:
    """A posed body, in body space or (after `project`) in image space.

    Attributes:
        build: its proportions.
        points: name -> (3,) position of a joint or of the end of a bone.
        frames: name of a segment -> (3, 3); the columns are the unit vectors of its own left, up and front.
        scales: name -> pixels per stature at that point (1.0 in body space).
    """

    build: Build
    points: dict[str, Array]
    frames: dict[str, Array]
    scales: dict[str, float]

    def joints(self) -> Array:
        """Positions of the 17 COCO joints, (17, 3) in the order of `COCO.joints`."""
        return np.array([self.points[name] for name in COCO.joints])


def draw_build(rng: np.random.Generator) -> Build:
    """Draw random proportions: slim and stout, long- and short-legged, with a slightly enlarged head."""
    means = np.array([0.235, 0.235, 0.285, 0.170, 0.150, 0.215, 0.115])
    lengths = means * rng.normal(1, 0.05, 7)
    return Build(*[float(size) for size in (*lengths, rng.uniform(1.0, 1.25), rng.uniform(0.82, 1.25))])


def turn_x(degrees: float) -> Array:
    """Rotation matrix about x: y towards z."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def turn_y(degrees: float) -> Array:
    """Rotation matrix about y: z towards x."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def turn_z(degrees: float) -> Array:
    """Rotation matrix about z: x towards y."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def _bent(angles: Array) -> Array:
    """Frame after a bend of the spine or the neck by angles (forward, to the left, turn to the left)."""
    forward, leftward, turn = angles
    return turn_x(forward) @ turn_z(-leftward) @ turn_y(turn)


def _limb(sign: float, angles: Array, bend: float) -> tuple[Array, Array]:
    """Frames of the two segments of a limb, relative to the trunk; `bend` is -1 for elbows, +1 for knees."""
    flexion, abduction, twist, hinge = angles
    upper = turn_x(-flexion) @ turn_z(sign * abduction) @ turn_y(-sign * twist)
    return upper, upper @ turn_x(bend * hinge)


def _head_points(build: Build, head: Array, frame: Array) -> dict[str, Array]:
    size = build.head
    offsets = {"nose": (0.0, -0.012, 0.086), "crown": (0.0, 0.085, 0.0)}
    for side, sign in SIDES:
        offsets[f"{side}_eye"] = (sign * 0.026, 0.012, 0.068)
        offsets[f"{side}_ear"] = (sign * 0.061, -0.004, -0.004)
    return {name: head + frame @ (size * np.array(offset)) for name, offset in offsets.items()}


def pose_figure(build: Build, pose: Pose) -> Figure:
    """Build the skeleton of a body in a pose, in body space with the pelvis at the origin."""
    frames, points = _spine(build, pose)
    for row, (side, sign) in enumerate(SIDES):
        _add_arm(build, side, sign, pose.arms[row], frames, points)
        _add_leg(build, side, sign, pose.legs[row], frames, points)
    return Figure(build, points, frames, dict.fromkeys(points, 1.0))


def _spine(build: Build, pose: Pose) -> tuple[dict[str, Array], dict[str, Array]]:
    """Frames and points from pelvis to head. The pelvis takes a quarter of the forward bend, unless the person sits."""
    quarter = pose.spine[0] / 4
    frames = {"pelvis": np.eye(3) if pose.name == "sit" else turn_x(quarter)}
    frames["chest"] = frames["pelvis"] @ _bent(pose.spine - [quarter, 0, 0])
    frames["head"] = frames["chest"] @ _bent(pose.neck - [min(pose.spine[0], 50) * 0.6, 0, 0])
    waist = frames["pelvis"] @ (_UP * build.trunk * 0.32)
    neck = waist + frames["chest"] @ (_UP * build.trunk * 0.68)
    head = neck + frames["chest"] @ (_UP * 0.04) + frames["head"] @ np.array([0, 0.06 * build.head, 0.012])
    points = {"pelvis": np.zeros(3), "waist": waist, "neck": neck, "head": head}
    return frames, points | _head_points(build, head, frames["head"])


def _add_arm(
    build: Build, side: str, sign: float, angles: Array, frames: dict[str, Array], points: dict[str, Array]
) -> None:
    """Add the frames and points of one arm."""
    upper, lower = (frames["chest"] @ frame for frame in _limb(sign, angles, -1.0))
    frames |= {f"{side}_upper_arm": upper, f"{side}_forearm": lower}
    shoulder = points["neck"] + frames["chest"] @ np.array([sign * build.shoulder_width / 2, -0.018, 0])
    elbow = shoulder - upper @ _UP * build.upper_arm
    wrist = elbow - lower @ _UP * build.forearm
    points |= {f"{side}_shoulder": shoulder, f"{side}_elbow": elbow, f"{side}_wrist": wrist}
    points[f"{side}_hand"] = wrist - lower @ _UP * 0.055


def _add_leg(
    build: Build, side: str, sign: float, angles: Array, frames: dict[str, Array], points: dict[str, Array]
) -> None:
    """Add the frames and points of one leg. Its angles are relative to the vertical, not to the pelvis."""
    upper, lower = _limb(sign, angles, 1.0)
    foot = lower[:, [0, 2, 1]]  # its axis points to the front of the shank, its upper side to the knee
    frames |= {f"{side}_thigh": upper, f"{side}_shank": lower, f"{side}_foot": foot}
    hip = frames["pelvis"] @ np.array([sign * build.hip_width / 2, 0, 0])
    knee = hip - upper @ _UP * build.thigh
    ankle = knee - lower @ _UP * build.shank
    points |= {f"{side}_hip": hip, f"{side}_knee": knee, f"{side}_ankle": ankle}
    points[f"{side}_heel"] = ankle - lower @ (_UP * 0.028 + _FRONT * 0.012)
    points[f"{side}_toe"] = ankle - lower @ (_UP * 0.035 - _FRONT * 0.10)


def project(figure: Figure, camera: Camera, recline: float) -> Figure:
    """Project a figure to image space, with the perspective of `camera.distance`; `recline` is in degrees."""
    view = turn_z(camera.roll + recline) @ turn_x(camera.pitch) @ turn_y(camera.facing)
    to_image = np.diag([1.0, -1.0, 1.0]) @ view
    origin = np.array([camera.x, camera.y, camera.z])
    points, scales = {}, {}
    for name, point in figure.points.items():
        viewed = to_image @ point
        scales[name] = float(camera.stature * camera.distance / (camera.distance - viewed[2]))
        points[name] = origin + viewed * [scales[name], scales[name], camera.stature]
    frames = {name: to_image @ frame for name, frame in figure.frames.items()}
    return Figure(figure.build, points, frames, scales)
