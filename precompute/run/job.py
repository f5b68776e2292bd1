"""The job of one run: a teacher, its instances, and how they are cut out of their images."""

import argparse
import contextlib
import dataclasses
from pathlib import Path
from typing import Any, Self

import cache
from cache.writing.staging import read_plan, staging_path
from kdcli.progress import say
from kdlib.geometry import parse_size
from kdlib.inputs.annotations import Instances
from kdlib.inputs.notices import Notices
from kdlib.inputs.orientation import ExifRule
from kdlib.machine.process import available_cores
from precompute.data.crops import Cropper
from precompute.data.folder import Split, choose_split
from precompute.data.selection import Selection, select
from precompute.data.views import Geometry, ViewPlan, plan_geometry
from precompute.run.provenance import describe
from precompute.run.team import is_restarted, local_rank_and_size, own_device
from precompute.teacher.ensemble import load_teachers, parse_member
from precompute.teacher.loading import Teacher, check_name

MAX_THREADS = 16


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

    @classmethod
    def from_flags(cls, arguments: argparse.Namespace) -> Self:
        """Read the data and load the teacher that the flags of `precompute.run.flags` describe.

        Raises:
            PrecomputeError: If the flags contradict each other or do not fit the data.
            ValueError: If a teacher's name, a size, a checkpoint or an annotation file cannot be used.
        """
        members = [(arguments.teacher, arguments.checkpoint), *map(parse_member, arguments.ensemble)]
        for name, _ in members:
            check_name(name)  # before the annotations are read, which takes time
        split = choose_split(arguments.data, arguments.split, arguments.images, arguments.annotations)
        selection = select(
            split,
            boxes=arguments.boxes,
            unlabelled=arguments.unlabelled,
            limit=arguments.limit,
            skip_missing=arguments.skip_missing,
            exif=choose_exif(arguments),
        )
        if local_rank_and_size()[0] == 0:
            for line in selection.notices.warnings:
                say(f"warning: {line}")
        size = parse_size(arguments.input_size) if arguments.input_size else None
        teacher = load_teachers(members, size, own_device(arguments.device), arguments.precision)
        for member in teacher.members or (teacher,):
            if member.crop_by_crop and local_rank_and_size()[0] == 0:
                say(
                    f"warning: {member.name} runs crop by crop, which is slower: {member.crop_by_crop}; export it "
                    "again in evaluation mode, with a free batch size"
                )
        flip_test = arguments.views is None if arguments.flip_test is None else arguments.flip_test
        return cls.plan_run(
            teacher,
            split,
            selection,
            ViewPlan(arguments.views or 1, flip_test=flip_test, seed=arguments.seed),
            batch_size=arguments.batch_size,
            split_name=arguments.split,
            boxes=arguments.boxes,
            frames=not arguments.no_frames,
            frame_scale=arguments.frame_scale,
            skip_missing=arguments.skip_missing,
            threads=arguments.threads,
        )

    @classmethod
    def plan_run(  # noqa: PLR0913 - everything that determines a store
        cls,
        teacher: Teacher,
        split: Split,
        selection: Selection,
        plan: ViewPlan,
        *,
        batch_size: int = 32,
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
            batch_size: Instances per batch.
            split_name: Name of the split in the manifest.
            boxes: The file with detections from which the selection was made, or None.
            frames: Whether the store holds frames.
            frame_scale: Frame pixels per teacher input pixel.
            skip_missing: Leave out instances whose image cannot be read, instead of ending the run.
            threads: Threads that read images, and threads that encode heatmaps; None takes one per core.
        """
        geometry = plan_geometry(selection.instances, teacher.input_size, plan, frame_scale)
        provenance = describe(
            teacher,
            annotations=split.annotations,
            boxes=boxes,
            split=split_name,
            selection=selection.summary,
            plan=plan,
            frame_size=geometry.frame_size,
            orientations=selection.orientations,
        )
        return cls(
            teacher=teacher,
            instances=selection.instances,
            ground_truth=selection.ground_truth,
            cropper=Cropper(split.images, selection.instances, geometry, teacher.input_sizes, frames, selection.exif),
            geometry=geometry,
            plan=plan,
            batch_size=batch_size,
            threads=threads or max(1, min(MAX_THREADS, available_cores() // local_rank_and_size()[1])),
            provenance=provenance,
            skip_missing=skip_missing,
            notices=selection.notices,
        )


def choose_exif(arguments: argparse.Namespace) -> ExifRule | str | None:
    """What to do with EXIF orientations: ``--exif``; without it, the rule of the store that is resumed or checked.

    Returns:
        A value for `precompute.data.selection.select`.
    """
    if arguments.exif is not None:
        return str(arguments.exif)
    continues = arguments.check is not None or ((arguments.resume or is_restarted()) and not arguments.overwrite)
    provenance = _find_provenance(arguments.store) if continues else None
    return "auto" if provenance is None else ExifRule.from_provenance(provenance)


def _find_provenance(path: Path) -> Any:
    """The provenance of a store, finished or not; None if it cannot be read, which the run itself reports."""
    with contextlib.suppress(cache.StoreError):
        return cache.open_store(path).manifest["provenance"]
    with contextlib.suppress(cache.StoreError):
        return read_plan(staging_path(path)).get("provenance")
    return None
