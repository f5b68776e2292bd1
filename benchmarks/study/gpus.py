"""GPU memory and minutes for COCO, computed and not measured: `python -m benchmarks.study.gpus`.

It prints the tables of docs/coco.md. A batch is run on torch's meta device, which has shapes and no data. Every
operator takes the longer of its arithmetic and its reads and writes, at shares of a GPU's published peaks. A batch
takes at least `LAUNCH` per operator, because the host launches the operators one by one. A run cannot be faster than
the CPU cores that prepare its instances.

The shares, `LAUNCH` and `CONTEXT` are assumptions. The rates of CPU cores were measured on one machine: `write.host`
and `loader.rate` in benchmarks/results. `python -m benchmarks.gpu` measures what is computed here.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from cache.codec.root4 import RootCodec
from kdcli.flags import Parser, exit_with
from kdlib.resample.on_device import bordered_size, mean_maps, warp_frames
from kdlib.samples.resident import decode_codes
from kdlib.skeletons.skeleton import COCO
from kdlib.students.networks import build_student
from precompute.teacher.architecture import TorchNetwork
from precompute.teacher.hrnet import HRNET, build_hrnet
from train.recipe import Recipe

META = torch.device("meta")
RECIPE = Recipe()
INSTANCES = 149_813
"""Persons of COCO's train2017 with labelled keypoints."""
EPOCHS = 210
"""Epochs of configs/coco.toml."""
ARITHMETIC, BANDWIDTH = 0.3, 0.4
"""Shares of the published peaks that small convolutions reach (assumed)."""
LAUNCH = 15e-6
"""Seconds that the host takes to launch an operator (assumed)."""
CONTEXT = 0.6e9
"""Bytes that CUDA and its libraries take per process (assumed)."""
CORES = 16
TEACHER_RATE, STUDENT_RATE = 400, 1_500
"""Instances per second that a CPU core prepares for a teacher (`write.host`) and a student (`loader.rate`) at 256x192.
For a teacher at 384x288, half of the rate is assumed."""


class Gpu(NamedTuple):
    """Published peaks: bytes per second, and dense operations per second in bf16 (T4: fp16)."""

    name: str
    bandwidth: float
    arithmetic: float


GPUS = (
    Gpu("T4", 0.320e12, 65e12),
    Gpu("L4", 0.300e12, 121e12),
    Gpu("RTX 4090", 1.008e12, 165e12),
    Gpu("A100 80 GB", 2.039e12, 312e12),
    Gpu("H200", 4.8e12, 989e12),
)


class Counted(NamedTuple):
    """What a batch does: (operations, bytes) of every operator, and the most bytes that its tensors occupy at once."""

    operators: Sequence[tuple[float, float]]
    peak: int

    def seconds(self, gpu: Gpu) -> float:
        """Seconds on a GPU."""
        busy = sum(
            max(flops / (ARITHMETIC * gpu.arithmetic), size / (BANDWIDTH * gpu.bandwidth))
            for flops, size in self.operators
        )
        return max(busy, LAUNCH * len(self.operators))


class Counter(TorchDispatchMode):
    """Counts the operators that run within it. Views are none: they move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[tuple[float, float]] = []
        self.live = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def hold(self, tensors: Sequence[Tensor]) -> None:
        """Count the memory of tensors, each storage once, until it is freed."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage in self._known:
                continue
            self._known.add(storage)
            self.live += storage.nbytes()
            weakref.finalize(storage, self._free, storage.nbytes())
        self.peak = max(self.peak, self.live)

    def _free(self, size: int) -> None:
        self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and count it."""
        with FlopCounterMode(display=False) as flops:
            result = func(*args, **(kwargs or {}))
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        aliases = any(value.alias_info is not None for value in func._schema.returns)
        if outputs and (func._schema.is_mutable or not aliases):
            size = sum(tensor.numel() * tensor.element_size() for tensor in inputs + outputs)
            self.operators.append((flops.get_total_flops(), size))
        self.hold(outputs)
        return result


def count_teacher(name: str, input_size: tuple[int, int], batch_size: int) -> Counted:
    """Count a batch of a teacher with the flip test: twice as many crops, in bf16."""
    with META:
        model = build_hrnet(name)
    network = TorchNetwork(HRNET, model, input_size, META, "bf16")
    images = torch.empty(2 * batch_size, 3, *input_size[::-1], device=META).to(memory_format=torch.channels_last)
    return _count(lambda: network.run(images), [*model.parameters(), *model.buffers(), images])


def count_step(input_size: tuple[int, int], batch_size: int) -> Counted:
    """Count a training step of the default student, forward, backward and AdamW, in bf16 with weights in float32."""
    with META:
        model = build_student(RECIPE.student, RECIPE.head, len(COCO.flip_order), input_size).train()
    images = torch.empty(batch_size, 3, *input_size[::-1], device=META).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), foreach=True)
    halved = model.bfloat16()

    def step() -> None:
        halved(images.bfloat16()).float().square().mean().backward()
        optimiser.step()

    step()  # makes the optimiser's state
    optimiser.zero_grad()
    state = [leaf for leaf in tree_leaves(optimiser.state_dict()) if isinstance(leaf, Tensor)]
    counted = _count(step, [*model.parameters(), *model.buffers(), images, *state])
    weights = sum(parameter.numel() for parameter in model.parameters())
    missing = (
        5 * 4 - 4 * 2
    )  # bytes per weight: weights, gradients, two moments and EMA in float32, of which four were counted
    return counted._replace(peak=counted.peak + missing * weights)


def count_samples(input_size: tuple[int, int], batch_size: int) -> Counted:
    """Count how ``--resident`` makes the images and heatmaps of a batch, from one stored view of each instance."""
    width, height = input_size
    maps = (batch_size, 1, len(COCO.flip_order), height // 4, width // 4)
    columns, rows = bordered_size((width * 5 // 4, height * 5 // 4))
    frames = torch.empty(batch_size, rows, columns, 3, dtype=torch.uint8, device=META)
    codes, peaks = torch.empty(maps, dtype=torch.uint8, device=META), torch.empty(maps[:3], device=META)
    places = torch.empty(batch_size, dtype=torch.int64, device=META)
    affines = torch.empty(batch_size, 2, 3, dtype=torch.float64, device=META)

    def make() -> tuple[Tensor, Tensor]:
        heatmaps = decode_codes(codes[places], peaks[places], RootCodec())
        return mean_maps(heatmaps, affines[:, None], (width // 4, height // 4)), warp_frames(
            frames, places, affines, input_size
        )

    return _count(make, [frames, codes])


def _count(run: Callable[[], object], held: Sequence[Tensor]) -> Counted:
    counter = Counter()
    counter.hold(held)
    with counter:
        run()
    return Counted(counter.operators, counter.peak)


def tables() -> str:
    """The tables of docs/coco.md."""
    return "\n".join([*_teachers(), "", *student_table(), "", *samples_table()])


def _teachers() -> list[str]:
    cases = [("hrnet_w32", (192, 256), TEACHER_RATE), ("hrnet_w48", (288, 384), TEACHER_RATE / 2)]
    lines = []
    for name, size, rate in cases:
        batches = [(batch, count_teacher(name, size, batch)) for batch in (32, 64, 256)]
        lines += ["", *_head(f"{name} at {size[1]}x{size[0]}, {INSTANCES:,} instances", batches)]
        lines += [_row(gpu, batches, INSTANCES) for gpu in GPUS]
        lines.append(_limit(rate, INSTANCES, len(batches)))
    return lines[1:]


def student_table() -> list[str]:
    """The table of the default student."""
    batches = [(batch, count_step((192, 256), batch)) for batch in (16, 128, 512)]
    head = _head(f"{RECIPE.student} at 256x192, an epoch of {INSTANCES:,} instances", batches)
    return [*head, *(_row(gpu, batches, INSTANCES) for gpu in GPUS), _limit(STUDENT_RATE, INSTANCES, len(batches))]


def samples_table() -> list[str]:
    """The table of ``--resident``."""
    batches = [(batch, count_samples((192, 256), batch)) for batch in (16, 128, 512)]
    head = _head(f"samples at 256x192 with `--resident`, an epoch of {INSTANCES:,} instances", batches)
    return [*head[:2], *(_row(gpu, batches, INSTANCES) for gpu in GPUS)]


def _head(title: str, batches: Sequence[tuple[int, Counted]]) -> list[str]:
    memory = (f"{(counted.peak + CONTEXT) / 1e9:.1f} GB" for _, counted in batches)
    names = " | ".join(f"batch {batch}" for batch, _ in batches)
    return [f"| {title} | {names} |", "|---" * (1 + len(batches)) + "|", f"| GPU memory | {' | '.join(memory)} |"]


def _row(gpu: Gpu, batches: Sequence[tuple[int, Counted]], instances: int) -> str:
    minutes = (counted.seconds(gpu) / batch * instances / 60 for batch, counted in batches)
    return f"| minutes on {gpu.name} | {' | '.join(_digits(value) for value in minutes)} |"


def _limit(rate: float, instances: int, columns: int) -> str:
    minutes = _digits(instances / (rate * CORES) / 60)
    return f"| minutes of {CORES} CPU cores | {' | '.join([minutes] * columns)} |"


def _digits(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def main(argv: list[str] | None = None) -> int:
    """Print the tables."""
    Parser(prog="python -m benchmarks.study.gpus", description=__doc__).parse_args(argv)
    print(tables())
    return 0


if __name__ == "__main__":
    exit_with(main)
