"""Resident memory of training from a large store over a small one: `python -m benchmarks.trainer.memory`.

train.memory   resident megabytes of `python -m train distill` with a large store, over the same with a small store;
               `growth` is the resident size after the last step over that after a quarter of the steps

A student at a small input size does the same number of steps from both stores, fewer than an epoch of the small store.
Each run is a separate process.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.support.alone import run_alone
from benchmarks.support.repeated import write_repeated
from benchmarks.support.report import Line
from benchmarks.support.workspace import ROOT, Workspace

STEPS = 60
BATCH_SIZE = 8
TRAINER = """
import json, os, sys
from train.__main__ import main
from train.run.loop import Trainer

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

def measured(trainer, batch):
    losses = step(trainer, batch)
    sizes.append(resident())
    if len(sizes) == int(sys.argv[1]):
        print(json.dumps(sizes), flush=True)
        os._exit(0)
    return losses

sizes, step, Trainer.train_step = [], Trainer.train_step, measured
sys.exit(main(sys.argv[2:]))
"""
"""The trainer, which prints its resident megabytes after every step as one JSON list."""


def run(workspace: Workspace) -> Iterator[Line]:
    """Yield one line; none where /proc is missing, that is, outside Linux."""
    counts = {"small": workspace.effort.small, "large": workspace.effort.large}
    if not Path("/proc/self/statm").exists():
        return
    sizes = {}
    for name, count in counts.items():
        path = workspace.folder / f"memory-{name}.zarr"
        write_repeated(path, count, frames=True)
        sizes[name] = resident_sizes(path, workspace.folder / "run")
        shutil.rmtree(path)
    large = sizes["large"]
    growth = {name: round(sizes_of[-1] / sizes_of[len(sizes_of) // 4], 3) for name, sizes_of in sizes.items()}
    extra = {"instances": counts["large"], "growth": growth}
    peer = f"{counts['small']} instances"
    yield Line("train", "memory", large[-1], "MB", STEPS * BATCH_SIZE, peer, sizes["small"][-1], extra)


def resident_sizes(store: Path, out: Path) -> list[float]:
    """Train from a store and return the resident megabytes after each step; the run folder is deleted."""
    student = ["--pretrained", "none", "--input-size", "64x48", "--batch-size", str(BATCH_SIZE), "--precision", "fp32"]
    stores = ["--store", str(store), "--val-store", str(store)]
    command = [sys.executable, "-c", TRAINER, str(STEPS), "distill", *stores, *student, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    shutil.rmtree(out)
    return list(json.loads(done.stdout))


if __name__ == "__main__":
    run_alone(run, __doc__)
