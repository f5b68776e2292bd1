"""Several teachers as one, whose maps are the mean of theirs: paid for once, a store may be better than any of them.

teacher = ensemble([load_teacher("hrnet_w32", "a.pth", ...), load_teacher("hrnet_w48", "b.pth", ...)])
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from precompute.errors import PrecomputeError
from precompute.teacher import ONNX, Teacher

_EQUAL = ("input_size", "heatmap_size", "joints", "normalisation", "colour_order")


def parse_member(text: str) -> tuple[str, Path | None]:
    """`NAME=CHECKPOINT` or `onnx:FILE`, as on the command line: the arguments `load_teacher` needs."""
    name, _, checkpoint = (text, "", "") if text.startswith(ONNX) else text.partition("=")
    return name, Path(checkpoint) if checkpoint else None


def ensemble(teachers: Sequence[Teacher]) -> Teacher:
    """One teacher of several that look at the same crops and speak of the same maps.

    Returns:
        A teacher whose maps (B, K, h, w) are the float32 mean of the members', and whose sha256 is that of the
        members' digests, one after the other in hexadecimal. Its `members` are theirs.

    Raises:
        PrecomputeError: If members differ in input or heatmap size, joints, or what they expect of a crop.
    """
    first = teachers[0]
    for other in teachers[1:]:
        differing = [name for name in _EQUAL if getattr(other, name) != getattr(first, name)]
        if differing:
            raise PrecomputeError(
                f"{first.name} and {other.name} cannot be averaged, they differ in "
                + "; ".join(f"{name}: {getattr(first, name)} and {getattr(other, name)}" for name in differing)
            )

    def mean_maps(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.mean([teacher(crops) for teacher in teachers], axis=0, dtype=np.float32)

    digests = "".join(teacher.weights_sha256 for teacher in teachers)
    return replace(
        first,
        name=" + ".join(teacher.name for teacher in teachers),
        weights_sha256=hashlib.sha256(digests.encode()).hexdigest(),
        precision=" + ".join(dict.fromkeys(teacher.precision for teacher in teachers)),
        network=mean_maps,
        parameters=_sum([teacher.parameters for teacher in teachers]),
        multiply_adds=_sum([teacher.multiply_adds for teacher in teachers]),
        members=tuple((teacher.name, teacher.weights_sha256) for teacher in teachers),
    )


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
