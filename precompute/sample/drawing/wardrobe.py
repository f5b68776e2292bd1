"""What a figure looks like: its skin, hair and clothes, and the paints that put them on solids.

Everything that helps a person looking to tell front from back, and so left from right, is decided here: faces and
hair, shirt fronts with buttons, necks or prints, rucksacks and yokes, pockets and belts, toes.
"""

from dataclasses import dataclass

import numpy as np

from precompute.sample.drawing.solids import Paint, Surface

Array = np.ndarray

_SKINS = np.array(
    [[244, 208, 182], [232, 190, 158], [214, 166, 128], [186, 132, 94], [142, 96, 66], [98, 66, 48]], np.float32
)
_HAIRS = np.array(
    [[28, 24, 22], [62, 42, 28], [104, 70, 40], [170, 130, 74], [150, 148, 146], [128, 58, 30]], np.float32
)
_WHITE, _DARK = np.array([240, 238, 234], np.float32), np.array([30, 26, 28], np.float32)


@dataclass(frozen=True)
class Outfit:
    """The looks of one person. Colours are (3,) float32 RGB; lengths are shares of a limb (2.0 is both segments).

    Attributes:
        skin: colour of face and hands.
        hair: its colour.
        hair_style: "bald", "short", "long", "bun" or "cap".
        shirt: colours of the shirt: cloth and contrast.
        shirt_front: "plain", "buttons", "print" or "jacket"; what the front shows.
        shirt_back: "plain", "yoke", "print" or "rucksack".
        shirt_pattern: "none", "hoops" or "stripes".
        sleeve: how far the sleeves reach down, 0..2.
        trousers: colours of the trousers: cloth and contrast.
        trouser_leg: how far the trousers reach down, 0.4..2.
        skirt: whether a skirt is worn over the legs.
        shoes: colour of the shoes.
        bulk: thickness of the cloth, a factor on limbs.
    """

    skin: Array
    hair: Array
    hair_style: str
    shirt: tuple[Array, Array]
    shirt_front: str
    shirt_back: str
    shirt_pattern: str
    sleeve: float
    trousers: tuple[Array, Array]
    trouser_leg: float
    skirt: bool
    shoes: Array
    bulk: float


def draw_colour(rng: np.random.Generator, vivid: float = 1.0) -> Array:
    """A random colour, (3,) float32 RGB: dark or light, grey or up to as strong as `vivid` (0..1) allows."""
    grey = rng.uniform(25, 235)
    return np.clip(grey + vivid * rng.uniform(0.1, 1.0) * rng.uniform(-110, 110, 3), 12, 248).astype(np.float32)


def draw_skin(rng: np.random.Generator) -> Array:
    """A random colour of skin, (3,) float32 RGB."""
    return np.clip(_SKINS[rng.integers(len(_SKINS))] + rng.normal(0, 8, 3), 20, 250).astype(np.float32)


def _contrast(rng: np.random.Generator, colour: Array) -> Array:
    """A colour that stands out from another."""
    other = draw_colour(rng)
    return other if np.abs(other - colour).max() > 70 else (colour + 128) % 256


def draw_outfit(rng: np.random.Generator) -> Outfit:
    """Random looks."""
    shirt, trousers = draw_colour(rng), draw_colour(rng)
    return Outfit(
        skin=draw_skin(rng),
        hair=np.clip(_HAIRS[rng.integers(len(_HAIRS))] + rng.normal(0, 8, 3), 8, 240).astype(np.float32),
        hair_style=str(rng.choice(["bald", "short", "long", "bun", "cap"], p=[0.06, 0.42, 0.26, 0.1, 0.16])),
        shirt=(shirt, _contrast(rng, shirt)),
        shirt_front=str(rng.choice(["plain", "buttons", "print", "jacket"], p=[0.2, 0.25, 0.3, 0.25])),
        shirt_back=str(rng.choice(["plain", "yoke", "print", "rucksack"], p=[0.35, 0.25, 0.2, 0.2])),
        shirt_pattern=str(rng.choice(["none", "hoops", "stripes"], p=[0.68, 0.17, 0.15])),
        sleeve=float(rng.choice([0.0, rng.uniform(0.3, 0.9), rng.uniform(1.0, 1.6), 2.0], p=[0.1, 0.4, 0.1, 0.4])),
        trousers=(trousers, _contrast(rng, trousers)),
        trouser_leg=float(rng.choice([rng.uniform(0.4, 0.95), rng.uniform(1.1, 1.6), 2.0], p=[0.28, 0.12, 0.6])),
        skirt=bool(rng.random() < 0.12),
        shoes=draw_colour(rng),
        bulk=rng.uniform(1.0, 1.25),
    )


def plain_paint(colour: Array) -> Paint:
    """One colour all over."""
    return lambda surface: colour


def _mix(base: Array, other: Array, where: Array) -> Array:
    """Colours (h, w, 3): `other` where a mask (h, w) says so, else `base`."""
    return np.where(where[..., None], other, base)


def sleeve_paint(cloth: Array, skin: Array, reach: float) -> Paint:
    """Cloth from the start of the segment up to `reach` of it, then skin."""
    if reach <= 0:
        return plain_paint(skin)
    return plain_paint(cloth) if reach >= 1 else lambda surface: _mix(cloth, skin, surface.up > reach)


def shirt_paint(outfit: Outfit, chest: bool) -> Paint:
    """The trunk's colours; `chest` for its upper part, which has the neckline and the prints."""
    cloth, contrast = outfit.shirt
    pale = 0.65 * cloth + 0.35 * contrast

    def paint(surface: Surface) -> Array:
        left, up, front = surface.left, surface.up, surface.front > 0
        colours = _pattern(outfit.shirt_pattern, cloth, pale, surface)
        if outfit.shirt_front == "buttons":
            colours = _mix(colours, contrast, front & (np.abs(left) < 0.09))
        elif outfit.shirt_front == "jacket":
            colours = _mix(colours, contrast, front & (np.abs(left) < 0.12 + 0.3 * up * chest))
        elif outfit.shirt_front == "print" and chest:
            colours = _mix(colours, contrast, front & (left**2 / 0.2 + (up - 0.5) ** 2 / 0.06 < 1))
        if outfit.shirt_back == "yoke" and chest:
            colours = _mix(colours, contrast, ~front & (up > 0.62))
        elif outfit.shirt_back == "print" and chest:
            colours = _mix(colours, contrast, ~front & (np.abs(left) < 0.55) & (np.abs(up - 0.5) < 0.13))
        if chest:
            colours = _mix(colours, outfit.skin, front & (np.abs(left) < (up - 0.72) * 1.3))
        return colours

    return paint


def _pattern(name: str, cloth: Array, other: Array, surface: Surface) -> Array:
    if name == "hoops":
        return _mix(cloth, other, np.sin(surface.up * 26) > 0.2)
    if name == "stripes":
        return _mix(cloth, other, np.sin(surface.left * 19) > 0.4)
    return np.broadcast_to(cloth, (*surface.left.shape, 3))


def seat_paint(outfit: Outfit) -> Paint:
    """Hips: trousers with a belt buckle before and two pockets behind."""
    cloth, contrast = outfit.trousers

    def paint(surface: Surface) -> Array:
        left, up, front = surface.left, surface.up, surface.front > 0
        pockets = ~front & (np.abs(np.abs(left) - 0.42) < 0.2) & (np.abs(up - 0.3) < 0.22)
        colours = _mix(cloth, 0.7 * cloth, pockets)
        return _mix(colours, contrast, (up > 0.78) & (up < 0.95) & front & (np.abs(left) < 0.2))

    return paint


def head_paint(outfit: Outfit) -> Paint:
    """A face with eyes, brows, cheeks and mouth before, hair above and behind."""
    bald, capped = outfit.hair_style == "bald", outfit.hair_style == "cap"
    cover = outfit.shirt[1] if capped else outfit.hair
    brows = 0.5 * outfit.hair + 0.3 * outfit.skin
    lips = 0.6 * outfit.skin + 0.4 * np.array([180, 40, 50], np.float32)

    def paint(surface: Surface) -> Array:
        left, up, front = surface.left, surface.up, surface.front
        aside, face = np.abs(left), front > 0.25
        colours = _mix(outfit.skin, lips, face & (aside < 0.3) & (np.abs(up + 0.52) < 0.075))
        colours = _mix(colours, _WHITE, face & (((aside - 0.40) / 0.26) ** 2 + ((up - 0.13) / 0.13) ** 2 < 1))
        colours = _mix(colours, _DARK, face & (((aside - 0.40) / 0.13) ** 2 + ((up - 0.13) / 0.14) ** 2 < 1))
        colours = _mix(colours, brows, face & (np.abs(aside - 0.40) < 0.22) & (np.abs(up - 0.38) < 0.045))
        hair = (0.8 * up - 0.9 * front > 0.34) & (up > -0.75) & (not bald)
        if capped:
            hair |= up > 0.5
        return _mix(colours, cover, hair)

    return paint


def shoe_paint(outfit: Outfit) -> Paint:
    """Shoes with a lighter toe cap, so that a foot has a direction."""
    return lambda surface: _mix(outfit.shoes, 0.5 * outfit.shoes + 100, surface.up > 0.8)
