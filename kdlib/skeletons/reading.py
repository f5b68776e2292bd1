"""Where a skeleton comes from: a built-in name, a TOML file, the manifest of a store, or the names of joints."""

import dataclasses
import functools
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from kdcli.words import did_you_mean
from kdlib.errors import SkeletonError
from kdlib.skeletons.skeleton import COCO, SIDES, Pairs, Skeleton, split_words

BUILT_IN: Final = Path(__file__).parent / "known"
"""One TOML file per published skeleton; its name is that of the skeleton. COCO's is `COCO`."""
ENTRY: Final = "skeleton"
"""The entry of a manifest's provenance, of a checkpoint, and of an exported student's metadata."""
_MIRRORED: Final = {"left": "right", "l": "r", "lt": "rt"}


@functools.cache
def built_in_names() -> tuple[str, ...]:
    """The names of the built-in skeletons, sorted."""
    return tuple(sorted({COCO.name, *(path.stem for path in BUILT_IN.glob("*.toml"))}))


def load_skeleton(name: str | Path) -> Skeleton:
    """Load a built-in skeleton by name, or the skeleton of a TOML file.

    Args:
        name: One of `built_in_names`, or the path of a file that ends in ``.toml``. The file has the entries of
            `kdlib.skeletons.skeleton.Skeleton.to_json`, of which ``name`` and ``joints`` are required. Without
            ``flip_pairs``, the pairs are found from the names of the joints.

    Raises:
        SkeletonError: If there is no such skeleton or file, or the file does not describe a skeleton.
    """
    text = str(name)
    if text in built_in_names():
        return _built_in(text)
    if not text.endswith(".toml"):
        known = built_in_names()
        hint = did_you_mean(text, known, f"available: {', '.join(known)}, or a file, FILE.toml")
        raise SkeletonError(f"unknown skeleton {text!r}; {hint}")
    skeleton = _read_file(Path(name))
    difference = difference_from_built_in(skeleton)
    if difference is not None:
        raise SkeletonError(
            f"{name}: name: {skeleton.name} is a built-in skeleton with other joints ({difference}); give this one a "
            "name of its own"
        )
    return skeleton


def difference_from_built_in(skeleton: Skeleton) -> str | None:
    """How the joints differ from those of the built-in skeleton of the same name, as a phrase.

    None if they are equal, or if no built-in skeleton has the name.
    """
    return skeleton.difference(_built_in(skeleton.name)) if skeleton.name in built_in_names() else None


@functools.cache
def _built_in(name: str) -> Skeleton:
    return COCO if name == COCO.name else _read_file(BUILT_IN / f"{name}.toml")


def _read_file(path: Path) -> Skeleton:
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SkeletonError(f"cannot read the skeleton {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SkeletonError(f"the skeleton {path} is not a TOML file: {error}") from error
    skeleton = Skeleton.from_json(entries, str(path))
    _check_names(skeleton, path)
    if "flip_pairs" in entries:
        return skeleton
    return dataclasses.replace(skeleton, flip_pairs=flip_pairs_by_name(skeleton.joints))


def _check_names(skeleton: Skeleton, path: Path) -> None:
    """Raise `SkeletonError` for names that are equal as `arrange` compares them, or that flags cannot state."""
    numbers: dict[str, int] = {}
    for number, joint in enumerate(skeleton.joints):
        sign = next((sign for sign in ",=" if sign in joint), None)
        if sign is not None:
            raise SkeletonError(
                f"{path}: joints: {joint!r} contains {sign!r}, which separates names in --joints-from-teacher; give "
                "the joint another name"
            )
        other = numbers.setdefault(_plain(joint), number)
        if other != number:
            raise SkeletonError(
                f"{path}: joints: {skeleton.joints[other]!r} and {joint!r} differ only in case, separators or the "
                "spelling of the side, which are not compared; give one of them another name"
            )
    for alias, number in skeleton.aliases:
        other = numbers.setdefault(_plain(alias), number)
        if other != number:
            raise SkeletonError(
                f"{path}: aliases: {alias!r} of {skeleton.joints[number]!r} is also a name of "
                f"{skeleton.joints[other]!r}; remove one of the two"
            )


def flip_pairs_by_name(joints: Sequence[str]) -> Pairs:
    """Pairs of joints whose names differ in a side: left and right, l and r, lt and rt, as a word of its own.

    ``left_eye`` and ``right_eye``, ``l_eye`` and ``r_eye``, ``EyeL`` and ``EyeR``, ``eye (left)`` and ``eye (right)``
    are pairs. A name that fits several joints gives no pair.
    """
    by_words: dict[tuple[str, ...], list[int]] = {}
    for number, joint in enumerate(joints):
        by_words.setdefault(tuple(split_words(joint)), []).append(number)
    pairs = []
    for number, joint in enumerate(joints):
        words = split_words(joint)
        mirrored = {
            tuple(_MIRRORED[word] if place == at else other for place, other in enumerate(words))
            for at, word in enumerate(words)
            if word in _MIRRORED
        }
        found = [other for key in mirrored for other in by_words.get(key, [])]
        if len(found) == 1 and len(by_words[tuple(words)]) == 1:
            pairs.append((number, found[0]))
    others = [other for _, other in pairs]
    return tuple((one, other) for one, other in pairs if others.count(other) == 1)


class Arranged(NamedTuple):
    """The skeleton of a file, and where the file has each of its joints."""

    skeleton: Skeleton
    order: tuple[int, ...]
    """K numbers: joint k of the skeleton is joint ``order[k]`` of the file."""

    @property
    def is_reordered(self) -> bool:
        """Whether the file has the joints in another order."""
        return self.order != tuple(range(len(self.order)))


def arrange(
    joints: Sequence[str], limbs: Pairs = (), *, name: str = "custom", wanted: Skeleton | None = None
) -> Arranged:
    """Find the skeleton of a file from the names of its joints.

    Names are compared without case and separators, and ``l`` equals ``left``; aliases of a skeleton count. A file that
    has the joints of a built-in skeleton in another order has that skeleton. Other joints make a skeleton of their own:
    with the flip pairs of `flip_pairs_by_name`, and with `kdlib.skeletons.skeleton.DEFAULT_SIGMA`.

    Args:
        joints: K names in the order of the file.
        limbs: Pairs of numbers of joints, from 0, for a skeleton that is not built in.
        name: Name of a skeleton that is not built in.
        wanted: The skeleton that the file must have; None accepts any.

    Raises:
        SkeletonError: If the file has other joints than ``wanted``, or two joints of one name.
    """
    order = None if wanted is None else joint_order(joints, wanted)
    if wanted is not None:
        if order is None:
            found = Skeleton(name, tuple(joints))
            raise SkeletonError(f"these are not the joints of {wanted.name}: {found.difference(wanted)}")
        return Arranged(wanted, order)
    for skeleton in _known():
        order = joint_order(joints, skeleton)
        if order is not None:
            return Arranged(skeleton, order)
    custom = Skeleton(name, tuple(joints), flip_pairs_by_name(joints), limbs)
    return Arranged(custom, tuple(range(len(joints))))


def numbered(joints: int, name: str = "numbered") -> Skeleton:
    """A skeleton whose joints have no names but ``joint_1``, ``joint_2`` and so on."""
    return Skeleton(name, tuple(f"joint_{number}" for number in range(1, joints + 1)))


def find_joint(name: str, joints: Sequence[str]) -> int | None:
    """The number of the joint with a name, compared as in `arrange`; None if there is none, or are several.

    Of several, the one that is spelt alike is meant: names of annotation files may differ in case only.
    """
    found = [number for number, joint in enumerate(joints) if _plain(joint) == _plain(name)]
    exact = [number for number in found if joints[number] == name]
    return (exact or found)[0] if len(exact or found) == 1 else None


def skeleton_of(provenance: Mapping[str, Any], joints: int, where: str) -> Skeleton:
    """The skeleton that a store, a checkpoint or an exported student states; COCO's if it states none.

    Args:
        provenance: The mapping that may have the entry `ENTRY`.
        joints: Number of its heatmaps.
        where: The file, for messages.

    Raises:
        SkeletonError: If the entry is not a skeleton, or has another number of joints.
    """
    skeleton = Skeleton.from_json(provenance[ENTRY], f"{where}: {ENTRY}") if ENTRY in provenance else COCO
    if len(skeleton) != joints:
        found = f"the skeleton {skeleton.name}" if ENTRY in provenance else "no skeleton, which means COCO's,"
        raise SkeletonError(f"{where} has {joints} joints per instance and states {found} with {len(skeleton)}")
    return skeleton


def stated(skeleton: Skeleton) -> dict[str, Any]:
    """The entry from which `skeleton_of` reads a skeleton; none for COCO's, which keeps such files as they were."""
    return {} if skeleton == COCO else {ENTRY: skeleton.to_json()}


def _known() -> Iterator[Skeleton]:
    """The built-in skeletons, COCO's first: most files have its joints, and the others are then not read."""
    yield COCO
    yield from (_built_in(name) for name in built_in_names() if name != COCO.name)


def joint_order(joints: Sequence[str], skeleton: Skeleton) -> tuple[int, ...] | None:
    """Where the names are that a skeleton's joints have, compared as in `arrange`; None if these are not its joints."""
    if tuple(joints) == skeleton.joints:
        return tuple(range(len(joints)))
    if len(joints) != len(skeleton):
        return None
    numbers = {_plain(alias): number for alias, number in skeleton.aliases}
    numbers |= {_plain(joint): number for number, joint in enumerate(skeleton.joints)}
    place = {numbers.get(_plain(joint)): number for number, joint in enumerate(joints)}
    if None in place or len(place) != len(joints):
        return None
    return tuple(place[joint] for joint in range(len(joints)))


def _plain(joint: str) -> str:
    return " ".join(SIDES.get(word, word) for word in split_words(joint))
