"""Training steps with `--compile` over steps without it: `python -m benchmarks.trainer.compiling`.

train.compiled_over_eager   instances/s of training steps with `torch.compile` over the same without it: the default
                            student, batches in memory, steady state. `compile_seconds` is the extra time of the first
                            step with an empty compiler cache; `pays_after` is the number of instances after which
                            compiling has saved time, null if it never does. `cpu` and `spread` as in `steps`

No line is reported where `torch.compile` does not work.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from benchmarks.support.alone import run_alone
from benchmarks.support.batches import MemoryBatches, StoreBatches
from benchmarks.support.report import Line
from benchmarks.support.timing import interleave_on
from benchmarks.support.turn import Turn
from benchmarks.support.workspace import Workspace
from kdlib.machine.device import choose_device
from train.recipe import Recipe
from train.run.loop import Run, Trainer
from train.run.step import compiler_problem

BATCH_SIZE = 16
INPUT_SIZE = (192, 256)
IN_MEMORY = 4
"""Number of batches in memory."""


def run(workspace: Workspace, input_size: tuple[int, int] = INPUT_SIZE) -> Iterator[Line]:
    """Yield one line, for an input size (width, height)."""
    device, size = choose_device("auto"), min(BATCH_SIZE, workspace.effort.batch_size)
    store = workspace.store("sample", input_size)
    with contextlib.closing(StoreBatches(store, None, size, device)) as batches:
        memory = MemoryBatches([next(batches) for _ in range(IN_MEMORY)])
        batches.drain()
    with _empty_cache(workspace.folder / "compiler"):
        problem = compiler_problem(device)
        if problem:
            print(f"torch.compile does not work here: {problem}", file=sys.stderr)
            return
        recipe = Recipe(pretrained="none", batch_size=size)
        trainers = {
            name: Trainer(Run(store, store, workspace.folder / name, recipe, distil=False, device=device))
            for name in ("eager", "compiled")
        }
        trainers["compiled"].state.stepper.wrap(compiled=True)
        steps = workspace.effort.steps
        turns = {name: Turn(memory, steps, device, trainer.train_step) for name, trainer in trainers.items()}
        started = time.perf_counter()
        Turn(memory, 1, device, trainers["compiled"].train_step)()
        first = time.perf_counter() - started
        timings = interleave_on(
            {"wall": time.perf_counter, "cpu": time.process_time}, dict(turns), workspace.effort.rounds
        )
    wall, cpu = timings["wall"], timings["cpu"]
    seconds = first - size * wall.median("compiled")
    saved = wall.median("eager") - wall.median("compiled")
    extra = {
        "input_size": f"{input_size[1]}x{input_size[0]}",
        "student": recipe.student,
        "head": recipe.head,
        "batch_size": size,
        "compile_seconds": round(seconds, 1),
        "pays_after": round(seconds / saved) if saved > 0 else None,
        "paired": wall.paired("eager", "compiled"),
        "spread": wall.spread("eager", "compiled"),
        "cpu": {"paired": cpu.paired("eager", "compiled"), "spread": cpu.spread("eager", "compiled")},
    }
    n = wall.items["compiled"]
    yield Line(
        "train", "compiled_over_eager", wall.rate("compiled"), "instances/s", n, "eager", wall.rate("eager"), extra
    )


def _empty_cache(folder: Path) -> contextlib.AbstractContextManager[object]:
    return mock.patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=str(folder))


if __name__ == "__main__":
    run_alone(run, __doc__)
