"""A whole precompute run over the bare network, and what it costs without one: `python -m benchmarks.store.writing`.

write.precompute   instances per second of the whole run, from image files to the published store with the teacher's AP
                   and PCK, over the bare network: its forward passes on crops and mirrored crops that are normalised
                   and on the device already, at the fastest of a few batch sizes;
                   `ratio_without_finish` leaves out evaluation and publishing, whose share is small for a large store
write.host         instances per second and core of everything but the network, in CPU time: reading and decoding
                   images, crops, frames, encoding and writing, with a teacher of 256x192 crops that costs nothing;
                   `parts_ms` are the CPU milliseconds per instance of its parts, each measured alone

There are two lines of `write.precompute`. HRNet-W32 at 256x192 shows the overhead for a real teacher. The embedded
sample's teacher is so small that everything else takes a larger share. The first teacher has random weights, whose
heatmaps would not be realistic: its forward passes are real, but its heatmaps are replaced by prepared ones
(`synthetic`).
"""

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.store.codec import SAMPLE_WEIGHTS
from benchmarks.support.alone import run_alone
from benchmarks.support.report import Line
from benchmarks.support.synthetic import free_teacher, prepared_maps, synthetic_teacher
from benchmarks.support.timing import Work, device_seconds, interleave, timed
from benchmarks.support.workspace import Precompute, Workspace
from kdlib.images import normalise_images
from kdlib.machine.device import choose_device, choose_precision
from precompute.data.crops import Cropper
from precompute.run.store import fill, finish
from precompute.teacher.architecture import TorchNetwork
from precompute.teacher.hrnet import HRNET, build_hrnet
from precompute.teacher.loading import Teacher, load_teacher


@dataclasses.dataclass(frozen=True)
class Case:
    """A teacher with its network, its share of the instances, and its batch size."""

    teacher: Callable[[], tuple[Teacher, TorchNetwork]]
    share: float
    """Fraction of the instances of a benchmark store."""
    batch_size: int


def _hrnet_w32() -> tuple[Teacher, TorchNetwork]:
    size, device = (192, 256), choose_device("auto")
    network = TorchNetwork(HRNET, build_hrnet("hrnet_w32"), size, device, choose_precision("auto", device))
    return synthetic_teacher(size, "hrnet_w32 (random weights, prepared maps)", network), network


def _sample_teacher() -> tuple[Teacher, TorchNetwork]:
    teacher = load_teacher("hrnet_w16_sample", SAMPLE_WEIGHTS, input_size=(96, 128))
    return teacher, cast(TorchNetwork, teacher.network)


CASES = (Case(_hrnet_w32, 1 / 2, 32), Case(_sample_teacher, 1, 32))
HOST_SIZE = (192, 256)
"""Width and height of the crops of `write.host`."""
BATCH_SIZES = (1, 4, 16, 64, 256)
"""Batch sizes among which the bare network takes its fastest."""


def run(workspace: Workspace) -> Iterator[Line]:
    """Yield one line per teacher, and the line of the host."""
    for case in CASES:
        teacher, network = case.teacher()
        count = max(case.batch_size, round(workspace.effort.instances * case.share))
        precompute = Precompute.plan(workspace.people("sample", count), teacher, case.batch_size)
        yield measure(precompute, network, workspace.folder / "written.zarr", workspace.effort.rounds_times(0.4))
    source = workspace.sources[-1]
    people = workspace.people(source, workspace.effort.instances)
    host = Precompute.plan(people, free_teacher(HOST_SIZE))
    yield measure_host(host, source, workspace.folder / "host.zarr", workspace.effort.rounds)


def measure(precompute: Precompute, network: TorchNetwork, path: Path, rounds: int) -> Line:
    """Measure the whole run and the bare network, alternately."""
    crops, run = np.concatenate(list(_crops(precompute))), WholeRun(precompute, path)
    bare = BareNetwork(network, crops[:, 0], precompute.job.plan.flip_test)
    timings = interleave({"run": timed(run), "forward": bare}, rounds)
    teacher, forward, whole = precompute.job.teacher, timings.median("forward"), timings.median("run")
    finishing = statistics.median(run.finishing) / len(crops)
    extra = {
        "teacher": teacher.name,
        "input_size": f"{teacher.input_size[1]}x{teacher.input_size[0]}",
        "views": precompute.job.plan.count,
        "flip_test": precompute.job.plan.flip_test,
        "peer_batch_size": bare.batch_size,
        "ratio_without_finish": round(forward / (whole - finishing), 3),
        "spread": timings.spread("forward", "run"),
    }
    n = timings.items["run"]
    return Line("write", "precompute", 1 / whole, "instances/s", n, "bare network", 1 / forward, extra)


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


class BareNetwork:
    """The forward passes of a network on normalised images on its device, at the fastest of a few batch sizes."""

    def __init__(self, network: TorchNetwork, crops: NDArray[np.uint8], flip_test: bool) -> None:
        images = normalise_images(torch.from_numpy(crops).to(network.device))
        self._images = torch.cat([images, images.flip(-1)]) if flip_test else images
        self._network, self._count = network, len(crops)
        seconds = {size: self._seconds(size) for size in BATCH_SIZES if size <= len(self._images)}
        self.batch_size = min(seconds, key=lambda size: seconds[size])

    def _seconds(self, batch_size: int) -> float:
        """Seconds per image at a batch size, after a warm-up."""
        batch = self._images[:batch_size]
        times = [device_seconds(lambda: self._network.run(batch), batch.is_cuda) for _ in range(3)]
        return min(times[1:]) / batch_size

    def __call__(self) -> tuple[int, float]:
        """Run all images once; return the number of instances and the seconds on the device."""
        return self._count, device_seconds(self._run_all, self._images.is_cuda)

    def _run_all(self) -> None:
        for batch in self._images.split(self.batch_size):
            self._network.run(batch)


def measure_host(precompute: Precompute, source: str, path: Path, rounds: int) -> Line:
    """Measure the CPU time of a run without a network and of its parts, alternately."""
    job, seconds = precompute.job, time.process_time
    parts = Parts(precompute, path)

    def whole() -> int:
        fill(job, precompute.begin(path))
        return len(job.instances)

    work: dict[str, Work] = {"run": whole, **parts.work()}
    timings = interleave({name: timed(block, seconds) for name, block in work.items()}, rounds)
    n = timings.items["run"]
    extra = {
        "people": source,
        "input_size": f"{HOST_SIZE[1]}x{HOST_SIZE[0]}",
        "instances_per_image": round(len(job.instances) / len(parts.groups), 2),
        "parts_ms": {name: round(1e3 * timings.median(name), 3) for name in parts.work()},
    }
    return Line("write", "host", timings.rate("run"), "instances/s per core", n, extra=extra)


class Parts:
    """The parts of the host's work on the instances of a run; each part has the results of the one before."""

    def __init__(self, precompute: Precompute, path: Path) -> None:
        self._precompute, self._job, self._path = precompute, precompute.job, path
        names = self._job.instances.file_name
        self.groups = [list(rows) for _, rows in itertools.groupby(range(len(names)), key=lambda row: names[row])]
        """Rows of the same image."""
        cropper = self._job.cropper
        self._prepared = [item for rows in self.groups for item in cropper.prepare(rows)]
        self._whole, self._without_frames = cropper, dataclasses.replace(cropper, frames=False)
        maps = prepared_maps(self._job.teacher.heatmap_size)
        self._maps = maps[np.arange(len(self._prepared)) % len(maps), None]

    def work(self) -> dict[str, Work]:
        """The parts by name."""
        return {
            "decode_and_crop": lambda: self._prepare(self._without_frames),
            "decode_crop_and_frame": lambda: self._prepare(self._whole),
            "encode_and_write": self._encode,
        }

    def _prepare(self, cropper: Cropper) -> int:
        for rows in self.groups:
            cropper.prepare(rows)
        return len(self._prepared)

    def _encode(self) -> int:
        writer = self._precompute.begin(self._path)
        for number in writer.pending_shards():
            with writer.shard(number) as shard:
                for row in writer.shard_range(number):
                    shard.put(row, self._maps[row], self._prepared[row].frame)
        return len(self._prepared)


if __name__ == "__main__":
    run_alone(run, __doc__)
