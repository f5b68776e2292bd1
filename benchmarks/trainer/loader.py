"""The trainer's loader over decoding its frames, and over the notebook's loader: `python -m benchmarks.trainer.loader`.

loader.decode     milliseconds of CPU time per instance of the trainer's loader over decoding the JPEG of its frame
loader.notebook   the same over the seed notebook's loader at the same input size (`notebook`), which reads no maps
loader.dataset    milliseconds of CPU time per instance of `DistillationDataset` in torch's ``DataLoader``,
                  without workers, over the trainer's loader; `images` are float32, normalised, or uint8 as they are.
                  `paired` is the median of the ratios within each round
loader.target     the cost of an instance with the teacher's maps in units of a peer (`of`), median of the ratios within
                  each round, over the target, which is an upper limit; a `ratio` above 1 misses the target
loader.groups     milliseconds of CPU time per instance of the trainer's loader with batches of 16 and 8 threads, each
                  of which fills a whole batch, over the same loader with every batch split over the threads
loader.rate       instances per second of wall time that the loader delivers with all its threads, over one thread;
                  `per_core` is per thread, `per_core_cpu` per second of CPU time, which depends less on other load

The trainer's loader, with the recipe's augmentation, reads and decodes the frame, warps it, makes the targets and
assembles the batch (in pinned memory and on the GPU if there is one). It also reads, decodes and warps the teacher's
maps. `maps` names the store: `flip test`, as `precompute` makes it by default; `two views`, crop and mirror, averaged
by the loader; or `none`, no heatmaps. The loader uses one thread, except for the groups and rates; CPU time is that of
all threads together.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from torch.utils.data import DataLoader

from benchmarks.support.alone import run_alone
from benchmarks.support.batches import StoreBatches, recipe_augmentation
from benchmarks.support.notebook import BATCH_SIZE, notebook_loader
from benchmarks.support.report import Line
from benchmarks.support.timing import Timings, Work, interleave, interleave_on, timed
from benchmarks.support.turn import Turn
from benchmarks.support.workspace import People, Workspace
from cache import Store
from kdlib.machine.device import choose_device
from kdlib.samples import DistillationDataset
from kdlib.samples.dataset import StoreDataset
from kdlib.samples.loader import Loader
from precompute.data.views import DEFAULT_PLAN, ViewPlan

CASES = (
    ("sample", (192, 256), (192, 256)),
    ("sample", (288, 384), (288, 384)),
    ("coco", (192, 256), (192, 256)),
    ("coco", (192, 256), (96, 128)),
)
"""Source, (width, height) of the teacher's input, (width, height) of the student's input."""
TARGETS = {"decode": 1.5, "notebook": 0.2}
"""Largest acceptable cost of an instance in units of each peer."""
MAPS = {"flip test": DEFAULT_PLAN, "two views": ViewPlan(2, flip_test=False), "none": None}
IMAGES = {"float32": True, "uint8": False}
"""Type of the dataset's images -> whether they are normalised."""
PEOPLE_OF_NOTEBOOK = 2 * BATCH_SIZE
"""The notebook's loader is slow, so it loads fewer instances."""
BATCHES = 4
"""Batches per turn where rates are measured."""
SMALL_BATCH, MANY_THREADS = 16, 8
"""The case in which a batch split over the threads would leave each of them two samples."""


def run(workspace: Workspace) -> Iterator[Line]:
    """Yield the lines of every source, input size and kind of maps."""
    for source, stored, size in CASES:
        if source in workspace.sources:
            store, batch = workspace.store(source, stored), workspace.effort.batch_size
            few = workspace.people(source, min(PEOPLE_OF_NOTEBOOK, len(store)))
            contenders: dict[str, Work] = {
                maps: Epochs(*_store_and_views(workspace, source, stored, maps), batch, size) for maps in MAPS
            }
            flip_test, _ = _store_and_views(workspace, source, stored, "flip test")
            for images, normalise in IMAGES.items():
                contenders[images] = DatasetEpochs(flip_test, batch, size, normalise)
            contenders["decode"] = FrameDecode(store)
            contenders["notebook"] = NotebookEpoch(few, size)
            blocks = {name: timed(work, time.process_time) for name, work in contenders.items()}
            about = {"source": source, "input_size": _as_text(size), "teacher_size": _as_text(stored)}
            yield from _lines(interleave(blocks, workspace.effort.rounds), about)
            if (source, stored) == ("sample", size):
                yield _groups(workspace, size)
            if stored == size:
                yield from (_rate(workspace, source, size, maps) for maps in MAPS)


def _groups(workspace: Workspace, size: tuple[int, int]) -> Line:
    store, views = _store_and_views(workspace, "sample", size, "flip test")
    ways = {"whole": Loader, "split": _SplittingLoader}
    work = {name: Epochs(store, views, SMALL_BATCH, size, MANY_THREADS, kind) for name, kind in ways.items()}
    timings = interleave({name: timed(of, time.process_time) for name, of in work.items()}, workspace.effort.rounds)
    extra = {
        "source": "sample",
        "input_size": _as_text(size),
        "batch_size": SMALL_BATCH,
        "threads": MANY_THREADS,
        "paired": timings.paired("whole", "split"),
        "spread": timings.spread("whole", "split"),
    }
    ours, theirs = (timings.median(name) * 1e3 for name in ways)
    return Line("loader", "groups", ours, "ms", timings.items["whole"], "batches split over threads", theirs, extra)


def _rate(workspace: Workspace, source: str, size: tuple[int, int], maps: str) -> Line:
    (store, views), device = _store_and_views(workspace, source, size, maps), choose_device("auto")
    with contextlib.ExitStack() as stack:
        all_threads, one = (
            stack.enter_context(
                contextlib.closing(StoreBatches(store, views, workspace.effort.batch_size, device, threads))
            )
            for threads in (None, 1)
        )
        turns = {"all": Turn(all_threads, BATCHES, device), "one": Turn(one, BATCHES, device)}
        clocks = {"wall": time.perf_counter, "cpu": time.process_time}
        timings = interleave_on(clocks, dict(turns), workspace.effort.rounds)
    wall, cpu = timings["wall"], timings["cpu"]
    extra = {
        "source": source,
        "input_size": _as_text(size),
        "maps": maps,
        "threads": all_threads.threads,
        "per_core": round(wall.rate("all") / all_threads.threads),
        "per_core_cpu": round(cpu.rate("all")),
        "paired": wall.paired("one", "all"),
        "spread": wall.spread("one", "all"),
    }
    return Line(
        "loader", "rate", wall.rate("all"), "instances/s", wall.items["all"], "one thread", wall.rate("one"), extra
    )


def _store_and_views(workspace: Workspace, source: str, size: tuple[int, int], maps: str) -> tuple[Store, str | None]:
    """Return the store with a kind of maps, and the argument ``views`` of `StoreDataset` that reads them."""
    plan = MAPS[maps]
    return (workspace.store(source, size), None) if plan is None else (workspace.store(source, size, plan), "average")


def _as_text(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def _lines(timings: Timings, about: dict[str, Any]) -> Iterator[Line]:
    yield from _dataset_lines(timings, about)
    for metric, peer in (("decode", "imdecode of the frames"), ("notebook", "the notebook's loader")):
        theirs = timings.median(metric) * 1e3
        for maps in MAPS:
            extra = {
                **about,
                "maps": maps,
                "instances_per_core_second": round(timings.rate(maps)),
                "spread": timings.spread(maps, metric),
            }
            yield Line("loader", metric, timings.median(maps) * 1e3, "ms", timings.items[maps], peer, theirs, extra)
        reached, items = timings.paired("flip test", metric), timings.items["flip test"]
        extra = {"of": metric, "spread": timings.spread("flip test", metric)}
        yield Line("loader", "target", reached, f"of {peer}", items, "at most", TARGETS[metric], {**about, **extra})


def _dataset_lines(timings: Timings, about: dict[str, Any]) -> Iterator[Line]:
    theirs = timings.median("flip test") * 1e3
    for images in IMAGES:
        extra = {
            **about,
            "images": images,
            "paired": timings.paired(images, "flip test"),
            "spread": timings.spread(images, "flip test"),
        }
        ours = timings.median(images) * 1e3
        yield Line("loader", "dataset", ours, "ms", timings.items[images], "the trainer's loader", theirs, extra)


class _SplittingLoader(Loader):
    """A loader whose threads share every batch."""

    def groups(self, size: int) -> int:
        """Return the number of parts of a batch of that size."""
        return min(self.threads, size)


class Epochs:
    """Successive epochs of the trainer's loader, made by one thread unless more are given."""

    def __init__(
        self,
        store: Store,
        views: str | None,
        batch_size: int,
        size: tuple[int, int],
        threads: int = 1,
        kind: type[Loader] = Loader,
    ) -> None:
        dataset = StoreDataset(store, size, recipe_augmentation(), views=views)
        self._loader = kind(dataset, batch_size, shuffle=True, device=choose_device("auto"), threads=threads)
        self._epoch = 0

    def __call__(self) -> int:
        """Load one epoch; return its number of instances."""
        self._epoch += 1
        return sum(len(batch["image"]) for batch in self._loader.epoch(self._epoch))


class DatasetEpochs:
    """Shuffled epochs of the library's dataset in torch's ``DataLoader``, made in this process."""

    def __init__(self, store: Store, batch_size: int, size: tuple[int, int], normalise: bool) -> None:
        dataset = DistillationDataset(store, size, recipe_augmentation(), normalise=normalise)
        self._loader = DataLoader(dataset, batch_size, shuffle=True, drop_last=True)

    def __call__(self) -> int:
        """Load one epoch; return its number of instances."""
        return sum(len(batch["image"]) for batch in self._loader)


class FrameDecode:
    """Decoding of a store's frames, whose bytes are in memory."""

    def __init__(self, store: Store) -> None:
        self._frames = [np.frombuffer(store.frame(row), np.uint8) for row in range(len(store))]

    def __call__(self) -> int:
        """Decode all frames; return their number."""
        for frame in self._frames:
            cv2.imdecode(frame, cv2.IMREAD_COLOR)
        return len(self._frames)


class NotebookEpoch:
    """One epoch of the notebook's loader."""

    def __init__(self, people: People, input_size: tuple[int, int]) -> None:
        self._loader = notebook_loader(people.split.images, people.selection.instances, input_size)

    def __call__(self) -> int:
        """Load the epoch; return its number of instances."""
        return sum(len(images) for images, *_ in self._loader)


if __name__ == "__main__":
    run_alone(run, __doc__)
