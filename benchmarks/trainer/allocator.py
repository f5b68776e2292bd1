"""A training step that keeps freed memory over glibc's default: `python -m benchmarks.trainer.allocator`.

train.kept_memory   CPU seconds per instance in a training step of the default student at 256x192, with the allocator
                    configured as in `python -m train` (`kdlib.machine.process`), over glibc's default; `system` is the
                    kernel's share of both in seconds, `faults` the page faults per step, `resident` the largest
                    resident size in MB

Each round and mode runs in its own process, because the setting cannot be undone. Only CPU time is measured: most of
the saving is kernel time.
"""

import functools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.support.alone import run_alone
from benchmarks.support.report import Line
from benchmarks.support.timing import interleave
from benchmarks.support.workspace import ROOT, Workspace
from kdlib.machine.process import MALLOC_SETTINGS

STEPS = """
import json, resource, sys
import kdlib.machine.process
if sys.argv[1] == "keep":
    kdlib.machine.process.keep_freed_memory()
import torch
from kdlib.losses import spatial_kl
from train.recipe import Recipe
from kdlib.students.networks import build_student

torch.set_num_threads(1)
size, steps = int(sys.argv[2]), int(sys.argv[3])
recipe = Recipe()
student = build_student(recipe.student, recipe.head, 17, (192, 256)).to(memory_format=torch.channels_last)
student.add_norms()
images = torch.randn(size, 3, 256, 192).contiguous(memory_format=torch.channels_last)
target, weight = torch.randn(size, 17, 64, 48), torch.ones(size, 17)

def train(steps):
    for _ in range(steps):
        student.zero_grad(set_to_none=True)
        spatial_kl(student(images), target, weight).backward()

train(2)
before = resource.getrusage(resource.RUSAGE_SELF)
train(steps)
after = resource.getrusage(resource.RUSAGE_SELF)
user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
faults = (after.ru_minflt - before.ru_minflt) / steps
print(json.dumps({"seconds": user + system, "system": system, "faults": faults, "resident": after.ru_maxrss / 1024}))
"""
MODES = ("keep", "default")


def run(workspace: Workspace) -> Iterator[Line]:
    """Yield one line, or none where the allocator is not glibc's."""
    if not sys.platform.startswith("linux"):
        return
    size, steps = min(16, workspace.effort.batch_size), 4 * workspace.effort.steps
    found: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}

    def measure(mode: str) -> tuple[int, float]:
        command = [sys.executable, "-c", STEPS, mode, str(size), str(steps)]
        environment = {name: value for name, value in os.environ.items() if name not in MALLOC_SETTINGS}
        done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
        found[mode].append(json.loads(done.stdout))
        return size * steps, found[mode][-1]["seconds"]

    blocks = {mode: functools.partial(measure, mode) for mode in MODES}
    timings = interleave(blocks, workspace.effort.rounds_times(0.7))
    ours, theirs = (timings.median(mode) for mode in MODES)
    medians = {
        name: [round(statistics.median(one[name] for one in found[mode]), 3) for mode in MODES]
        for name in ("system", "faults", "resident")
    }
    extra = {"paired": timings.paired(*MODES), "spread": timings.spread(*MODES), "batch_size": size, **medians}
    n = timings.items["keep"]
    yield Line("train", "kept_memory", ours, "CPU s per instance", n, "glibc default", theirs, extra)


if __name__ == "__main__":
    run_alone(run, __doc__)
