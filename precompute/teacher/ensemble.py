"""Runs a teacher, or an ensemble of teachers whose heatmaps are averaged, on the crops of the stored views.

    teacher = ensemble([load_teacher("hrnet_w32", "a.pth", ...), load_teacher("hrnet_w48_384x288", "b.pth", ...)])
    maps = teacher_maps(teacher, crops, plan)

The crops of all members show the same region of the image, each at its own input size. The heatmaps have the first
member's size.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from kdlib.geometry import scale_affine
from kdlib.resample.maps import warp_heatmaps
from kdlib.skeletons.skeleton import COCO, Skeleton
from precompute.data.crops import Crops
from precompute.data.views import ViewPlan
from precompute.errors import PrecomputeError
from precompute.teacher.hf import HF
from precompute.teacher.joints import AS_STATED, JointFlags
from precompute.teacher.loading import ONNX, Teacher, load_teacher
from precompute.teacher.onnx_io import AS_USUAL, OnnxFlags
from precompute.teacher.passes import Pending

UNNAMED: Final[Any] = {"invalid": "ignore", "over": "ignore"}
"""numpy's warnings that are off: of a NaN or infinity in a heatmap, the caller names the instance."""
_EQUAL = ("joints",)


def parse_member(text: str) -> tuple[str, Path | None]:
    """Split `NAME=CHECKPOINT`, `onnx:FILE` or `hf:ORG/NAME` into the first two arguments of `load_teacher`."""
    name, _, checkpoint = (text, "", "") if text.startswith((ONNX, HF)) else text.partition("=")
    return name, Path(checkpoint) if checkpoint else None


def load_teachers(  # noqa: PLR0913 - as load_teacher
    members: Sequence[tuple[str, Path | None]],
    input_size: tuple[int, int] | None,
    device: str,
    precision: str,
    provider: str = "auto",
    skeleton: Skeleton = COCO,
    *,
    joints: JointFlags = AS_STATED,
    onnx: OnnxFlags = AS_USUAL,
    udp: bool = False,
    expert: str | None = None,
) -> Teacher:
    """Load one teacher, or an ensemble if there are several members.

    Args:
        members: (name, checkpoint) of each teacher, as `load_teacher` takes them.
        input_size: (width, height) of the first teacher's crops, or None. Its size is the default for the others.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        provider: What runs ONNX files: `auto`, `cpu`, `cuda` or `tensorrt`.
        skeleton: The joints of the data, which all teachers must predict.
        joints: What the user states about the teachers' joints.
        onnx: What the user states about the input and output of ONNX files.
        udp: The PyTorch networks and ONNX files were trained with UDP.
        expert: Name or number of the expert of the networks of transformers.

    Raises:
        CheckpointError: If a file is missing, does not hold the weights of such a teacher, or does not predict the
            joints of the data.
        DownloadError: If published weights cannot be downloaded.
        ValueError: If a name, size, device or precision is not available.
        PrecomputeError: If the teachers cannot be averaged.
    """
    (name, checkpoint), *others = members
    runs: dict[str, Any] = {"device": device, "precision": precision, "provider": provider}
    runs |= {"skeleton": skeleton, "joints": joints, "onnx": onnx, "udp": udp, "expert": expert}
    first = load_teacher(name, checkpoint, input_size=input_size, **runs)
    if not others:
        return first
    size = first.input_size
    loaded = [load_teacher(*other, default_size=size, **runs) for other in others]
    return ensemble([first, *loaded])


def ensemble(teachers: Sequence[Teacher]) -> Teacher:
    """Combine teachers whose crops show the same region and which predict the same joints.

    Returns:
        A teacher with the sizes of the first one, for `teacher_maps`; it cannot be called directly. Its sha256 is that
        of the members' hexadecimal digests, concatenated.

    Raises:
        PrecomputeError: If members differ in the aspect ratio of their input, or in joints.
    """
    first = teachers[0]
    for other in teachers[1:]:
        _check_compatible(first, other)
    digests = "".join(teacher.weights_sha256 for teacher in teachers)
    return replace(
        first,
        name=" + ".join(teacher.name for teacher in teachers),
        weights_sha256=hashlib.sha256(digests.encode()).hexdigest(),
        precision=" + ".join(dict.fromkeys(teacher.precision for teacher in teachers)),
        network=_refuse_single_size,
        parameters=_sum([teacher.parameters for teacher in teachers]),
        multiply_adds=_sum([teacher.multiply_adds for teacher in teachers]),
        members=tuple(teachers),
        crop_by_crop="",
        provider="",
        agreement=None,
        origin={},
    )


def teacher_maps(teacher: Teacher, crops: Crops, plan: ViewPlan) -> NDArray[np.float32]:
    """Compute the heatmaps (B, V, K, h, w) float32 of every view; the arguments are those of `launch_maps`."""
    return launch_maps(teacher, crops, plan)()


def launch_maps(teacher: Teacher, crops: Crops, plan: ViewPlan) -> Pending:
    """Start computing the heatmaps of every view; on a GPU, this returns at once.

    Args:
        teacher: A single teacher or an ensemble.
        crops: (B, V, H, W, 3) at each of the teacher's input sizes.
        plan: If it has the flip test, each heatmap is averaged with that of the mirrored crop.

    Returns:
        Waits for the heatmaps (B, V, K, h, w) float32.
    """
    with np.errstate(**UNNAMED):
        if not teacher.members:
            return teacher.launch(crops[teacher.input_sizes[0]], flip_test=plan.flip_test)
        pending = [launch_maps(member, crops, plan) for member in teacher.members]

    def wait() -> NDArray[np.float32]:
        with np.errstate(**UNNAMED):
            return mean_maps([of_member() for of_member in pending])

    return wait


def mean_maps(maps: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Average heatmaps (..., K, h, w) in float32; those of another size are resampled onto the grid of the first."""
    rows, columns = maps[0].shape[-2:]
    return np.mean([_onto_grid(some, (columns, rows)) for some in maps], axis=0, dtype=np.float32)


def _onto_grid(maps: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resample heatmaps (..., K, h, w) of a region bilinearly to another size (width, height).

    In both sizes, heatmap pixel u lies at input pixel u times the stride. Inputs and heatmaps differ by the same
    factor.
    """
    *before, joints, rows, columns = maps.shape
    if (columns, rows) == size:
        return maps
    scaled = scale_affine(size[0] / columns)
    planes = maps.reshape(-1, joints, rows, columns).transpose(0, 2, 3, 1)
    planes = np.pad(planes, ((0, 0), (0, 1), (0, 1), (0, 0)), "edge")  # the finer grid ends half a pixel further out
    resampled = np.stack([warp_heatmaps(plane, scaled, size) for plane in planes])
    return resampled.transpose(0, 3, 1, 2).reshape(*before, joints, size[1], size[0])


def _check_compatible(first: Teacher, other: Teacher) -> None:
    pair = f"{first.name} and {other.name} cannot be averaged"
    (width, height), (other_width, other_height) = first.input_size, other.input_size
    if width * other_height != other_width * height:
        raise PrecomputeError(
            f"{pair}: their crops have different aspect ratios, {height}x{width} and {other_height}x{other_width} "
            "(height x width). All members must see the same region: give one ratio, e.g. 256x192 and 384x288"
        )
    differing = [name for name in _EQUAL if getattr(other, name) != getattr(first, name)]
    if differing:
        raise PrecomputeError(
            f"{pair}: they differ in "
            + "; ".join(f"{name}: {getattr(first, name)} and {getattr(other, name)}" for name in differing)
        )


def _refuse_single_size(crops: NDArray[np.uint8]) -> NoReturn:
    raise ValueError(
        f"an ensemble takes crops by input size, got an array {crops.shape}: call "
        "precompute.teacher.ensemble.teacher_maps"
    )


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
