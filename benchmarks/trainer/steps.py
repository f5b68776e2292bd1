"""Training from a store over the baseline, memory, an online teacher and files: `python -m benchmarks.trainer.steps`.

train.distil_over_baseline   instances/s of distilling from a store over the baseline from the same store
train.store_over_memory      instances/s of the baseline from a store over the same on batches already in memory
train.offline_over_online    instances/s of distilling from a store over distilling with an online HRNet, which needs
                             no heatmaps from the loader; `ideal` is (student + teacher) / student from the
                             separate times of both, `reached` the measured ratio over it
train.store_over_files       instances/s of distilling from a store over distilling from one `torch.save` file per
                             sample, read by torch's `DataLoader`; `bytes` per instance of both

The teacher is HRNet-W32 at 256x192, with `--full` also HRNet-W48 at 384x288. A turn is a few steps, everything is
measured in every round, and loaders do no work between turns (`benchmarks.support.batches`). `ratio` is that of the
medians, `paired` is the median of the ratios within each round, `spread` its quartiles.

There are two clocks. Wall time gives the values: only wall time includes the GPU and waiting for a batch. `cpu` has the
same ratios in CPU seconds of all threads and worker processes: the cost of a step on a machine without a GPU, without
waiting, which depends less on other load. If both clocks agree, nothing waits.

`parts_ms` are the milliseconds per instance of the separate parts (CPU time; wall time with a GPU), and `predicted` is
the ratio that follows from them (with a GPU the loader works during the step, so the slower of the two counts). Do not
rely on a `cpu` ratio (with a GPU: a `paired` ratio) that is far from `predicted`. The parts miss one real effect:
after a teacher's pass, the student starts with cold caches.
"""

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.support.alone import run_alone
from benchmarks.support.batches import MemoryBatches, StoreBatches, recipe_augmentation
from benchmarks.support.files import FileBatches, write_files
from benchmarks.support.online import OnlineTeacher
from benchmarks.support.report import Line
from benchmarks.support.timing import Clock, Timings, Work, interleave_on, quartiles
from benchmarks.support.turn import Turn
from benchmarks.support.workspace import Workspace
from cache import Store
from kdlib.machine.device import choose_device
from train.recipe import Recipe
from train.run.loop import Run, Trainer
from train.supervision import Batch


@dataclasses.dataclass(frozen=True)
class Case:
    """Input size (width, height) of student and teacher, the teacher's architecture, and instances per step."""

    input_size: tuple[int, int]
    teacher: str
    batch_size: int


CASES = (Case((192, 256), "hrnet_w32", 16), Case((288, 384), "hrnet_w48", 4))
"""The second case takes minutes, so it needs `--full`."""
IN_MEMORY = 4
"""Number of batches in memory."""
LOADS = 4
"""Factor on the batches of a loader's own turns, because it is fast."""


class Ratio(NamedTuple):
    """A line: the throughput of one contender over that of another."""

    metric: str
    ours: str
    theirs: str
    peer: str


RATIOS = (
    Ratio("distil_over_baseline", "distil", "baseline", "baseline"),
    Ratio("store_over_memory", "baseline", "step", "in memory"),
    Ratio("offline_over_online", "distil", "online", "online"),
    Ratio("store_over_files", "distil", "files", "torch.load of a file per sample, DataLoader"),
)
PARTS: Mapping[str, tuple[str, ...]] = {
    "baseline": ("load", "step"),
    "distil": ("load_maps", "distil_step"),
    "step": ("step",),
    "online": ("load", "distil_step", "teacher"),
    "files": ("load_files", "distil_step"),
}
"""The parts of each contender; the first part is made ahead by the loader."""


def run(workspace: Workspace) -> Iterator[Line]:
    """Yield the lines of the embedded sample's people."""
    for case in CASES if workspace.effort.full else CASES[:1]:
        yield from measure(workspace, case)


def measure(workspace: Workspace, case: Case) -> Iterator[Line]:
    """Yield all lines of a case, measured in the same rounds."""
    store = workspace.store("sample", case.input_size)
    case = dataclasses.replace(case, batch_size=min(case.batch_size, workspace.effort.batch_size))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=workspace.folder)))
        sizes = {"store": store.nbytes // len(store), "files": write_files(store, folder)}
        work, clocks = _contenders(workspace, case, store, folder, stack)
        timings = interleave_on(clocks, work, workspace.effort.rounds)
    on_gpu = choose_device("auto").type == "cuda"
    extra = {
        "input_size": f"{case.input_size[1]}x{case.input_size[0]}",
        "teacher": case.teacher,
        "batch_size": case.batch_size,
    }
    for ratio in RATIOS:
        more = {"bytes": sizes} if ratio.theirs == "files" else {}
        yield _line(ratio, timings["wall"], timings["cpu"], on_gpu, {**extra, **more})


def _contenders(
    workspace: Workspace, case: Case, store: Store, folder: Path, stack: contextlib.ExitStack
) -> tuple[dict[str, Work], dict[str, Clock]]:
    """Return the contenders and the clocks; the stack closes the loaders."""
    device, size, steps = choose_device("auto"), case.batch_size, workspace.effort.steps
    files = stack.enter_context(contextlib.closing(FileBatches(store, recipe_augmentation(), folder, size, device)))
    plain, maps = (
        stack.enter_context(contextlib.closing(StoreBatches(store, views, size, device))) for views in (None, "average")
    )
    memory = MemoryBatches([next(maps) for _ in range(IN_MEMORY)])
    teacher = OnlineTeacher(case.teacher, device)
    step, distil = (_step(store, workspace.folder, size, distil=distil) for distil in (False, True))
    turns = {
        "baseline": Turn(plain, steps, device, step),
        "distil": Turn(maps, steps, device, distil),
        "files": Turn(files, steps, device, distil),
        "online": Turn(plain, steps, device, lambda batch: distil({**batch, "heatmaps": teacher(batch["image"])})),
        "step": Turn(memory, steps, device, step),
        "distil_step": Turn(memory, steps, device, distil),
        "teacher": Turn(memory, steps, device, lambda batch: teacher(batch["image"])),
        "load": Turn(plain, LOADS * steps, device),
        "load_maps": Turn(maps, LOADS * steps, device),
        "load_files": Turn(files, LOADS * steps, device),
    }
    clocks: dict[str, Clock] = {
        "wall": time.perf_counter,
        "cpu": lambda: time.process_time() + files.cpu_seconds(),
    }
    return dict(turns), clocks


def _step(store: Store, folder: Path, batch_size: int, *, distil: bool) -> Callable[[Batch], object]:
    recipe = Recipe(pretrained="none", batch_size=batch_size)
    trainer = Trainer(Run(store, store, folder / "run", recipe, distil=distil, device=choose_device("auto")))
    return trainer.train_step


def _line(ratio: Ratio, wall: Timings, cpu: Timings, on_gpu: bool, extra: dict[str, Any]) -> Line:
    ours, theirs = ratio.ours, ratio.theirs
    more = _paired(ratio, wall)
    parts = wall if on_gpu else cpu
    if not on_gpu:
        more["cpu"] = _paired(ratio, cpu)
    more["predicted"] = _median(_predict_seconds(parts, theirs, on_gpu) / _predict_seconds(parts, ours, on_gpu))
    more["parts_ms"] = {part: round(parts.median(part) * 1e3, 3) for part in (*PARTS[ours], *PARTS[theirs])}
    return Line(
        "train",
        ratio.metric,
        wall.rate(ours),
        "instances/s",
        wall.items[ours],
        ratio.peer,
        wall.rate(theirs),
        {**extra, **more},
    )


def _predict_seconds(timings: Timings, name: str, overlap: bool) -> NDArray[np.float64]:
    """Predict the seconds per instance of a contender from its parts, one number per round.

    Args:
        timings: Of all contenders and parts.
        name: Key of `PARTS`.
        overlap: Whether the loader works during the step, so that the slower of the two counts.
    """
    load, *rest = PARTS[name]
    if overlap and rest:
        return np.maximum(timings.total(load), timings.total(*rest))
    return timings.total(*PARTS[name])


def _paired(ratio: Ratio, timings: Timings) -> dict[str, Any]:
    """Return the ratios within each round on one clock."""
    ours, theirs = ratio.ours, ratio.theirs
    found: dict[str, Any] = {"paired": timings.paired(theirs, ours), "spread": timings.spread(theirs, ours)}
    if theirs == "online":
        ideal = timings.total("distil_step", "teacher") / timings.total("distil_step")
        reached = timings.total("online") / timings.total("distil") / ideal
        found |= {"ideal": _median(ideal), "reached": _median(reached), "reached_spread": quartiles(reached)}
    return found


def _median(values: NDArray[np.float64]) -> float:
    return round(float(np.median(values)), 3)


if __name__ == "__main__":
    run_alone(run, __doc__)
