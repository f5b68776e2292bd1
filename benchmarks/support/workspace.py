"""What the benchmarks measure on, made once a run in a temporary folder: people, precompute jobs and stores.

People are the embedded sample's. Lines from real COCO photographs are added where `../shared/data` lies beside the
repository (data/README.md there says what it is); nothing else depends on it.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any, Self

import cache
from benchmarks.support.effort import Effort
from benchmarks.support.synthetic import synthetic_teacher
from cache.commands.convert import convert_store
from precompute.data.crops import Cropper
from precompute.data.folder import Split, find_split
from precompute.data.selection import Selection, select
from precompute.data.views import BY_DEFAULT, ViewPlan, plan_geometry
from precompute.run.job import Job
from precompute.run.provenance import describe
from precompute.run.store import create_writer, fill
from precompute.sample.dataset import write_sample
from precompute.sample.spec import SampleSpec
from precompute.teacher.loading import Teacher

ROOT = Path(__file__).resolve().parents[2]
SHARED_DATA = ROOT.parent / "shared" / "data"


@dataclasses.dataclass(frozen=True)
class People:
    """Persons and the folder of their images."""

    split: Split
    selection: Selection


class Workspace:
    """Inputs of the benchmarks, each made when it is first asked for.

    Args:
        folder: For everything that is made.
        effort: How many persons a store has.
        sample: The embedded sample; a small one is drawn where there is none.
        shared: Real photographs and the ONNX teacher, or a folder that does not exist.
    """

    def __init__(
        self, folder: Path, effort: Effort, sample: Path = ROOT / "data" / "sample", shared: Path = SHARED_DATA
    ) -> None:
        self.folder, self.effort, self._sample, self._shared = folder, effort, sample, shared

    @property
    def sources(self) -> list[str]:
        """Which people there are: ``sample``, and ``coco`` where its photographs are present."""
        return ["sample"] + (["coco"] if (self._shared / "coco_real").is_dir() else [])

    @property
    def onnx_teacher(self) -> Path:
        """The real network that belongs to ``coco``."""
        return self._shared / "weights" / "ultralight_simplepose_256x192.onnx"

    def people(self, source: str, count: int) -> People:
        """The first persons of a source, fewer where it has fewer."""
        folder = self._shared / "coco_real" if source == "coco" else self._sample_folder()
        split = find_split(folder, "train")
        return People(split, select(split, limit=count, skip_missing=True))

    def _sample_folder(self) -> Path:
        if (self._sample / "annotations").is_dir():
            return self._sample
        drawn = self.folder / "sample"
        if not drawn.exists():
            write_sample(drawn, SampleSpec(train=self.effort.instances, val=8), workers=os.cpu_count() or 1)
        return drawn

    def store(self, source: str, input_size: tuple[int, int], views: ViewPlan = BY_DEFAULT, form: str = "zarr") -> Any:
        """A store of ``effort.instances`` persons as a teacher of that input size (width, height) would leave it.

        Frames, affines and truth are the persons', the maps are `synthetic`. ``form`` is ``zarr`` or ``h5``.
        """
        assert views.count == 1 or not views.flip_test, "the synthetic teacher flips one view"  # noqa: S101
        kind = f"{views.count}{'-flip-test' if views.flip_test else ''}"
        path = self.folder / f"{source}-{input_size[1]}x{input_size[0]}-{kind}.{form}"
        if not path.exists() and form == "h5":
            convert_store(self.store(source, input_size, views).path, path)
        elif not path.exists():
            people = self.people(source, self.effort.instances)
            precompute = Precompute.plan(people, synthetic_teacher(input_size, flip_test=views.flip_test), views=views)
            writer = precompute.begin(path)
            fill(precompute.job, writer)
            writer.publish()
        return cache.open_store(path)


@dataclasses.dataclass(frozen=True)
class Precompute:
    """A precompute run, as ``python -m precompute`` sets it up."""

    job: Job
    provenance: dict[str, Any]

    @classmethod
    def plan(cls, people: People, teacher: Teacher, batch_size: int = 32, views: ViewPlan = BY_DEFAULT) -> Self:
        """The run of a teacher over people."""
        split, chosen = people.split, people.selection
        geometry = plan_geometry(chosen.persons, teacher.input_size, views)
        cropper = Cropper(split.images, chosen.persons, geometry, teacher.input_sizes, frames=True)
        threads = min(16, os.cpu_count() or 1)
        job = Job(teacher, chosen.persons, chosen.ground_truth, cropper, geometry, views, batch_size, threads)
        provenance = describe(
            teacher,
            annotations=split.annotations,
            boxes=None,
            split="train",
            selection=chosen.summary,
            plan=views,
            frame_size=geometry.frame_size,
        )
        return cls(job, provenance)

    def begin(self, path: Path) -> Any:
        """A writer for the run's store."""
        return create_writer(
            self.job, path, cache.RootCodec(), self.provenance, frames=True, resume=False, overwrite=True
        )
