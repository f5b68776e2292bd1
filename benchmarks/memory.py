"""Does a trainer grow with its store, or over an epoch? `python -m benchmarks.memory`.

train.memory   resident megabytes of a process that loads training samples from a large store, over the same with a
               small store; `growth` is the resident size after all samples over that after a quarter of them

The same number of samples is loaded from both, by the trainer's own loader, in a process of its own.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.alone import run_alone
from benchmarks.repeated import write_repeated
from benchmarks.report import Line
from benchmarks.workspace import ROOT, Workspace

BATCHES = 64
BATCH_SIZE = 32
LOADS = """
import json, os, sys, cache
from train.augment import Augmentation
from train.dataset import StoreDataset
from train.loader import Loader

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

store = cache.open_store(sys.argv[1])
loader = Loader(StoreDataset(store, augmentation=Augmentation()), int(sys.argv[3]), shuffle=True)
sizes, epoch = [], 0
while len(sizes) < int(sys.argv[2]):
    for batch in loader.epoch(epoch):
        sizes.append(resident())
        if len(sizes) == int(sys.argv[2]):
            break
    epoch += 1
print(json.dumps(sizes))
"""
"""Prints the resident megabytes after every batch."""


def run(workspace: Workspace) -> Iterator[Line]:
    """One line; Linux only, where the kernel tells a process its size."""
    counts = {"small": workspace.effort.small, "large": workspace.effort.large}
    if not Path("/proc/self/statm").exists():
        return
    sizes = {}
    for name, count in counts.items():
        path = workspace.folder / f"memory-{name}.zarr"
        write_repeated(path, count, frames=True)
        sizes[name] = resident_sizes(path)
        shutil.rmtree(path)
    large = sizes["large"]
    growth = {name: round(of[-1] / of[len(of) // 4], 3) for name, of in sizes.items()}
    extra = {"instances": counts["large"], "growth": growth}
    peer = f"{counts['small']} instances"
    yield Line("train", "memory", large[-1], "MB", BATCHES * BATCH_SIZE, peer, sizes["small"][-1], extra)


def resident_sizes(path: Path, batches: int = BATCHES) -> list[float]:
    """Resident megabytes of a process after each batch it has loaded from the store."""
    command = [sys.executable, "-c", LOADS, str(path), str(batches), str(BATCH_SIZE)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))


if __name__ == "__main__":
    run_alone(run, __doc__)
