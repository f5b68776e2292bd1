"""The batch size of a run, and whether a CUDA graph starts its batches.

On a CPU, `--batch-size auto` is 32. On a GPU, the first process measures sizes when the run begins, and all processes
take its choice. The manifest records it (`provenance.software`), and a run that continues takes the recorded one: the
heatmaps of other batches differ in the last digits, so that a continued run would otherwise differ from an
uninterrupted one. A size of 97 % of the best rate is large enough, and the smallest of these is chosen.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from kdcli.memory import is_out_of_memory
from kdcli.progress import say
from precompute.data.crops import CropKind, Crops
from precompute.data.views import ViewPlan
from precompute.teacher.ensemble import launch_maps
from precompute.teacher.loading import Teacher
from precompute.teacher.passes import DeviceNetwork

SIZES = (1, 4, 16, 32, 64, 128, 256, 512)
"""Sizes that are measured. Shards have a power of 2 of instances, so that these divide them."""
BATCHES = 4
"""Batches of one measurement, all in flight together."""
GAIN = 1.03
"""A rate counts as higher if it is higher by this factor."""
MEMORY_SHARE = 0.45
"""Largest share of the free memory that a batch may take: a CUDA graph has memory of its own beside that of a shard's
last batch, which runs without it."""


@dataclass(frozen=True)
class Batching:
    """How the instances of a run are batched."""

    size: int
    """Instances per batch."""
    graph: bool = False
    """Whether a CUDA graph starts the batches of this size."""

    def to_json(self) -> dict[str, Any]:
        """The entries of `provenance.software`."""
        return {"batch_size": self.size, "cuda_graph": self.graph}

    @classmethod
    def from_json(cls, entries: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(entries["batch_size"], entries["cuda_graph"])

    @classmethod
    def from_provenance(cls, provenance: Any) -> Self | None:
        """What a store records; None if there is no store, or if it was made on a CPU."""
        software = {} if provenance is None else provenance.get("software", {})
        size, graph = software.get("batch_size"), software.get("cuda_graph")
        return cls(size, graph) if type(size) is int and size > 0 and type(graph) is bool else None


DEFAULT_BATCHING = Batching(32)
"""What `auto` is where nothing is measured."""


class Measurement:
    """Measures a teacher on random crops of its input sizes.

    Args:
        teacher: The teacher.
        plan: The stored views.
        free_memory: Returns the free memory of the GPU in bytes.
        processes: Processes that share the GPU.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        teacher: Teacher,
        plan: ViewPlan,
        free_memory: Callable[[], int],
        processes: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._teacher, self._plan, self._clock = teacher, plan, clock
        self._free_memory, self._processes = free_memory, processes

    def choose(self, sizes: Sequence[int]) -> Batching:
        """Measure increasing sizes and choose one; whether a graph pays is measured at the chosen size.

        Running out of memory is no error here. If not even the first size fits, it is chosen nevertheless: the run
        then ends with an error that tells the user what to do.
        """
        rates = self.rates(sizes)
        if not rates:
            return Batching(sizes[0])
        size = best_size(rates)
        graph = capture(self._teacher, self._plan, size) and self._graph_pays(size, rates[size])
        if not graph:
            discard_captures(self._teacher)
        return Batching(size, graph)

    def rates(self, sizes: Sequence[int]) -> dict[int, float]:
        """Instances per second by size.

        Ends at the first size that takes more than its share of the memory, or when two sizes in a row bring no gain.
        """
        rates: dict[int, float] = {}
        free = self._free_memory()
        useless = 0
        for size in sizes:
            best = max(rates.values(), default=0.0)
            try:
                rate = self._rate(size)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                break
            if free - self._free_memory() > MEMORY_SHARE * free / self._processes:
                break
            rates[size] = rate
            useless = 0 if rate >= GAIN * best else useless + 1
            if useless == 2:
                break
        return rates

    def _graph_pays(self, size: int, eager: float) -> bool:
        try:
            return self._rate(size) >= GAIN * eager
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return False

    def _rate(self, size: int) -> float:
        """Instances per second in batches of a size; the first batch, in which kernels are chosen, is not timed."""
        crops = _random_crops(self._teacher, self._plan, size)
        launch_maps(self._teacher, crops, self._plan)()
        started = self._clock()
        for wait in [launch_maps(self._teacher, crops, self._plan) for _ in range(BATCHES)]:
            wait()
        return BATCHES * size / (self._clock() - started)


def choose_batching(
    wanted: int | None,
    *,
    most: int,
    recorded: Batching | None = None,
    measurement: Measurement | None = None,
) -> Batching:
    """Choose how a run batches its instances.

    Args:
        wanted: The batch size that the user asked for; None for `auto`.
        most: Largest useful size: the instances of a shard, since no batch is larger.
        recorded: What the store records that this run continues or checks.
        measurement: Measures the teacher; None if nothing is measured, as on a CPU.
    """
    if wanted is not None and measurement is not None:
        wanted = min(wanted, most)
    if recorded is not None and wanted in (None, recorded.size):
        return recorded
    if measurement is None:
        return DEFAULT_BATCHING if wanted is None else Batching(wanted)
    return measurement.choose([wanted] if wanted else [size for size in SIZES if size <= most])


def best_size(rates: Mapping[int, float]) -> int:
    """The smallest size whose rate is at least 97 % of the best one."""
    best = max(rates.values())
    return min(size for size, rate in rates.items() if GAIN * rate >= best)


def capture(teacher: Teacher, plan: ViewPlan, size: int) -> bool:
    """Record the passes of batches of a size as CUDA graphs; returns whether all are recorded.

    If one cannot be recorded, a line on stderr gives the reason, and all batches run without a graph.
    """
    networks = _recordable(teacher)
    try:
        for (width, height), network in networks:
            network.capture((size, plan.count, height, width, 3), flip_test=plan.flip_test)
    except RuntimeError as error:
        discard_captures(teacher)
        reason = str(error).strip().partition("\n")[0]
        say(f"warning: CUDA cannot record a batch of {size} instances as a graph, the run continues without: {reason}")
        return False
    return bool(networks)


def is_captured(teacher: Teacher) -> bool:
    """Whether all passes that can be recorded are."""
    return all(network.is_captured for _, network in _recordable(teacher))


def discard_captures(teacher: Teacher) -> None:
    """Let all batches run without a graph, and give the memory of the graphs back."""
    for _, network in _recordable(teacher):
        network.discard_capture()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def gpu_of(teacher: Teacher) -> str | None:
    """The GPU of a teacher or of the first member that runs on one; None if all run on the CPU."""
    devices = [member.device for member in teacher.members or (teacher,)]
    return next((device for device in devices if device.startswith("cuda")), None)


def _recordable(teacher: Teacher) -> list[tuple[tuple[int, int], DeviceNetwork]]:
    """Input size (width, height) and network of the members on a GPU whose passes can be recorded."""
    return [
        (member.input_size, member.network)
        for member in teacher.members or (teacher,)
        if isinstance(member.network, DeviceNetwork) and member.network.is_asynchronous and member.network.can_capture
    ]


def _random_crops(teacher: Teacher, plan: ViewPlan, size: int) -> Crops:
    """Crops (B, V, H, W, 3) of one batch, by input size; in pinned memory for a GPU."""
    crops: dict[CropKind, NDArray[np.uint8]] = {}
    for kind in teacher.input_sizes:
        width, height = kind[:2]
        shape = (size, plan.count, height, width, 3)
        memory = torch.empty(shape, dtype=torch.uint8, pin_memory=gpu_of(teacher) is not None).numpy()
        memory[:] = np.random.default_rng(0).integers(0, 256, shape[1:], dtype=np.uint8)
        crops[kind] = memory
    return crops
