"""A z-buffered canvas, and the two solids that persons are drawn with: cones with round ends and ellipsoids.

Image space is that of `figure`: x right, y down, z towards the viewer, all in pixels. The paint of a solid is a
function from the position on its surface to a colour, so that front and back can differ.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

Array = np.ndarray

BEHIND = -1e9
"""Depth of a pixel where only the background is."""


@dataclass(frozen=True)
class Surface:
    """The visible surface of a solid over a patch of the image; every array is (h, w) float32.

    Attributes:
        left: coordinate towards the solid's own left, -1..1.
        up: coordinate along its own up axis: -1..1 on an ellipsoid; 0..1 from start to end on a cone.
        front: coordinate towards its own front, -1..1; positive on the side of the person's front.
    """

    left: Array
    up: Array
    front: Array


Paint = Callable[[Surface], Array]
"""Maps a surface to its colours (h, w, 3) or (3,), RGB 0..255."""


@dataclass(frozen=True)
class Cone:
    """A tapered limb of elliptic cross-section with rounded ends.

    Attributes:
        start: (3,) start of its axis in image space.
        end: (3,) end of its axis in image space.
        left: (n,) half-widths towards its own left along the axis, from start to end, in pixels.
        front: (n,) half-widths towards its own front, in pixels.
        frame: (3, 3) its own left, up (from start to end) and front, in image space.
        paint: its colours.
        cap: how far the ends bulge beyond the axis, as a share of the half-width.
    """

    start: Array
    end: Array
    left: Array
    front: Array
    frame: Array
    paint: Paint
    cap: float = 1.0


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid.

    Attributes:
        center: (3,) image space.
        radii: (3,) along its own left, up and front, in pixels.
        frame: (3, 3) its own left, up and front, in image space.
        paint: its colours.
    """

    center: Array
    radii: Array
    frame: Array
    paint: Paint


Solid = Cone | Ellipsoid


@dataclass
class Canvas:
    """An image that is being drawn.

    Attributes:
        colour: (H, W, 3) float32, RGB 0..255.
        depth: (H, W) float32, pixels towards the viewer; `BEHIND` where only the background is.
        owner: (H, W) uint8, the number of the figure that a pixel shows, 0 for none.
        light: (3,) unit vector towards the light, image space.
    """

    colour: Array
    depth: Array
    owner: Array
    light: Array

    @classmethod
    def over(cls, backdrop: Array, light: Array) -> "Canvas":
        """Make a canvas from a background (H, W, 3), which is changed in place by drawing."""
        shape = backdrop.shape[:2]
        return cls(backdrop, np.full(shape, BEHIND, np.float32), np.zeros(shape, np.uint8), light)

    def draw(self, solid: Solid, owner: int) -> None:
        """Draw a solid where it is nearer to the viewer than what was drawn before."""
        height, width = self.depth.shape
        shape = (height, width)
        hit = _trace_cone(solid, shape) if isinstance(solid, Cone) else _trace_ellipsoid(solid, shape)
        if hit is not None:
            self._blend(solid, hit, owner)

    def _blend(self, solid: Solid, hit: "_Hit", owner: int) -> None:
        rows, columns = hit.window
        depth = self.depth[rows, columns]
        cover = hit.cover * (hit.depth > depth)
        if not cover.any():
            return
        shade = 0.42 + 0.50 * np.maximum(_dot(hit.normal, self.light), 0) + 0.20 * hit.normal[2]
        pixels = self.colour[rows, columns]
        pixels += cover[..., None] * (solid.paint(hit.surface) * shade[..., None] - pixels)
        opaque = cover > 0.5
        np.copyto(depth, hit.depth, where=opaque)
        np.copyto(self.owner[rows, columns], np.uint8(owner), where=opaque)

    def draw_board(self, outline: Array, texture: Array, depth: float) -> None:
        """Draw a flat polygon (n, 2) at one depth, cut from a texture (H, W, 3), with owner 0."""
        mask = np.zeros(self.depth.shape, np.uint8)
        cv2.fillPoly(mask, [np.round(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
        x, y, width, height = cv2.boundingRect(mask)
        rows, columns = slice(y, y + height), slice(x, x + width)
        cover = mask[rows, columns] / np.float32(255) * (self.depth[rows, columns] < depth)
        self.colour[rows, columns] += cover[..., None] * (texture[rows, columns] - self.colour[rows, columns])
        np.copyto(self.depth[rows, columns], np.float32(depth), where=cover > 0.5)
        np.copyto(self.owner[rows, columns], np.uint8(0), where=cover > 0.5)


@dataclass(frozen=True)
class _Hit:
    """The pixels of a solid: a window of the canvas with coverage 0..1, depth, unit normals (x, y, z) and surface."""

    window: tuple[slice, slice]
    cover: Array
    depth: Array
    normal: tuple[Array, Array, Array]
    surface: Surface


def _window(low: Array, high: Array, shape: tuple[int, int]) -> tuple[slice, slice] | None:
    """Rows and columns of the box low..high (x, y) inside a canvas of (height, width); None if it is outside."""
    x0, y0 = np.maximum(np.floor(low - 1), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(high + 2), [shape[1], shape[0]]).astype(int)
    return (slice(y0, y1), slice(x0, x1)) if x0 < x1 and y0 < y1 else None


def _pixels(window: tuple[slice, slice], origin: Array) -> tuple[Array, Array]:
    """Coordinates x (1, w) and y (h, 1) of the window's pixels relative to an origin, float32."""
    rows, columns = window
    x = np.arange(columns.start, columns.stop, dtype=np.float32) - np.float32(origin[0])
    y = np.arange(rows.start, rows.stop, dtype=np.float32) - np.float32(origin[1])
    return x[None, :], y[:, None]


def _reach(direction: Array, solid: Cone, axial: float) -> Array:
    """Extent of a cone's cross-sections in an image direction, (n,) pixels: the support function of an ellipse."""
    left, up, front = direction @ solid.frame
    squares = (solid.left * left) ** 2 + (solid.front * front) ** 2 + (solid.left * axial * up) ** 2
    return np.sqrt(squares) + 1e-3


def _trace_cone(cone: Cone, shape: tuple[int, int]) -> _Hit | None:
    """Rasterise a cone: in the image, its axis is a segment with a varying half-width and elliptic ends."""
    axis = cone.end[:2] - cone.start[:2]
    length = max(float(np.hypot(*axis)), 1e-3)
    along = np.array([*(axis / length), 0.0])
    across = np.array([-along[1], along[0], 0.0])
    widths, caps = _reach(across, cone, 0.0), _reach(along, cone, cone.cap)
    margin = max(widths.max(), caps.max())
    ends = np.array([cone.start[:2], cone.end[:2]])
    window = _window(ends.min(0) - margin, ends.max(0) + margin, shape)
    if window is None:
        return None
    x, y = _pixels(window, cone.start)
    ax, ay, lx, ly, span = (np.float32(value) for value in (*across[:2], *along[:2], length))
    run = x * lx + y * ly
    t = np.clip(run / span, 0, 1)
    width = _along(t, widths)
    beyond = run - t * span
    u = (x * ax + y * ay) / width
    v = beyond / np.where(beyond > 0, np.float32(caps[-1]), np.float32(caps[0]))
    rest = 1 - u * u - v * v
    cover = np.clip((1 - np.sqrt(1 - np.minimum(rest, 1))) * width + 0.5, 0, 1)
    normal = (u * ax + v * lx, u * ay + v * ly, np.sqrt(np.maximum(rest, 0)))
    bulge = _along(t, _reach(np.array([0.0, 0.0, 1.0]), cone, cone.cap))
    depth = np.float32(cone.start[2]) + t * np.float32(cone.end[2] - cone.start[2]) + bulge * normal[2]
    surface = Surface(_dot(normal, cone.frame[:, 0]), t, _dot(normal, cone.frame[:, 2]))
    return _Hit(window, cover, depth, normal, surface)


def _along(t: Array, values: Array) -> Array:
    """Interpolate values at evenly spaced positions of an axis at t (0..1), float32."""
    return np.interp(t, np.linspace(0, 1, len(values)), values).astype(np.float32)


def _dot(vectors: tuple[Array, Array, Array], direction: Array) -> Array:
    """Dot products (h, w) of three component planes with one direction (3,)."""
    x, y, z = direction.astype(np.float32)
    return vectors[0] * x + vectors[1] * y + vectors[2] * z


def _trace_ellipsoid(solid: Ellipsoid, shape: tuple[int, int]) -> _Hit | None:
    spread = solid.frame * solid.radii
    reach = np.sqrt((spread**2).sum(1))
    window = _window(solid.center[:2] - reach[:2], solid.center[:2] + reach[:2], shape)
    if window is None:
        return None
    x, y = _pixels(window, solid.center)
    inverse = np.linalg.inv(spread)
    quadric = (inverse.T @ inverse).astype(np.float32)
    half_b = quadric[0, 2] * x + quadric[1, 2] * y
    c = quadric[0, 0] * x * x + 2 * quadric[0, 1] * x * y + quadric[1, 1] * y * y - 1
    a = quadric[2, 2]
    discriminant = half_b * half_b - a * c
    rim = np.sqrt(np.maximum(1 - discriminant / a, 0))  # 0 at the centre of the silhouette, 1 on its outline
    cover = np.clip((1 - rim) * np.float32(reach[:2].min()) + 0.5, 0, 1)
    z = (np.sqrt(np.maximum(discriminant, 0)) - half_b) / a
    offsets = (x, y, z)
    normal = tuple(_dot(offsets, row) for row in quadric)
    length = np.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2) + np.float32(1e-6)
    unit = (normal[0] / length, normal[1] / length, normal[2] / length)
    return _Hit(window, cover, np.float32(solid.center[2]) + z, unit, Surface(*(_dot(offsets, row) for row in inverse)))
