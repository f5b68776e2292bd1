"""Backgrounds, distractors and occluders: textures, rooms, clutter, loose limbs and boards."""

import cv2
import numpy as np

from precompute.sample.drawing.appearance import draw_colour, draw_skin, plain_paint
from precompute.sample.drawing.solids import Canvas, Cone, Ellipsoid

Array = np.ndarray

BACKGROUND_DEPTH = -1e6
"""Depth of the loose limbs, behind all persons."""


def draw_texture(rng: np.random.Generator, size: tuple[int, int]) -> Array:
    """Draw a coloured surface with stains of several sizes, sometimes stripes, (h, w, 3) float32; `size` is (w, h)."""
    width, height = size
    texture = np.empty((height, width, 3), np.float32)
    texture[:] = draw_colour(rng, vivid=0.5)
    for cells in (3, 9, 30, 90):
        strength = rng.uniform(0, 26) if rng.random() < 0.8 else 0.0
        tint = rng.normal(1, 0.25, 3).astype(np.float32)
        grid = rng.normal(0, strength, (cells, cells + 1)).astype(np.float32)
        texture += cv2.resize(grid, size, interpolation=cv2.INTER_LINEAR)[..., None] * tint
    if rng.random() < 0.25:
        texture += _stripes(rng, size)[..., None]
    return texture


def _stripes(rng: np.random.Generator, size: tuple[int, int]) -> Array:
    """Draw parallel stripes with a random direction and period, (h, w) float32, grey levels to add."""
    angle, period = rng.uniform(0, np.pi), rng.uniform(5, 40)
    x = np.arange(size[0], dtype=np.float32) * np.float32(np.cos(angle) / period)
    y = np.arange(size[1], dtype=np.float32) * np.float32(np.sin(angle) / period)
    wave = np.sin(2 * np.float32(np.pi) * (x[None] + y[:, None]))
    return np.float32(rng.uniform(8, 40)) * (np.sign(wave) if rng.random() < 0.5 else wave)


def draw_backdrop(rng: np.random.Generator, size: tuple[int, int]) -> Array:
    """Draw a room or a landscape with clutter, (h, w, 3) float32; `size` is (w, h)."""
    width, height = size
    image = draw_texture(rng, size)
    if rng.random() < 0.75:  # a floor
        horizon = int(height * rng.uniform(0.35, 0.9))
        image[horizon:] = draw_texture(rng, (width, height))[horizon:]
    for _ in range(rng.integers(2, 10)):
        _draw_clutter(rng, image)
    return image


def _draw_clutter(rng: np.random.Generator, image: Array) -> None:
    """Draw one box, disc, polygon or line in a plain colour at a random place."""
    height, width = image.shape[:2]
    colour = tuple(float(value) for value in draw_colour(rng, vivid=0.7))
    center = rng.uniform(0, [width, height])
    extent = np.exp(rng.uniform(np.log(0.03), np.log(0.4), 2)) * height
    kind = rng.choice(["box", "disc", "polygon", "line"], p=[0.4, 0.2, 0.25, 0.15])
    if kind == "line":
        end = center + rng.normal(0, 0.4 * height, 2)
        cv2.line(image, center.astype(int).tolist(), end.astype(int).tolist(), colour, int(rng.integers(1, 7)))
    elif kind == "disc":
        axes = (int(extent[0]) + 1, int(extent[1]) + 1)
        cv2.ellipse(image, center.astype(int).tolist(), axes, rng.uniform(0, 180), 0, 360, colour, -1)
    else:
        outline = _box(rng, center, extent) if kind == "box" else center + rng.normal(0, 1, (5, 2)) * extent
        cv2.fillPoly(image, [outline.astype(np.int32)], colour)


def _box(rng: np.random.Generator, center: Array, extent: Array) -> Array:
    """Corners (4, 2) of a box with half-sizes `extent`, mostly upright."""
    tilt = np.deg2rad(rng.normal(0, 5) if rng.random() < 0.7 else rng.uniform(0, 90))
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * extent
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    return center + corners @ turn


def draw_loose_limbs(rng: np.random.Generator, canvas: Canvas, scale: float) -> None:
    """Draw distractors like arms, legs and heads on the background. `scale` is a person's height in pixels."""
    height, width = canvas.depth.shape
    for _ in range(rng.integers(0, 7)):
        colour = draw_skin(rng) if rng.random() < 0.5 else draw_colour(rng)
        start = np.array([*rng.uniform(0, [width, height]), BACKGROUND_DEPTH])
        if rng.random() < 0.2:
            radii = scale * rng.uniform(0.04, 0.09, 3)
            canvas.draw(Ellipsoid(start, radii, np.eye(3), plain_paint(colour)), 0)
            continue
        way = rng.normal(0, 1, 2)
        end = start + np.array([*(way / np.hypot(*way) * scale * rng.uniform(0.12, 0.35)), 0])
        widths = scale * np.sort(rng.uniform(0.02, 0.065, 2))
        canvas.draw(Cone(start, end, widths, widths, np.eye(3), plain_paint(colour)), 0)


def draw_occluder(rng: np.random.Generator, canvas: Canvas, box: Array, depth: float) -> None:
    """Draw a board in front of a person's box (x, y, w, h): a low wall, a pole, or a small board at any place."""
    x, y, width, height = box
    kind = rng.choice(["wall", "pole", "board"], p=[0.35, 0.2, 0.45])
    if kind == "wall":
        top = y + height * rng.uniform(0.5, 0.95)
        reach = width * rng.uniform(0.5, 2.0)
        center, extent = np.array([x + width / 2 + rng.normal(0, 0.3) * width, top + 200]), np.array([reach, 200])
    elif kind == "pole":
        center, extent = np.array([x + width * rng.random(), y + height / 2]), np.array([height * 0.03, 400])
    else:
        center, extent = box[:2] + box[2:] * rng.uniform(0, 1, 2), height * rng.uniform(0.06, 0.2, 2)
    outline = _box(rng, center, extent) if kind == "board" else center + _UPRIGHT * extent
    size = (canvas.depth.shape[1], canvas.depth.shape[0])
    canvas.draw_board(outline, draw_texture(rng, size), depth)


_UPRIGHT = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
