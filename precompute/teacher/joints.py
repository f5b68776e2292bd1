"""Which of a teacher's heatmaps are the joints of the data: the agreement of the two, by name where names are known.

    agreement = agree("hrnet_w48", 133, load_skeleton("coco_wholebody"), COCO, JointFlags(taken=(DATA,)))
    agreement.order                 # (0, 1, ..., 16): the heatmaps of the network that the store keeps
    agreement.own.flip_order        # the flip test swaps the network's own joints, before the cut

Every kind of teacher calls `agree` once, with the number of heatmaps that its network computes and the skeleton that
its file states, if it states one.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kdcli.words import did_you_mean
from kdlib.skeletons.reading import ENTRY, arrange, built_in_names, find_joint, load_skeleton, numbered
from kdlib.skeletons.skeleton import COCO, Skeleton, side_of
from precompute.teacher.weights_file import CheckpointError

DATA: Final = "data"
"""Stands for the joints of the data in `--teacher-skeleton` and `--joints-from-teacher`."""
SHOWN: Final = 5
"""Names that a message lists; it counts the others."""


@dataclass(frozen=True)
class JointFlags:
    """What the user states about a teacher's joints."""

    teacher: str = ""
    """`--teacher-skeleton`: a built-in name, a TOML file, or `DATA`; empty takes what the teacher's file states."""
    taken: tuple[str, ...] = ()
    """`--joints-from-teacher`: names of the teacher's joints, ``JOINT_OF_THE_DATA=JOINT_OF_THE_TEACHER`` where the
    names differ, or `DATA`; empty takes all joints."""


AS_STATED: Final = JointFlags()
"""No flag: the joints are those that the teacher's file states."""


@dataclass(frozen=True)
class Agreement:
    """The heatmaps of a network that are the joints of the data."""

    own: Skeleton
    """The joints of all heatmaps of the network. The flip test swaps these, before the cut."""
    order: tuple[int, ...]
    """K numbers: joint k of the data is the network's heatmap ``order[k]``."""
    warning: str = ""
    """What could not be checked; empty if everything was."""

    @classmethod
    def whole(cls, skeleton: Skeleton) -> "Agreement":
        """That of a network which computes exactly the joints of the data, in their order."""
        return cls(skeleton, tuple(range(len(skeleton))))

    @property
    def is_whole(self) -> bool:
        """Whether all heatmaps are taken in the order of the network."""
        return self.order == tuple(range(len(self.own)))

    @property
    def is_reordered(self) -> bool:
        """Whether the network has the joints of the data in another order."""
        return self.order != tuple(sorted(self.order))

    @property
    def names(self) -> list[str]:
        """The network's names of the K joints."""
        return [self.own.joints[joint] for joint in self.order]

    def take(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """The heatmaps (..., K, h, w) of the data's joints from all heatmaps of the network."""
        return maps if self.is_whole else np.ascontiguousarray(maps[..., list(self.order), :, :])

    def to_json(self) -> dict[str, Any]:
        """The entry of the manifest; empty if all heatmaps are taken in the order of the network."""
        if self.is_whole:
            return {}
        return {"joints": {"skeleton": self.own.name, "of": len(self.own), "taken": self.names}}


def agree(teacher: str, maps: int, stated: Skeleton | None, data: Skeleton, flags: JointFlags = AS_STATED) -> Agreement:
    """Find the joints of the data among the heatmaps of a teacher.

    17 heatmaps without names are COCO's joints. Other heatmaps without names are taken for the joints of the data if
    their number agrees, with a warning.

    Args:
        teacher: Name of the teacher, for messages.
        maps: Number of heatmaps that its network computes.
        stated: The joints that its file states; None if it states none.
        data: The joints of the data.
        flags: What the user states about the teacher's joints.

    Raises:
        CheckpointError: If the teacher does not predict the joints of the data, or predicts more and no flag cuts them;
            if the flags do not fit the teacher, or exchange left and right for some of the joints only; or if other
            joints swap in a mirrored image. The message names the first difference and the flag that mends it.
        SkeletonError: If the flag names no skeleton.
    """
    own = _own(teacher, maps, stated, data, flags)
    if own is None:
        return _agree_on_number(teacher, maps, data, flags)
    if len(own) == len(data) and not flags.taken and _is_numbered(data):
        agreement = Agreement(own, tuple(range(maps)), _unchecked(teacher, own.name, data))
    else:
        agreement = Agreement(own, _order(teacher, own, data, flags, is_assumed=stated is None and not flags.teacher))
    _check_flips(teacher, agreement, data)
    _check_sides(agreement, data)
    return agreement


def given_skeleton(flags: JointFlags, data: Skeleton) -> Skeleton | None:
    """The joints of `--teacher-skeleton`; None without it. Raises `SkeletonError` if there is no such skeleton."""
    if not flags.teacher:
        return None
    return data if flags.teacher == DATA else load_skeleton(flags.teacher)


def stated_in(metadata: Mapping[str, str], maps: int, where: str) -> Skeleton | None:
    """The joints that the metadata of an ONNX file states; None if it names none.

    Args:
        metadata: Its entries. ``skeleton`` holds `Skeleton.to_json` as JSON; ``joints`` holds a JSON list of names, or
            names between commas. Files of `python -m train export` have both, or, for COCO's joints, only ``joints``.
            Entries of another form are ignored.
        maps: Number of heatmaps.
        where: The file, for messages.

    Raises:
        CheckpointError: If ``skeleton`` has another number of joints.
        SkeletonError: If ``skeleton`` or ``joints`` names a joint twice.
    """
    for entry in (ENTRY, "joints"):
        try:
            found = json.loads(metadata.get(entry, "null"))
        except ValueError:
            found = [name.strip() for name in metadata[entry].split(",")]
        if isinstance(found, dict) and "joints" in found:
            skeleton = Skeleton.from_json(found, f"{where}: {entry}")
            if len(skeleton) != maps:
                raise CheckpointError(f"{where} computes {maps} heatmaps; its metadata names {len(skeleton)} joints")
            return skeleton
        if isinstance(found, list) and len(found) == maps and all(isinstance(name, str) and name for name in found):
            return from_names(found, Path(where).name)
    return None


def from_names(joints: Sequence[str], name: str) -> Skeleton:
    """The skeleton of a teacher that states the names of its joints; a built-in one if these are its joints."""
    arranged = arrange(joints, name=name)
    if not arranged.is_reordered:
        return arranged.skeleton
    return arranged.skeleton.select(np.argsort(arranged.order).tolist(), name)


def _own(teacher: str, maps: int, stated: Skeleton | None, data: Skeleton, flags: JointFlags) -> Skeleton | None:
    """The joints of all heatmaps: those of the flag, of the file, or COCO's; None if their names are not known."""
    given = given_skeleton(flags, data)
    if given is not None:
        if len(given) != maps:
            raise CheckpointError(
                f"{teacher} computes {maps} heatmaps per instance, and --teacher-skeleton {flags.teacher} has "
                f"{len(given)} joints"
            )
        return given
    return COCO if stated is None and maps == len(COCO) else stated


def _agree_on_number(teacher: str, maps: int, data: Skeleton, flags: JointFlags) -> Agreement:
    """The agreement with a teacher whose joints have no names."""
    if flags.taken or maps != len(data):
        fitting = [name for name in built_in_names() if len(load_skeleton(name)) == maps]
        likely = f", e.g. --teacher-skeleton {' or '.join(fitting)}" if fitting else ""
        raise CheckpointError(
            f"{teacher} computes {maps} heatmaps per instance without names of joints, and the data have the "
            f"{len(data)} joints of {data.name}; state the teacher's joints: --teacher-skeleton NAME or FILE.toml"
            f"{likely}"
        )
    return Agreement(data, tuple(range(maps)), _unchecked(teacher, "", data))


def _unchecked(teacher: str, skeleton: str, data: Skeleton) -> str:
    whose = f"the joints of {data.name}" if skeleton else f"the {len(data)} joints of {data.name}"
    return (
        f"the heatmaps of {teacher} are taken for {whose} in their order, which could not be checked: "
        f"{'the data' if skeleton else 'its file'} names no joints; to state them, give "
        f"{'--skeleton' if skeleton else '--teacher-skeleton'}"
    )


def _order(teacher: str, own: Skeleton, data: Skeleton, flags: JointFlags, *, is_assumed: bool) -> tuple[int, ...]:
    """The heatmap of each joint of the data, by name."""
    names = _taken(teacher, own, data, flags)
    found = [find_joint(name, own.joints) for name in names]
    if None in found:
        missing = data.joints[found.index(None)]
        raise CheckpointError(
            _assumed(teacher, own, data)
            if is_assumed
            else f"{teacher} does not predict the joint {missing!r} of the data: it predicts {_some(own.joints)} "
            f"({own.name}). {_remedy(own, data)}"
        )
    order = tuple(joint for joint in found if joint is not None)
    if len(own) > len(data) and not flags.taken:
        raise CheckpointError(
            f"{teacher} predicts {len(own)} joints ({own.name}), and the data have {len(data)} of them; cut them by "
            f"name: --joints-from-teacher {','.join(data.joints[:2])},... or --joints-from-teacher {DATA}"
        )
    return order


def _taken(teacher: str, own: Skeleton, data: Skeleton, flags: JointFlags) -> list[str]:
    """The teacher's name of each joint of the data, as the flag gives them; without it, the data's names."""
    if not flags.taken or flags.taken == (DATA,):
        return list(data.joints)
    names: list[str | None] = [None] * len(data)
    for entry in flags.taken:
        name, _, of_teacher = entry.partition("=")
        joint, theirs = find_joint(name, data.joints), of_teacher or name
        if joint is None or find_joint(theirs, own.joints) is None:
            known, whose = (data.joints, "the data") if joint is None else (own.joints, teacher)
            wrong = name if joint is None else theirs
            hint = did_you_mean(wrong, known, f"they are {_some(known)}")
            raise CheckpointError(f"--joints-from-teacher: {whose} has no joint {wrong!r}; {hint}")
        names[joint] = theirs
    if None in names:
        raise CheckpointError(
            f"--joints-from-teacher lacks the joint {data.joints[names.index(None)]!r} of the data; give every joint, "
            f"or --joints-from-teacher {DATA}"
        )
    found = [name for name in names if name is not None]
    places = [find_joint(name, own.joints) for name in found]
    twice = next((name for name, place in zip(found, places, strict=True) if places.count(place) > 1), None)
    if twice is not None:
        raise CheckpointError(
            f"--joints-from-teacher gives the joint {twice!r} of {teacher} to several joints of the data; each needs "
            "its own"
        )
    return found


def _assumed(teacher: str, own: Skeleton, data: Skeleton) -> str:
    """The message about heatmaps without names that are taken for COCO's, and data with other joints."""
    same = f"If they are the joints of the data in this order, give --teacher-skeleton {DATA}; otherwise state"
    return (
        f"{teacher} computes {len(own)} heatmaps without names of joints, which are taken for COCO's, and the data "
        f"have others: {data.difference(own)}. {same if len(own) == len(data) else 'State'} the teacher's joints: "
        "--teacher-skeleton NAME or FILE.toml"
    )


def _remedy(own: Skeleton, data: Skeleton) -> str:
    if len(own) >= len(data):
        return "If the names differ, give --joints-from-teacher JOINT_OF_THE_DATA=JOINT_OF_THE_TEACHER,..."
    return "Give a teacher of these joints, or --skeleton with those that the teacher predicts"


def _check_flips(teacher: str, agreement: Agreement, data: Skeleton) -> None:
    """Raise `CheckpointError` if teacher and data swap other joints in a mirrored image."""
    own, order = agreement.own, agreement.order
    for joint, place in enumerate(order):
        mirrored = int(own.flip_order[place])
        theirs = order.index(mirrored) if mirrored in order else joint
        ours = int(data.flip_order[joint])
        if theirs != ours and (mirrored in order or ours != joint):
            raise CheckpointError(
                f"in a mirrored image, {teacher} swaps {data.joints[joint]!r} with {data.joints[theirs]!r}, and the "
                f"data ({data.name}) with {data.joints[ours]!r}; correct flip_pairs in the file of --skeleton or "
                "--teacher-skeleton"
            )


def _check_sides(agreement: Agreement, data: Skeleton) -> None:
    """Raise `CheckpointError` if the flag takes some joints from the other side of the body, and some from the same.

    A teacher may call left what the data call right; then all joints that have a side are taken from the other one.
    """
    crossed: dict[bool, str] = {}
    for joint, name in enumerate(agreement.names):
        sides = {data.sides[joint], side_of(name)}
        if "mid" not in sides:
            crossed.setdefault(len(sides) > 1, f"{data.joints[joint]}={name}")
    if len(crossed) > 1:
        raise CheckpointError(
            f"--joints-from-teacher takes {crossed[True]} from the other side of the body, but {crossed[False]} from "
            "the same; correct one of them, or exchange all joints if the teacher's left is the data's right"
        )


def _is_numbered(skeleton: Skeleton) -> bool:
    """Whether the joints have numbers instead of names."""
    return skeleton.joints == numbered(len(skeleton)).joints


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
