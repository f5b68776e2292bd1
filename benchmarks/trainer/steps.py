"""What does the teacher cost a training step? `python -m benchmarks.trainer.steps` (`--full`: also HRNet-W48 at 384x288).

train.distil_over_baseline   instances/s of distilling from a store over the baseline from the same store
train.store_over_memory      instances/s of the baseline from a store over the same on batches already in memory
train.offline_over_online    instances/s of distilling from a store over the same with an HRNet beside the student,
                             which needs no maps from the loader; `ideal` is (student + teacher) / student from the
                             bare times of both, `reached` the ratio over it
train.store_over_files       instances/s of distilling from a store over the same from a `torch.save` file a sample,
                             read by torch's `DataLoader`; `bytes` an instance of both

A turn is a few steps, everything is measured in every round, and a loader is at rest between turns (`batches`).
`ratio` comes from the medians, `paired` is the median of the rounds' own ratios, `spread` its quartiles.

Two clocks run. The wall clock gives the values: it alone sees a step that waits for its batch, and a GPU. `cpu` has the
same ratios in CPU seconds of all threads and worker processes: what a step takes from a machine without a GPU, which
other load hardly changes; it does not see waiting. Where both agree, nothing waits.

`parts_ms` are the milliseconds an instance of the parts by themselves (CPU time; wall time beside a GPU), and
`predicted` is the ratio they add up to (beside a GPU the loader works meanwhile: the slower of both counts). A `cpu`
ratio, or beside a GPU a `paired` one, far from `predicted` is not to be trusted. One effect is real and not in the
parts: a student that takes turns with a teacher finds its caches cold.
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
from kdlib.machine.device import choose_device
from train.recipe import Recipe
from train.run.loop import Run, Trainer
from train.supervision import Batch


@dataclasses.dataclass(frozen=True)
class Case:
    """An input size (width, height) of student and teacher, the teacher's shape, and instances a step."""

    input_size: tuple[int, int]
    teacher: str
    batch_size: int


CASES = (Case((192, 256), "hrnet_w32", 16), Case((288, 384), "hrnet_w48", 4))
"""The second takes minutes: `--full`."""
IN_MEMORY = 4
"""Batches."""
LOADS = 4
"""Turns of a loader by itself are so many times as long: it is fast."""


class Ratio(NamedTuple):
    """A line: whose throughput over whose."""

    metric: str
    ours: str
    theirs: str
    peer: str


RATIOS = (
    Ratio("distil_over_baseline", "distil", "baseline", "baseline"),
    Ratio("store_over_memory", "baseline", "step", "in memory"),
    Ratio("offline_over_online", "distil", "online", "online"),
    Ratio("store_over_files", "distil", "files", "torch.load of a file a sample, DataLoader"),
)
PARTS: Mapping[str, tuple[str, ...]] = {
    "baseline": ("load", "step"),
    "distil": ("load_maps", "distil_step"),
    "step": ("step",),
    "online": ("load", "distil_step", "teacher"),
    "files": ("load_files", "distil_step"),
}
"""What each contender consists of; its first part is made ahead by the loader."""


def run(workspace: Workspace) -> Iterator[Line]:
    """Lines of the embedded sample's people."""
    for case in CASES if workspace.effort.full else CASES[:1]:
        yield from measure(workspace, case)


def measure(workspace: Workspace, case: Case) -> Iterator[Line]:
    """All lines of a case, from the same rounds."""
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
    workspace: Workspace, case: Case, store: Any, folder: Path, stack: contextlib.ExitStack
) -> tuple[dict[str, Work], dict[str, Clock]]:
    """Who takes turns, and the clocks; the stack closes what they hold."""
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


def _step(store: Any, folder: Path, batch_size: int, *, distil: bool) -> Callable[[Batch], object]:
    recipe = Recipe(pretrained="none", batch_size=batch_size)
    trainer = Trainer(Run(store, store, folder / "run", recipe, distil=distil, device=choose_device("auto")))
    return trainer._train_step


def _line(ratio: Ratio, wall: Timings, cpu: Timings, on_gpu: bool, extra: dict[str, Any]) -> Line:
    ours, theirs = ratio.ours, ratio.theirs
    more = _paired(ratio, wall)
    parts = wall if on_gpu else cpu
    if not on_gpu:
        more["cpu"] = _paired(ratio, cpu)
    more["predicted"] = _median(_together(parts, theirs, on_gpu) / _together(parts, ours, on_gpu))
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


def _together(timings: Timings, name: str, overlap: bool) -> NDArray[np.float64]:
    """Seconds an instance that a contender's parts take, a number a round."""
    load, *rest = PARTS[name]
    if overlap and rest:
        return np.maximum(timings.of(load), timings.of(*rest))
    return timings.of(*PARTS[name])


def _paired(ratio: Ratio, timings: Timings) -> dict[str, Any]:
    """The rounds' own ratios on one clock."""
    ours, theirs = ratio.ours, ratio.theirs
    found: dict[str, Any] = {"paired": timings.paired(theirs, ours), "spread": timings.spread(theirs, ours)}
    if theirs == "online":
        ideal = timings.of("distil_step", "teacher") / timings.of("distil_step")
        reached = timings.of("online") / timings.of("distil") / ideal
        found |= {"ideal": _median(ideal), "reached": _median(reached), "reached_spread": quartiles(reached)}
    return found


def _median(values: NDArray[np.float64]) -> float:
    return round(float(np.median(values)), 3)


if __name__ == "__main__":
    run_alone(run, __doc__)
