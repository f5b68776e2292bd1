"""One drawn image: persons at random places in front of a background, and which of their joints are visible."""

from dataclasses import dataclass

import numpy as np

from kdlib.skeletons.skeleton import COCO
from precompute.sample.drawing.appearance import draw_colour, draw_outfit, plain_paint
from precompute.sample.drawing.backdrop import draw_backdrop, draw_loose_limbs, draw_occluder
from precompute.sample.drawing.body import dress
from precompute.sample.drawing.figure import JOINT_DEPTH, Camera, Figure, draw_build, pose_figure, project
from precompute.sample.drawing.poses import Pose, draw_pose
from precompute.sample.drawing.solids import Canvas, Cone

Array = np.ndarray

LAYER = 2000.0
"""Depth between one figure and the next in pixels, so that no figure cuts through another."""

SMALLEST_AREA = 120
"""Persons with fewer visible pixels are not annotated: an annotator would not find them."""

_DEPTHS = np.array([JOINT_DEPTH[name] for name in COCO.joints])


@dataclass(frozen=True)
class Person:
    """The ground truth of one person in an image, in image pixels.

    Attributes:
        joints: (17, 2) x, y, also of joints that are hidden or outside the image.
        visible: (17,) bool, whether the joint is visible and inside the image.
        own: (17,) bool, whether the joint's pixel shows this person; then only the own body can hide the joint.
        silhouette: (H, W) bool, the pixels that show this person.
        facing: degrees; 0 looks into the camera.
        pose: kind of pose.
    """

    joints: Array
    visible: Array
    own: Array
    silhouette: Array
    facing: float
    pose: str


@dataclass(frozen=True)
class Scene:
    """A drawn scene, before camera effects.

    Attributes:
        colour: (H, W, 3) float32 RGB, about 0..255.
        people: the persons with enough visible pixels, farthest first.
        crowd: (H, W) bool, the pixels of a distant group that is annotated as one crowd; None without a group.
    """

    colour: Array
    people: list[Person]
    crowd: Array | None


def draw_size(rng: np.random.Generator) -> tuple[int, int]:
    """Draw the width and height of an image: landscape or portrait, never square."""
    long = int(rng.integers(280, 361))
    short = round(long / rng.choice([4 / 3, 3 / 2, 16 / 9, 5 / 4]))
    return (long, short) if rng.random() < 0.65 else (short, long)


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene of one to three persons, rarely with a crowd behind them."""
    size = draw_size(rng)
    canvas = Canvas.over(draw_backdrop(rng, size), _draw_light(rng))
    stature = float(np.exp(rng.uniform(np.log(80), np.log(min(235, 1.15 * size[1])))))
    draw_loose_limbs(rng, canvas, stature)
    crowded = rng.random() < 0.02
    if crowded:
        _draw_crowd(rng, canvas)
    crowd_pixels = canvas.owner > 0 if crowded else None
    canvas.owner[:] = 0
    actors = _draw_people(rng, canvas, stature)
    if crowd_pixels is not None:
        crowd_pixels &= (canvas.depth < -LAYER) & (canvas.owner == 0)
    people = [_observe(canvas, owner, *actor) for owner, actor in enumerate(actors, start=1)]
    return Scene(canvas.colour, [p for p in people if p.silhouette.sum() >= SMALLEST_AREA], crowd_pixels)


def _draw_light(rng: np.random.Generator) -> Array:
    light = np.array([rng.normal(0, 0.6), -rng.uniform(0.2, 1.0), rng.uniform(0.4, 1.0)])
    return light / np.linalg.norm(light)


def _draw_people(rng: np.random.Generator, canvas: Canvas, stature: float) -> list[tuple[Figure, Camera, Pose]]:
    """Draw one to three persons from back to front, with occluders in front of some of them."""
    actors: list[tuple[Figure, Camera, Pose]] = []
    for layer in range(rng.choice([1, 2, 3], p=[0.5, 0.32, 0.18])):
        size = stature if layer == 0 else float(np.clip(stature * rng.uniform(0.75, 1.3), 75, 240))
        neighbour = actors[-1][1].x if actors and rng.random() < 0.6 else None
        actor = _place_person(rng, canvas, size, layer * LAYER, neighbour)
        _draw_person(rng, canvas, actor, owner=layer + 1)
        if rng.random() < 0.35:
            draw_occluder(rng, canvas, _extent(actor[0]), layer * LAYER + LAYER / 2)
        actors.append(actor)
    return actors


def _draw_facing(rng: np.random.Generator) -> float:
    """Draw the direction of a person in degrees: mostly towards the camera, often away from it or to a side."""
    center, spread = [(0, 30), (180, 30), (rng.choice([-90, 90]), 25), (0, 400)][rng.choice(4, p=[0.4, 0.2, 0.2, 0.2])]
    return float(rng.normal(center, spread))


def _place_person(
    rng: np.random.Generator, canvas: Canvas, stature: float, depth: float, neighbour: float | None
) -> tuple[Figure, Camera, Pose]:
    """Place a random person in the image: usually completely inside, and near `neighbour` (image x) if given."""
    pose, height, width = draw_pose(rng), *canvas.depth.shape
    view = Camera(_draw_facing(rng), rng.normal(8, 9), 0.0, rng.uniform(3, 9), stature, 0.0, 0.0, 0.0)
    body = pose_figure(draw_build(rng), pose)
    x, y, w, h = _extent(project(body, view, pose.recline))
    if rng.random() < 0.2:  # truncated: only the centre is certainly inside
        low, high = -np.array([x + w / 2, y + h / 2]), np.array([width - x - w / 2, height - y - h / 2])
        low, high = low + 8, high - 8
    else:
        low, high = np.array([3 - x, 3 - y]), np.array([width - 3 - x - w, height - 3 - y - h])
    place = rng.uniform(np.minimum(low, high), np.maximum(low, high))
    if neighbour is not None:
        beside = neighbour + rng.choice([-1, 1]) * stature * rng.uniform(0.12, 0.5)
        place[0] = np.clip(beside, min(low[0], high[0]), max(low[0], high[0]))
    camera = Camera(view.facing, view.pitch, 0.0, view.distance, stature, place[0], place[1], depth)
    return project(body, camera, pose.recline), camera, pose


def _extent(figure: Figure) -> Array:
    """Box (x, y, w, h) around the points of a projected figure, with a margin for the body's thickness."""
    points = np.array(list(figure.points.values()))[:, :2]
    margin = 0.04 * figure.scales["pelvis"]
    low, high = points.min(0) - margin, points.max(0) + margin
    return np.concatenate([low, high - low])


def _draw_person(rng: np.random.Generator, canvas: Canvas, actor: tuple[Figure, Camera, Pose], owner: int) -> None:
    figure, camera, pose = actor
    if pose.name == "sit" and rng.random() < 0.85:
        canvas.draw(_stool(figure, camera, draw_colour(rng)), 0)
    for solid in dress(figure, draw_outfit(rng)):
        canvas.draw(solid, owner)


def _stool(figure: Figure, camera: Camera, colour: Array) -> Cone:
    """Build a seat: a block under the pelvis, slightly behind it."""
    frame = figure.frames["pelvis"]
    seat = figure.points["pelvis"] - camera.stature * (0.09 * frame[:, 1] + 0.03 * frame[:, 2])
    foot = seat - camera.stature * 0.2 * frame[:, 1]
    widths = camera.stature * np.array([0.13, 0.13])
    return Cone(foot, seat, widths, widths, frame, plain_paint(colour), cap=0.1)


def _draw_crowd(rng: np.random.Generator, canvas: Canvas) -> None:
    """Draw a distant group of small, overlapping persons."""
    height, width = canvas.depth.shape
    center, stature = rng.uniform([0.2, 0.3], [0.8, 0.6]) * [width, height], rng.uniform(40, 70)
    for member in range(rng.integers(5, 9)):
        x, y = center + rng.normal(0, [0.7, 0.06]) * stature
        pose = draw_pose(rng)
        camera = Camera(_draw_facing(rng), 5.0, 0.0, 8.0, stature, x, y, (member - 20) * LAYER)
        figure = project(pose_figure(draw_build(rng), pose), camera, pose.recline)
        _draw_person(rng, canvas, (figure, camera, pose), owner=1)


def _observe(canvas: Canvas, owner: int, figure: Figure, camera: Camera, pose: Pose) -> Person:
    """Determine which joints and pixels of a figure are visible in the finished drawing.

    A joint is visible if its pixel shows this person, and only tissue and clothes around the joint are in front of it.
    """
    joints = figure.joints()
    height, width = canvas.depth.shape
    columns, rows = np.round(joints[:, :2]).astype(int).T
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    rows, columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    in_front = canvas.depth[rows, columns] - joints[:, 2]
    own = inside & (canvas.owner[rows, columns] == owner)
    visible = own & (in_front < _DEPTHS * camera.stature * figure.build.girth * 1.1)
    return Person(joints[:, :2], visible, own, canvas.owner == owner, camera.facing, pose.name)
