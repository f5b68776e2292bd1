"""Inputs of the benchmarks, made once per run in a temporary folder: people, precompute jobs and stores.

People are those of the embedded sample. If `../shared/data` (described in its README.md) exists beside the repository,
results on real COCO photographs are added; nothing else depends on it.
"""

import dataclasses
from pathlib import Path
from typing import Self

import cache
from benchmarks.support.effort import Effort
from benchmarks.support.synthetic import synthetic_teacher
from cache.commands.convert import convert_store
from kdlib.machine.process import available_cores
from precompute.data.folder import Split, find_split
from precompute.data.selection import Selection, select
from precompute.data.views import DEFAULT_PLAN, ViewPlan
from precompute.run.batching import Batching
from precompute.run.job import Job
from precompute.run.store import create_writer, fill
from precompute.sample.dataset import write_sample
from precompute.sample.spec import SampleSpec
from precompute.teacher.loading import Teacher

ROOT = Path(__file__).resolve().parents[2]
SHARED_DATA = ROOT.parent / "shared" / "data"


@dataclasses.dataclass(frozen=True)
class People:
    """A data split and the instances selected from it."""

    split: Split
    selection: Selection


class Workspace:
    """Inputs of the benchmarks, each made on first use.

    Args:
        folder: Temporary folder of all inputs.
        effort: Sizes of the inputs.
        sample: Folder of the embedded sample; if it does not exist, a small sample is drawn.
        shared: Folder of real photographs and the ONNX teacher; may not exist.
    """

    def __init__(
        self, folder: Path, effort: Effort, sample: Path = ROOT / "data" / "sample", shared: Path = SHARED_DATA
    ) -> None:
        self.folder, self.effort, self._sample, self._shared = folder, effort, sample, shared

    @property
    def sources(self) -> list[str]:
        """The available sources of people: ``sample``, and ``coco`` if its photographs are present."""
        return ["sample"] + (["coco"] if (self._shared / "coco_real").is_dir() else [])

    @property
    def onnx_teacher(self) -> Path:
        """Path of the network trained on COCO, the teacher of ``coco``."""
        return self._shared / "weights" / "ultralight_simplepose_256x192.onnx"

    def people(self, source: str, count: int) -> People:
        """Select the first ``count`` instances of a source, or all if it has fewer."""
        folder = self._shared / "coco_real" if source == "coco" else self._sample_folder()
        split = find_split(folder, "train")
        return People(split, select(split, limit=count, skip_missing=True))

    def _sample_folder(self) -> Path:
        if (self._sample / "annotations").is_dir():
            return self._sample
        drawn = self.folder / "sample"
        if not drawn.exists():
            write_sample(drawn, SampleSpec(train=self.effort.instances, val=8), workers=available_cores())
        return drawn

    def store(
        self, source: str, input_size: tuple[int, int], views: ViewPlan = DEFAULT_PLAN, suffix: str = "zarr"
    ) -> cache.Store:
        """Open the store of `store_path`."""
        return cache.open_store(self.store_path(source, input_size, views, suffix))

    def store_path(
        self, source: str, input_size: tuple[int, int], views: ViewPlan = DEFAULT_PLAN, suffix: str = "zarr"
    ) -> Path:
        """Return the path of a store of ``effort.instances`` instances for a teacher of an input size (width, height).

        Frames, affines and ground truth are real, the maps are `synthetic`. ``suffix`` is ``zarr`` or ``h5``.
        """
        assert views.count == 1 or not views.flip_test, "the synthetic teacher flips one view only"  # noqa: S101
        kind = f"{views.count}{'-flip-test' if views.flip_test else ''}"
        path = self.folder / f"{source}-{input_size[1]}x{input_size[0]}-{kind}.{suffix}"
        if not path.exists() and suffix == "h5":
            convert_store(self.store_path(source, input_size, views), path)
        elif not path.exists():
            people = self.people(source, self.effort.instances)
            precompute = Precompute.plan(people, synthetic_teacher(input_size, flip_test=views.flip_test), views=views)
            writer = precompute.begin(path)
            fill(precompute.job, writer)
            writer.publish()
        return path


@dataclasses.dataclass(frozen=True)
class Precompute:
    """A precompute run, set up as ``python -m precompute`` does."""

    job: Job

    @classmethod
    def plan(cls, people: People, teacher: Teacher, batch_size: int = 32, views: ViewPlan = DEFAULT_PLAN) -> Self:
        """Plan the run of a teacher over people."""
        return cls(Job.plan_run(teacher, people.split, people.selection, views, batching=Batching(batch_size)))

    def begin(self, path: Path) -> cache.Writer:
        """Create the store of the run, overwriting an existing one, and return its writer."""
        return create_writer(self.job, path, cache.RootCodec(), overwrite=True)
