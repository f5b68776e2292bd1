"""The job of one run: a teacher, its instances, and how they are cut out of their images."""

import argparse
import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

import cache
import cache.format.spec
from cache.writing.staging import read_plan, staging_path
from kdcli.progress import say
from kdlib.geometry import parse_size
from kdlib.inputs.annotations import Instances
from kdlib.inputs.notices import Notices
from kdlib.inputs.orientation import ExifRule
from kdlib.skeletons.reading import load_skeleton
from kdlib.skeletons.skeleton import Skeleton
from precompute.data.crops import Cropper, Crops
from precompute.data.folder import Split, choose_split
from precompute.data.selection import Selection, select
from precompute.data.views import Geometry, ViewPlan, plan_geometry
from precompute.errors import PrecomputeError
from precompute.run.batching import (
    DEFAULT_BATCHING,
    Batching,
    Measurement,
    capture,
    choose_batching,
    gpu_of,
    is_captured,
)
from precompute.run.provenance import describe
from precompute.run.team import (
    SingleProcess,
    Team,
    is_restarted,
    local_rank_and_size,
    own_device,
    own_threads,
    processes_per_gpu,
)
from precompute.teacher.ensemble import load_teachers, parse_member
from precompute.teacher.joints import JointFlags
from precompute.teacher.loading import ONNX, Teacher, check_name
from precompute.teacher.onnx import OnnxNetwork, choose_provider, gpu_unused
from precompute.teacher.onnx_io import OnnxFlags

CHECKED = 8
"""Crops on which the values of an ONNX teacher are checked before the run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that one run needs. Row i of instances, cropper and geometry is the same instance."""

    teacher: Teacher
    instances: Instances
    ground_truth: Instances
    cropper: Cropper
    geometry: Geometry
    plan: ViewPlan
    batch_size: int
    threads: int
    """Threads that read images, and threads that encode heatmaps."""
    provenance: dict[str, Any]
    """The manifest's entry `provenance`, made by `precompute.run.provenance.describe`."""
    skip_missing: bool = False
    """Leave out instances whose image cannot be read, instead of ending the run."""
    notices: Notices = dataclasses.field(default_factory=Notices)
    """What was changed or left out; printed at the end and written to the manifest. Threads may add to it."""
    annotations: bytes | None = None
    """The annotation file in COCO's format, if the data set has another format; it is written beside the store."""

    @classmethod
    def from_flags(cls, arguments: argparse.Namespace, team: SingleProcess | Team | None = None) -> Self:
        """Read the data and load the teacher that the flags of `precompute.run.flags` describe.

        Args:
            arguments: The flags.
            team: The processes of the run, which batch their instances alike; None for this process alone.

        Raises:
            PrecomputeError: If the flags contradict each other or do not fit the data.
            ValueError: If a teacher's name, a size, a checkpoint or an annotation file cannot be used.
        """
        members = [(arguments.teacher, arguments.checkpoint), *map(parse_member, arguments.ensemble)]
        for name, _ in members:
            check_name(name)  # before the annotations are read, which takes time
        provider = _choose_provider(arguments, [name for name, _ in members])
        if local_rank_and_size()[0] == 0:
            for line in gpu_unused(arguments.onnx_provider, provider):
                say(f"warning: {line}")
        return cls.from_data(arguments, lambda skeleton: _load(arguments, members, provider, skeleton), team)

    @classmethod
    def from_data(
        cls,
        arguments: argparse.Namespace,
        load: Callable[[Skeleton], Teacher],
        team: SingleProcess | Team | None = None,
    ) -> Self:
        """Read the data that the flags describe, then load the teacher.

        Args:
            arguments: The flags; `skeleton` may also be a `Skeleton`.
            load: Loads the teacher, from the joints of the data.
            team: The processes of the run, which batch their instances alike; None for this process alone.

        Raises:
            PrecomputeError: If the flags contradict each other or do not fit the data.
            ValueError: If a size or an annotation file cannot be used.
        """
        skeleton = _wanted_skeleton(arguments.skeleton)
        paths = (arguments.data, arguments.split, arguments.images, arguments.annotations)
        split = choose_split(*paths, skeleton, arguments.category)
        selection = select(
            split,
            boxes=arguments.boxes,
            unlabelled=arguments.unlabelled,
            limit=arguments.limit,
            skip_missing=arguments.skip_missing,
            exif=choose_exif(arguments),
            category=arguments.category,
            skeleton=skeleton,
        )
        if local_rank_and_size()[0] == 0:
            for line in selection.notices.warnings:
                say(f"warning: {line}")
        teacher = load(selection.skeleton)
        _report(teacher, selection.notices)
        flip_test = arguments.views is None if arguments.flip_test is None else arguments.flip_test
        plan = ViewPlan(arguments.views or 1, flip_test=flip_test, seed=arguments.seed)
        batching = _agree_on_batching(arguments, teacher, plan, len(selection.instances), team or SingleProcess())
        job = cls.plan_run(
            teacher,
            split,
            selection,
            plan,
            batching=batching,
            split_name=arguments.split,
            boxes=arguments.boxes,
            frames=not arguments.no_frames,
            frame_scale=arguments.frame_scale,
            skip_missing=arguments.skip_missing,
            threads=arguments.threads,
        )
        _check_values(job)
        return job

    @classmethod
    def plan_run(  # noqa: PLR0913 - everything that determines a store
        cls,
        teacher: Teacher,
        split: Split,
        selection: Selection,
        plan: ViewPlan,
        *,
        batching: Batching = DEFAULT_BATCHING,
        split_name: str = "train",
        boxes: Path | None = None,
        frames: bool = True,
        frame_scale: float = 1.0,
        skip_missing: bool = False,
        threads: int | None = None,
    ) -> Self:
        """Plan the run of a teacher over selected instances.

        Args:
            teacher: The teacher.
            split: Where the images and annotations are.
            selection: The instances of the split.
            plan: The stored views.
            batching: How the instances are batched; if it has a graph, the teacher has recorded its passes.
            split_name: Name of the split in the manifest.
            boxes: The file with detections from which the selection was made, or None.
            frames: Whether the store holds frames.
            frame_scale: Frame pixels per teacher input pixel.
            skip_missing: Leave out instances whose image cannot be read, instead of ending the run.
            threads: Threads that read images, and threads that encode heatmaps; None takes one per core.
        """
        grid = teacher.heatmap_size if teacher.udp else None
        geometry = plan_geometry(selection.instances, teacher.input_size, plan, frame_scale, grid)
        provenance = describe(
            teacher,
            annotations=split.annotations,
            boxes=boxes,
            split=split_name,
            selection=selection.summary,
            plan=plan,
            frame_size=geometry.frame_size,
            orientations=selection.orientations,
            batching=batching if gpu_of(teacher) else None,
            converted_sha256=None if split.converted is None else split.converted.sha256,
        )
        return cls(
            teacher=teacher,
            instances=selection.instances,
            ground_truth=selection.ground_truth,
            cropper=Cropper(split.images, selection.instances, geometry, teacher.input_sizes, frames, selection.exif),
            geometry=geometry,
            plan=plan,
            batch_size=batching.size,
            threads=threads or own_threads(),
            provenance=provenance,
            skip_missing=skip_missing,
            notices=selection.notices,
            annotations=None if split.converted is None else split.converted.content,
        )


def _load(
    arguments: argparse.Namespace, members: Sequence[tuple[str, Path | None]], provider: str, skeleton: Skeleton
) -> Teacher:
    """Load the teachers that the flags name, for data with these joints."""
    return load_teachers(
        members,
        parse_size(arguments.input_size) if arguments.input_size else None,
        own_device(arguments.device),
        arguments.precision,
        provider,
        skeleton,
        joints=JointFlags(arguments.teacher_skeleton, arguments.joints_from_teacher),
        onnx=_onnx_flags(arguments, [name for name, _ in members]),
        udp=arguments.udp,
        expert=arguments.expert,
    )


def _wanted_skeleton(given: str | Skeleton | None) -> Skeleton | None:
    """The joints that the annotations must have; None for any."""
    return load_skeleton(given) if isinstance(given, str) else given


def choose_exif(arguments: argparse.Namespace) -> ExifRule | str | None:
    """What to do with EXIF orientations: ``--exif``; without it, the rule of the store that is resumed or checked.

    Returns:
        A value for `precompute.data.selection.select`.
    """
    if arguments.exif is not None:
        return str(arguments.exif)
    provenance = _continued(arguments)
    return "auto" if provenance is None else ExifRule.from_provenance(provenance)


def _onnx_flags(arguments: argparse.Namespace, names: Sequence[str]) -> OnnxFlags:
    """The flags about the input and output of ONNX files, for the teachers of these names."""
    flags = OnnxFlags(arguments.mean, arguments.std, arguments.bgr, arguments.activation)
    given = [f"--{field.name}" for field in dataclasses.fields(flags) if getattr(flags, field.name)]
    if given and not any(name.startswith(ONNX) for name in names):
        raise PrecomputeError(
            f"{given[0]} is for ONNX teachers, and {' + '.join(names)} is none: their pixels and heatmaps are known; "
            "leave it out"
        )
    return flags


def _check_values(job: Job) -> None:
    """Raise `CheckpointError` if an ONNX file computes something else than heatmaps, on some crops of the data."""
    networks = [(m.crop_kind, m.network) for m in job.teacher.members or (job.teacher,)]
    onnx = [(kind, network) for kind, network in networks if isinstance(network, OnnxNetwork)]
    crops = sample_crops(job) if onnx else {}
    for kind, network in onnx if crops else []:
        network.check_values(crops[kind])


def sample_crops(job: Job) -> Crops:
    """The crops (B, H, W, 3) of some instances of the data, by their kind; none if no image can be read."""
    rows = np.unique(np.linspace(0, len(job.instances) - 1, CHECKED).astype(int)).tolist()
    prepared = [job.cropper.prepare([row])[0] for row in rows]
    usable = [item.crops for item in prepared if item.problem is None]
    return {kind: np.stack([crops[kind][0] for crops in usable]) for kind in (usable[0] if usable else ())}


def _report(teacher: Teacher, notices: Notices) -> None:
    """Warn about what slows a teacher or could not be checked, and notice heatmaps that change their order."""
    for member in teacher.members or (teacher,):
        lines = [member.taken.warning]
        if member.crop_by_crop:
            lines.append(
                f"{member.name} runs crop by crop, which is slower: {member.crop_by_crop}; export it again in "
                "evaluation mode, with a free batch size"
            )
        for line in lines if local_rank_and_size()[0] == 0 else []:
            if line:
                say(f"warning: {line}")
        if member.taken.is_reordered:
            notices.add("teachers with the joints in another order, reordered by name", member.name)


def _choose_provider(arguments: argparse.Namespace, names: Sequence[str]) -> str:
    """What runs the ONNX files among the teachers of these names."""
    if any(name.startswith(ONNX) for name in names):
        return choose_provider(arguments.onnx_provider, arguments.device)
    if arguments.onnx_provider != "auto":
        raise PrecomputeError(
            f"--onnx-provider {arguments.onnx_provider} is for ONNX teachers, and {' + '.join(names)} is none; leave "
            f"it out, or give --teacher {ONNX}FILE"
        )
    return "auto"


def _agree_on_batching(
    arguments: argparse.Namespace, teacher: Teacher, plan: ViewPlan, instances: int, team: SingleProcess | Team
) -> Batching:
    """How all processes batch their instances: as the store that is resumed or checked, or as rank 0 chooses."""

    def choose() -> dict[str, Any]:
        gpu = gpu_of(teacher)
        measurement = None
        is_alone = arguments.share is not None and arguments.batch_size == "auto"  # others could choose another size
        if gpu is not None and arguments.check is None and not is_alone:  # a check has batches of its own
            measurement = Measurement(
                teacher, plan, lambda: int(torch.cuda.mem_get_info(gpu)[0]), processes=processes_per_gpu()
            )
        most = min(instances, cache.format.spec.default_shard_instances(instances))
        recorded = Batching.from_provenance(_continued(arguments))
        wanted = None if arguments.batch_size == "auto" else arguments.batch_size
        if measurement is not None and wanted is None and recorded is None:
            say(f"measuring batch sizes on {gpu}")
        return choose_batching(wanted, most=most, recorded=recorded, measurement=measurement).to_json()

    batching = Batching.from_json(team.agree(choose))
    if batching.graph and arguments.check is None and not is_captured(teacher):
        capture(teacher, plan, batching.size)
    return batching


def _continued(arguments: argparse.Namespace) -> Any:
    """The provenance of the store that is resumed or checked, finished or not; None if there is none.

    A store that cannot be read has none either: the run itself reports it.
    """
    if arguments.check is None and (arguments.overwrite or not (arguments.resume or is_restarted())):
        return None
    with contextlib.suppress(cache.StoreError):
        return cache.open_store(arguments.store).manifest["provenance"]
    with contextlib.suppress(cache.StoreError):
        return read_plan(staging_path(arguments.store)).get("provenance")
    return None
