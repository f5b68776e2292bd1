"""Time from the command to the first training step, over importing torch: `python -m benchmarks.trainer.first_step`.

train.first_step   seconds from starting `python -m train distill` on a store of the sample's people to the end of its
                   first optimiser step, over `python -c "import torch, torchvision"`; `beyond` is the difference

A warm-up round fills the page cache and numba's cache of compiled kernels on disk.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.support.alone import run_alone
from benchmarks.support.report import Line
from benchmarks.support.timing import Work, interleave, timed
from benchmarks.support.workspace import ROOT, Workspace

SIZE = (96, 128)
ONE_STEP = """
import os, sys
from train.__main__ import main
from train.run.loop import Trainer

step = Trainer.train_step

def step_and_exit(trainer, batch):
    step(trainer, batch)
    os._exit(0)

Trainer.train_step = step_and_exit
sys.exit(main(sys.argv[1:]))
"""
"""The command, which exits after its first step."""


def run(workspace: Workspace) -> Iterator[Line]:
    """Yield one line."""
    store = workspace.store_path("sample", SIZE)
    work: dict[str, Work] = {
        "step": lambda: _python(ONE_STEP, *_command(store, workspace.folder / "first")),
        "import": lambda: _python("import torch, torchvision"),
    }
    blocks = {name: timed(run_once) for name, run_once in work.items()}
    timings = interleave(blocks, workspace.effort.rounds_times(0.7))
    ours, theirs = timings.median("step"), timings.median("import")
    extra = {"beyond": round(ours - theirs, 3), "spread": timings.spread("step", "import")}
    yield Line("train", "first_step", ours, "s", timings.items["step"], "import torch, torchvision", theirs, extra)


def _command(store: Path, out: Path) -> list[str]:
    stores = ["--store", str(store), "--val-store", str(store), "--out", str(out)]
    return ["distill", *stores, "--overwrite", "--pretrained", "none"]


def _python(program: str, *arguments: str) -> int:
    subprocess.run([sys.executable, "-c", program, *arguments], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    return 1


if __name__ == "__main__":
    run_alone(run, __doc__)
