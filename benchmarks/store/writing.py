"""A whole precompute run over the teacher's forward passes alone: `python -m benchmarks.store.writing`.

write.precompute   instances per second of the whole run, from image files to the published store with the teacher's AP
                   and PCK, over the forward passes of the same teacher on the same crops, which are in memory;
                   `ratio_without_finish` leaves out evaluation and publishing, whose share is small for a large store

There are two teachers. One is HRNet-W32 at 256x192 and shows the overhead for a real teacher. The other is the embedded
sample's, which is so small that everything else takes a larger share. The first teacher has random weights, whose
heatmaps would not be realistic: its forward passes are real, but its heatmaps are replaced by prepared ones
(`synthetic`).
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.store.codec import SAMPLE_WEIGHTS
from benchmarks.support.alone import run_alone
from benchmarks.support.report import Line
from benchmarks.support.synthetic import synthetic_teacher
from benchmarks.support.timing import interleave, timed
from benchmarks.support.workspace import Precompute, Workspace
from kdlib.machine.device import choose_device, choose_precision
from precompute.run.store import fill, finish
from precompute.teacher.architecture import TorchNetwork
from precompute.teacher.ensemble import teacher_maps
from precompute.teacher.hrnet import HRNET, build_hrnet
from precompute.teacher.loading import Teacher, load_teacher


@dataclasses.dataclass(frozen=True)
class Case:
    """A teacher, its share of the instances, and its batch size."""

    teacher: Callable[[], Teacher]
    share: float
    """Fraction of the instances of a benchmark store."""
    batch_size: int


def _hrnet_w32() -> Teacher:
    size, device = (192, 256), choose_device("auto")
    network = TorchNetwork(HRNET, build_hrnet("hrnet_w32"), size, device, choose_precision("auto", device))
    return synthetic_teacher(size, "hrnet_w32 (random weights, prepared maps)", network)


def _sample_teacher() -> Teacher:
    return load_teacher("hrnet_w16_sample", SAMPLE_WEIGHTS, input_size=(96, 128))


CASES = (Case(_hrnet_w32, 1 / 8, 8), Case(_sample_teacher, 1, 32))


def run(workspace: Workspace) -> Iterator[Line]:
    """Yield one line per teacher."""
    for case in CASES:
        count = max(case.batch_size, round(workspace.effort.instances * case.share))
        precompute = Precompute.plan(workspace.people("sample", count), case.teacher(), case.batch_size)
        yield measure(precompute, workspace.folder / "written.zarr", workspace.effort.rounds_times(0.4))


def measure(precompute: Precompute, path: Path, rounds: int) -> Line:
    """Measure the whole run and the forward passes alone, alternately."""
    crops, run = np.concatenate(list(_crops(precompute))), WholeRun(precompute, path)
    timings = interleave({"run": timed(run), "forward": timed(lambda: _forward(precompute, crops))}, rounds)
    teacher, forward, whole = precompute.job.teacher, timings.median("forward"), timings.median("run")
    finishing = statistics.median(run.finishing) / len(crops)
    extra = {
        "teacher": teacher.name,
        "input_size": f"{teacher.input_size[1]}x{teacher.input_size[0]}",
        "views": precompute.job.plan.count,
        "flip_test": precompute.job.plan.flip_test,
        "ratio_without_finish": round(forward / (whole - finishing), 3),
        "spread": timings.spread("forward", "run"),
    }
    n = timings.items["run"]
    return Line("write", "precompute", 1 / whole, "instances/s", n, "bare forward passes", 1 / forward, extra)


class WholeRun:
    """Writes the store from the images, and records the time of evaluation and publishing."""

    def __init__(self, precompute: Precompute, path: Path) -> None:
        self.precompute, self.path = precompute, path
        self.finishing: list[float] = []
        """Seconds of evaluating the teacher from the store and publishing the store, one value per run."""

    def __call__(self) -> int:
        """Run once; return the number of instances."""
        writer = self.precompute.begin(self.path)
        fill(self.precompute.job, writer)
        started = time.perf_counter()
        finish(writer)
        self.finishing.append(time.perf_counter() - started)
        return len(self.precompute.job.instances)


def _crops(precompute: Precompute) -> Iterator[NDArray[np.uint8]]:
    cropper = precompute.job.cropper
    for row in range(len(cropper.instances)):
        yield from (item.crops[precompute.job.teacher.input_size][None] for item in cropper.prepare([row]))


def _forward(precompute: Precompute, crops: NDArray[np.uint8]) -> int:
    job = precompute.job
    for start in range(0, len(crops), job.batch_size):
        teacher_maps(job.teacher, {job.teacher.input_size: crops[start : start + job.batch_size]}, job.plan)
    return len(crops)


if __name__ == "__main__":
    run_alone(run, __doc__)
