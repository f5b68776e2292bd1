"""Several teachers as one, whose maps are the mean of theirs: paid for once, a store may be better than any of them.

teacher = ensemble([load_teacher("hrnet_w32", "a.pth", ...), load_teacher("hrnet_w48_384x288", "b.pth", ...)])

All see the same region, each at its own input size; the maps are those of the first one's grid.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from kdlib.geometry import scale_affine
from kdlib.heatmaps import flip_average
from kdlib.resample.maps import warp_heatmaps
from precompute.data.crops import Crops
from precompute.data.views import ViewPlan
from precompute.errors import PrecomputeError
from precompute.teacher.loading import ONNX, Teacher, mirror

_EQUAL = ("joints", "normalisation", "colour_order")


def parse_member(text: str) -> tuple[str, Path | None]:
    """`NAME=CHECKPOINT` or `onnx:FILE`, as on the command line: the arguments `load_teacher` needs."""
    name, _, checkpoint = (text, "", "") if text.startswith(ONNX) else text.partition("=")
    return name, Path(checkpoint) if checkpoint else None


def ensemble(teachers: Sequence[Teacher]) -> Teacher:
    """One teacher of several that look at the same regions and speak of the same joints.

    Returns:
        A teacher of the first one's sizes, which `precompute.teacher.ensemble.teacher_maps` asks: maps (B, V, K, h, w) are the
        `mean_maps` of the `members`. Its sha256 is that of the members' digests, one after the other in hexadecimal.

    Raises:
        PrecomputeError: If members differ in the proportions of their input, in joints, or in what they expect of a
            crop.
    """
    first = teachers[0]
    for other in teachers[1:]:
        _refuse_strange(first, other)
    digests = "".join(teacher.weights_sha256 for teacher in teachers)
    return replace(
        first,
        name=" + ".join(teacher.name for teacher in teachers),
        weights_sha256=hashlib.sha256(digests.encode()).hexdigest(),
        precision=" + ".join(dict.fromkeys(teacher.precision for teacher in teachers)),
        network=_of_no_one_size,
        parameters=_sum([teacher.parameters for teacher in teachers]),
        multiply_adds=_sum([teacher.multiply_adds for teacher in teachers]),
        members=tuple(teachers),
    )


def mean_maps(maps: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The float32 mean of maps (..., K, h, w), those of another grid than the first ones' resampled onto theirs."""
    rows, columns = maps[0].shape[-2:]
    return np.mean([_onto_grid(some, (columns, rows)) for some in maps], axis=0, dtype=np.float32)


def _onto_grid(maps: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Maps (..., K, h, w) of a region, bilinearly at the pixels of its maps of another size (width, height).

    Pixel u of either lies at u strides of its network's input, and the inputs differ by a factor: so do the pixels.
    """
    *before, joints, rows, columns = maps.shape
    if (columns, rows) == size:
        return maps
    scaled = scale_affine(size[0] / columns)
    planes = maps.reshape(-1, joints, rows, columns).transpose(0, 2, 3, 1)
    planes = np.pad(planes, ((0, 0), (0, 1), (0, 1), (0, 0)), "edge")  # the finer grid ends half a pixel further out
    resampled = np.stack([warp_heatmaps(plane, scaled, size) for plane in planes])
    return resampled.transpose(0, 3, 1, 2).reshape(*before, joints, size[1], size[0])


def _refuse_strange(first: Teacher, other: Teacher) -> None:
    pair = f"{first.name} and {other.name} cannot be averaged"
    (width, height), (other_width, other_height) = first.input_size, other.input_size
    if width * other_height != other_width * height:
        raise PrecomputeError(
            f"{pair}, their crops have other proportions: {height}x{width} and {other_height}x{other_width} (height x "
            "width). All must see the same region: give members of one ratio, e.g. 256x192 and 384x288"
        )
    differing = [name for name in _EQUAL if getattr(other, name) != getattr(first, name)]
    if differing:
        raise PrecomputeError(
            f"{pair}, they differ in "
            + "; ".join(f"{name}: {getattr(first, name)} and {getattr(other, name)}" for name in differing)
        )


def _of_no_one_size(crops: NDArray[np.uint8]) -> NoReturn:
    raise ValueError(
        f"an ensemble takes crops by input size, got {crops.shape}: ask precompute.teacher.ensemble.teacher_maps"
    )


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def teacher_maps(teacher: Teacher, crops: Crops, plan: ViewPlan) -> NDArray[np.float32]:
    """Maps of every view, (B, V, K, h, w), of crops (B, V, H, W, 3) at the teacher's input sizes."""
    if teacher.members:
        return mean_maps([teacher_maps(member, crops, plan) for member in teacher.members])
    return _own_maps(teacher, crops[teacher.input_size], plan)


def _own_maps(teacher: Teacher, crops: NDArray[np.uint8], plan: ViewPlan) -> NDArray[np.float32]:
    maps = np.stack([teacher(crops[:, v]) for v in range(crops.shape[1])], axis=1)
    if plan.flip_test:
        mirrored = np.stack([teacher(mirror(crops[:, v])) for v in range(crops.shape[1])], axis=1)
        maps = flip_average(maps, mirrored)
    return maps
