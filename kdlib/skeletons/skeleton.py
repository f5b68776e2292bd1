"""The skeleton of a data set: its joints, and the facts about them that metrics, augmentation and drawings use.

    COCO.joints[5]                  # 'left_shoulder'
    COCO.flip_order                 # the joints of a mirrored image
    Skeleton("glove", ("wrist", "left_tip", "right_tip"), flip_pairs=((1, 2),), limbs=((0, 1), (0, 2)))

In files (TOML, manifests, checkpoints, exported students) joints are referred to by name; in memory by number, from 0.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from kdlib.errors import SkeletonError

DEFAULT_SIGMA: Final = 0.05
"""Assumed spread of annotations per joint, relative to sqrt(area), where none is published (COCO: 0.025 to 0.107)."""
Pairs = tuple[tuple[int, int], ...]
"""Pairs of numbers of joints."""
SIDES: Final = {"left": "left", "l": "left", "lt": "left", "right": "right", "r": "right", "rt": "right"}
"""Words at the ends of a joint's name that state its side."""
ENTRIES: Final = ("name", "joints", "flip_pairs", "limbs", "upper_body", "sigmas", "sigmas_source", "head", "aliases")
"""The entries that `Skeleton.from_json` reads."""


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """K joints in the order of a data set's keypoints. Left and right are the person's own.

    Raises:
        SkeletonError: If a name occurs twice, or the other fields do not fit the joints.
    """

    name: str
    """Name of the skeleton, e.g. ``coco``."""
    joints: tuple[str, ...]
    """K names, all different."""
    flip_pairs: Pairs = ()
    """Pairs of joints that swap in a mirrored image."""
    limbs: Pairs = ()
    """Pairs of joints that drawings connect."""
    upper_body: tuple[int, ...] = ()
    """The joints of the upper body: half-body augmentation shows these or the others. Empty: it is not applied."""
    sigmas: tuple[float, ...] = ()
    """K spreads of human annotations, relative to sqrt(area), for OKS; empty takes `DEFAULT_SIGMA` for all."""
    sigmas_source: str = ""
    """Where the sigmas were published; empty if they were not: an OKS from them is no data set's official metric."""
    head: tuple[int, int] | None = None
    """The ends of the head segment, for PCKh; None if the skeleton has none."""
    aliases: tuple[tuple[str, int], ...] = dataclasses.field(default=(), compare=False)
    """Other names of joints, each with the joint's number, that files of annotations may use. `to_json` omits them."""

    def __post_init__(self) -> None:
        if not self.sigmas:
            object.__setattr__(self, "sigmas", (DEFAULT_SIGMA,) * len(self.joints))
        self._check()

    def __len__(self) -> int:
        return len(self.joints)

    @functools.cached_property
    def flip_order(self) -> NDArray[np.int64]:
        """(K,) int64, read-only: ``mirrored[k] = original[flip_order[k]]``. It is its own inverse."""
        order = np.arange(len(self), dtype=np.int64)
        for one, other in self.flip_pairs:
            order[[one, other]] = other, one
        return _read_only(order)

    @functools.cached_property
    def is_upper(self) -> NDArray[np.bool_]:
        """(K,) bool, read-only: the joints of the upper body."""
        upper = np.zeros(len(self), np.bool_)
        upper[list(self.upper_body)] = True
        return _read_only(upper)

    @functools.cached_property
    def spreads(self) -> NDArray[np.float64]:
        """(K,) float64, read-only: ``sigmas`` as an array."""
        return _read_only(np.array(self.sigmas, np.float64))

    @functools.cached_property
    def sides(self) -> tuple[str, ...]:
        """K sides of the body: ``left`` or ``right`` if the name states it, otherwise ``mid``."""
        return tuple(side_of(name) for name in self.joints)

    @property
    def instances(self) -> str:
        """What messages call the instances: ``persons`` for COCO's joints; other joints may be those of animals."""
        return "persons" if self.joints == COCO.joints else "instances"

    def limb_side(self, a: int, b: int) -> str:
        """The side of the limb between two joints: that of its ends; an end in the middle fits either side."""
        sides = {self.sides[a], self.sides[b]} - {"mid"}
        return sides.pop() if len(sides) == 1 else "mid"

    def difference(self, other: Self) -> str | None:
        """How the joints differ from those of another skeleton, as a phrase; None if they are equal."""
        for number, (one, two) in enumerate(zip(self.joints, other.joints, strict=False), 1):
            if one != two:
                return f"joint {number} is {one!r}, not {two!r}"
        return None if len(self) == len(other) else f"{len(self)} joints, not {len(other)}"

    def select(self, joints: Sequence[int], name: str | None = None) -> Self:
        """The skeleton of some of the joints, in the given order.

        Args:
            joints: Numbers of the joints.
            name: Name of the result; None keeps the name.
        """
        place = {joint: new for new, joint in enumerate(joints)}

        def kept(pairs: Pairs) -> Pairs:
            return tuple((place[a], place[b]) for a, b in pairs if a in place and b in place)

        head = kept((self.head,)) if self.head else ()
        return dataclasses.replace(
            self,
            name=name or self.name,
            joints=tuple(self.joints[joint] for joint in joints),
            flip_pairs=kept(self.flip_pairs),
            limbs=kept(self.limbs),
            upper_body=tuple(place[joint] for joint in self.upper_body if joint in place),
            sigmas=tuple(self.sigmas[joint] for joint in joints),
            head=head[0] if head else None,
            aliases=tuple((alias, place[joint]) for alias, joint in self.aliases if joint in place),
        )

    def to_json(self) -> dict[str, Any]:
        """The skeleton as JSON values, joints by their names; `from_json` reads them."""

        def named(pairs: Iterable[tuple[int, int]]) -> list[list[str]]:
            return [[self.joints[a], self.joints[b]] for a, b in pairs]

        return {
            "name": self.name,
            "joints": list(self.joints),
            "flip_pairs": named(self.flip_pairs),
            "limbs": named(self.limbs),
            "upper_body": [self.joints[joint] for joint in self.upper_body],
            "sigmas": list(self.sigmas),
            "sigmas_source": self.sigmas_source,
            **({"head": named([self.head])[0]} if self.head else {}),
        }

    @classmethod
    def from_json(cls, entries: Any, where: str) -> Self:
        """Make a skeleton from JSON or TOML values.

        Args:
            entries: An object with ``name``, ``joints``, and optionally the other `ENTRIES`. ``sigmas`` may be one
                number for all joints.
            where: The file and entry, for messages.

        Raises:
            SkeletonError: If an entry is missing, unknown, of another type, or names a joint that is not listed.
        """
        if not isinstance(entries, Mapping):
            raise SkeletonError(f"{where}: a skeleton must be an object with name and joints, not {entries!r:.80}")
        unknown = [name for name in entries if name not in ENTRIES]
        if unknown:
            raise SkeletonError(f"{where}: unknown entries {unknown}; a skeleton has {', '.join(ENTRIES)}")
        name, joints, source = entries.get("name"), entries.get("joints"), entries.get("sigmas_source", "")
        if not isinstance(name, str) or not name or not isinstance(source, str):
            raise SkeletonError(f"{where}: name and sigmas_source must be texts, and the name must not be empty")
        if not isinstance(joints, list) or not joints or not all(isinstance(joint, str) and joint for joint in joints):
            raise SkeletonError(f"{where}: joints must be a list of names, got {joints!r:.80}")
        numbers = {joint: number for number, joint in enumerate(joints)}
        head = entries.get("head")
        try:
            return cls(
                name=name,
                joints=tuple(joints),
                flip_pairs=_numbered(entries, "flip_pairs", numbers, where),
                limbs=_numbered(entries, "limbs", numbers, where),
                upper_body=tuple(
                    _number(joint, numbers, f"{where}: upper_body") for joint in _list_of(entries, "upper_body", where)
                ),
                sigmas=_sigmas(entries.get("sigmas"), len(joints), where),
                sigmas_source=source,
                head=None if head is None else _pair(head, numbers, f"{where}: head"),
                aliases=_aliases(entries.get("aliases", {}), numbers, f"{where}: aliases"),
            )
        except SkeletonError as error:
            raise SkeletonError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None

    def _check(self) -> None:
        if not self.joints:
            raise SkeletonError(f"skeleton {self.name} has no joints")
        twice = sorted({name for name in self.joints if self.joints.count(name) > 1})
        if twice:
            raise SkeletonError(f"skeleton {self.name} has two joints named {twice[0]!r}; give each its own name")
        if len(self.sigmas) != len(self):
            raise SkeletonError(f"skeleton {self.name} has {len(self)} joints and {len(self.sigmas)} sigmas")
        if not all(0 < sigma < np.inf for sigma in self.sigmas):
            raise SkeletonError(f"skeleton {self.name} has a sigma that is not a positive number: {self.sigmas}")
        pairs = (*self.flip_pairs, *self.limbs, self.head or ())
        used = [*self.upper_body, *(joint for _, joint in self.aliases), *(joint for pair in pairs for joint in pair)]
        if any(not 0 <= joint < len(self) for joint in used):
            raise SkeletonError(f"skeleton {self.name} refers to a joint that it does not have; it has {len(self)}")
        flipped = [joint for pair in self.flip_pairs for joint in pair]
        several = next((self.joints[joint] for joint in flipped if flipped.count(joint) > 1), None)
        if several is not None:
            raise SkeletonError(f"skeleton {self.name} has the joint {several!r} in several flip pairs")


def side_of(joint: str) -> str:
    """``left`` or ``right`` if the name of a joint states its side as a word of its own, otherwise ``mid``."""
    words = split_words(joint)
    sides = {SIDES[word] for word in (words[0], words[-1]) if word in SIDES} if words else set()
    if not sides:
        sides = {word for word in words if word in ("left", "right")}
    return sides.pop() if len(sides) == 1 else "mid"


def without_side(joint: str) -> str:
    """The name of a joint without the word at its end that states the side: ``left_eye`` and ``EyeL`` give ``eye``."""
    words = split_words(joint)
    while len(words) > 1 and words[0] in SIDES:
        words = words[1:]
    while len(words) > 1 and words[-1] in SIDES:
        words = words[:-1]
    return " ".join(words)


def split_words(joint: str) -> list[str]:
    """The words of a joint's name in small letters: ``L_FrontPaw``, ``LFrontPaw`` and ``l-front paw`` have the same."""
    spaced = "".join(
        f" {c}" if c.isupper() and (before.islower() or before.isdigit() or after.islower()) else c
        for before, c, after in zip(("", *joint), joint, (*joint[1:], ""), strict=False)
    )
    return "".join(c if c.isalnum() else " " for c in spaced).casefold().split()


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array


def _list_of(entries: Mapping[str, Any], key: str, where: str) -> list[Any]:
    found = entries.get(key, [])
    if not isinstance(found, list):
        raise SkeletonError(f"{where}: {key} must be a list, got {found!r:.80}")
    return found


def _numbered(entries: Mapping[str, Any], key: str, numbers: Mapping[str, int], where: str) -> Pairs:
    return tuple(_pair(pair, numbers, f"{where}: {key}") for pair in _list_of(entries, key, where))


def _pair(pair: Any, numbers: Mapping[str, int], where: str) -> tuple[int, int]:
    if not isinstance(pair, list) or len(pair) != 2 or pair[0] == pair[1]:
        raise SkeletonError(f"{where}: {pair!r:.80} is not a pair of two joints")
    return _number(pair[0], numbers, where), _number(pair[1], numbers, where)


def _number(joint: Any, numbers: Mapping[str, int], where: str) -> int:
    if not isinstance(joint, str) or joint not in numbers:
        raise SkeletonError(f"{where}: {joint!r:.80} is not one of the joints {', '.join(numbers):.200}")
    return numbers[joint]


def _aliases(given: Any, numbers: Mapping[str, int], where: str) -> tuple[tuple[str, int], ...]:
    if not isinstance(given, Mapping) or not all(isinstance(others, list) for others in given.values()):
        raise SkeletonError(f"{where} must be a table of lists of names, one list per joint, got {given!r:.80}")
    found = [(alias, _number(joint, numbers, where)) for joint, others in given.items() for alias in others]
    odd = next((alias for alias, _ in found if not isinstance(alias, str) or not alias), None)
    if odd is not None:
        raise SkeletonError(f"{where}: {odd!r:.80} is not a name")
    return tuple(found)


def _sigmas(given: Any, count: int, where: str) -> tuple[float, ...]:
    numbers = given if isinstance(given, list) else [] if given is None else [given] * count
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
        raise SkeletonError(f"{where}: sigmas must be one number or a list of {count} numbers, got {given!r:.80}")
    if given == []:
        raise SkeletonError(f"{where}: sigmas is empty; leave it out, or give {count} numbers")
    return tuple(map(float, numbers))


COCO: Final = Skeleton(
    name="coco",
    joints=(
        "nose",
        "left_eye",
        "right_eye",
        "left_ear",
        "right_ear",
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
    ),
    flip_pairs=tuple((left, left + 1) for left in range(1, 17, 2)),
    limbs=(
        *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10)),
        *((1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
    ),
    upper_body=tuple(range(11)),
    sigmas=tuple(sigma / 1000 for sigma in (26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89)),
    sigmas_source="pycocotools (cocoeval.py, kpt_oks_sigmas)",
)
"""COCO's person: 17 joints, limbs as in its annotation files, OKS constants as in pycocotools."""
