"""The appearance of a figure: skin, hair and clothes, and the paints that draw them on solids.

All features that distinguish front from back, and so left from right, are defined here: faces and hair, shirt fronts
with buttons, necklines or prints, rucksacks and yokes, pockets and belts, toe caps.
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
    """Skin, hair and clothes of one person. Colours are (3,) float32 RGB; lengths are in segments of a limb (0..2).

    Attributes:
        skin: colour of face and hands.
        hair: colour of the hair.
        hair_style: "bald", "short", "long", "bun" or "cap".
        shirt: colours of the shirt: cloth and contrast.
        shirt_front: "plain", "buttons", "print" or "jacket".
        shirt_back: "plain", "yoke", "print" or "rucksack".
        shirt_pattern: "none", "hoops" or "stripes".
        sleeve: length of the sleeves, 0..2.
        trousers: colours of the trousers: cloth and contrast.
        trouser_leg: length of the trousers, 0.4..2.
        skirt: whether the person wears a skirt.
        shoes: colour of the shoes.
        bulk: factor by which clothes thicken the limbs.
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
    """Draw a colour, (3,) float32 RGB: dark or light, with a saturation limited by `vivid` (0..1)."""
    grey = rng.uniform(25, 235)
    return np.clip(grey + vivid * rng.uniform(0.1, 1.0) * rng.uniform(-110, 110, 3), 12, 248).astype(np.float32)


def draw_skin(rng: np.random.Generator) -> Array:
    """Draw a skin colour, (3,) float32 RGB."""
    return np.clip(_SKINS[rng.integers(len(_SKINS))] + rng.normal(0, 8, 3), 20, 250).astype(np.float32)


def _contrast(rng: np.random.Generator, colour: Array) -> Array:
    """Draw a colour that contrasts with another."""
    other = draw_colour(rng)
    return other if np.abs(other - colour).max() > 70 else (colour + 128) % 256


def draw_outfit(rng: np.random.Generator) -> Outfit:
    """Draw the appearance of a person."""
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
    """A paint with one colour."""
    return lambda surface: colour


def _mix(base: Array, other: Array, where: Array) -> Array:
    """Colours (h, w, 3): `other` where the mask (h, w) is set, else `base`."""
    return np.where(where[..., None], other, base)


def sleeve_paint(cloth: Array, skin: Array, reach: float) -> Paint:
    """A paint with cloth from the start of the segment up to `reach` of its length, then skin."""
    if reach <= 0:
        return plain_paint(skin)
    return plain_paint(cloth) if reach >= 1 else lambda surface: _mix(cloth, skin, surface.up > reach)


def shirt_paint(outfit: Outfit, chest: bool) -> Paint:
    """The paint of the trunk; `chest` for its upper part, which has the neckline and the prints."""
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
    """The paint of the hips: trousers with a belt buckle in front and two pockets at the back."""
    cloth, contrast = outfit.trousers

    def paint(surface: Surface) -> Array:
        left, up, front = surface.left, surface.up, surface.front > 0
        pockets = ~front & (np.abs(np.abs(left) - 0.42) < 0.2) & (np.abs(up - 0.3) < 0.22)
        colours = _mix(cloth, 0.7 * cloth, pockets)
        return _mix(colours, contrast, (up > 0.78) & (up < 0.95) & front & (np.abs(left) < 0.2))

    return paint


def head_paint(outfit: Outfit) -> Paint:
    """The paint of a head: a face with eyes, brows and mouth in front, hair above and behind."""
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
    """The paint of a shoe, with a lighter toe cap that shows its direction."""
    return lambda surface: _mix(outfit.shoes, 0.5 * outfit.shoes + 100, surface.up > 0.8)
