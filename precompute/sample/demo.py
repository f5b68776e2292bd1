"""The demo: the whole job on the embedded sample in five stages, each of which is a target of the Makefile.

    make demo                                        # the usual way to start it
    python -m precompute.sample.demo --make make --runs runs/sample

Before each stage, a line gives its number and an estimate of the time left. At the end, the command prints what to do
next with one's own pictures. After an interruption, `make demo` continues with the stage that was not finished.
"""

import argparse
import dataclasses
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from kdcli.flags import Parser, exit_with, local_path, refuse


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of the demo.

    Attributes:
        title: What it does, to follow its number.
        targets: Targets of the Makefile, and variables.
        seconds: What it takes on two CPU cores.
    """

    title: str
    targets: str
    seconds: float


STAGES: Final = (
    Stage("drawing people", "sample", 25),
    Stage("running the teacher once on every person", "cache GET_DATA=", 20),
    Stage("training the baseline, on the labels of a few persons", "baseline", 155),
    Stage("distilling the same student, on the teacher's heatmaps of all persons", "distill", 165),
    Stage("comparing both", "evaluate report", 25),
)
SKIPPED: Final = 0.1
"""If the stages so far took less than this share of their usual time, they were done before: their time is ignored."""
NEXT: Final = """\

Next, with your own pictures: put them into photos/images/, and the boxes of the persons in COCO's format into
photos/annotations/person_keypoints_train.json and person_keypoints_val.json (with keypoints in the latter). Then:

  make cache DATA=photos TEACHER=hrnet_w32_256x192 CACHE_ARGS=--unlabelled   # downloads the teacher and runs it once
  make distill DATA=photos                                                   # trains a student
  make export predict DATA=photos SOURCE=photo.jpg                           # finds the keypoints in a picture
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stages; returns 0, or 1 after a stage that failed or was interrupted."""
    parser = Parser(
        prog="python -m precompute.sample.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--make", default="make", metavar="COMMAND", help="how to run make (default: make)")
    parser.add_argument("--runs", type=local_path, required=True, metavar="DIR", help="folder of the training runs")
    arguments = parser.parse_args(argv)
    make = [*shlex.split(arguments.make), "--no-print-directory", "-s", "DATA=sample", "CONTINUE=yes"]
    return run(lambda stage: _wait([*make, *stage.targets.split()]), arguments.runs)


def run(start: Callable[[Stage], int], runs: Path) -> int:
    """Run the stages in order until one fails, with a line before each and instructions at the end.

    Args:
        start: Runs a stage; returns its exit code.
        runs: Folder of the training runs.
    """
    began = time.monotonic()
    for number, stage in enumerate(STAGES, start=1):
        left = minutes(time_left(number, time.monotonic() - began))
        _print(f"{number}/{len(STAGES)} {stage.title}, about {left} left")
        if start(stage):
            again = "make demo continues here; make clean deletes everything that the demo wrote"
            return refuse(f"the demo stopped in stage {number}/{len(STAGES)} ({stage.title}); {again}")
    _print(f"\nOpen {(runs / 'report.html').absolute()} in a browser.")
    _print(NEXT, end="")
    return 0


def time_left(number: int, elapsed: float) -> float:
    """Estimate the seconds from the beginning of a stage to the end of the demo.

    Args:
        number: Number of the stage, from 1.
        elapsed: Seconds that the earlier stages took. The estimate assumes that the others are as much faster or slower
            than usual.
    """
    before = sum(stage.seconds for stage in STAGES[: number - 1])
    rest = sum(stage.seconds for stage in STAGES[number - 1 :])
    known = before and elapsed > SKIPPED * before
    return rest * elapsed / before if known else rest


def minutes(seconds: float) -> str:
    """A rough duration: ``3 min``, or ``1 min`` for less."""
    return f"{max(1, round(seconds / 60))} min"


def _print(text: str, end: str = "\n") -> None:
    sys.stdout.write(text + end)
    sys.stdout.flush()  # the stages write to the same terminal or file


def _wait(command: Sequence[str]) -> int:
    """Run a command to its end, also after Ctrl-C: it receives that too, and saves what it has done."""
    process = subprocess.Popen(command)
    interrupted = False
    while True:
        try:
            return process.wait() or int(interrupted)
        except KeyboardInterrupt:
            interrupted = True


if __name__ == "__main__":
    exit_with(main)
