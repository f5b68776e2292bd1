"""The cost of a store over that of an online teacher: `python -m benchmarks.study.cost`.

    python -m benchmarks.study.cost            both teachers, JSON lines
    python -m benchmarks.study.cost --write    the same, and write the tables of docs/cost.md

cost.teacher, step, loss, normalise, load, load_maps   milliseconds of CPU time per instance: HRNet's forward pass, a
                  distilling step on a batch in memory, the loss and the normalisation in that step, the loader without
                  and with the maps; `quartiles` over the rounds
cost.paid_after   epochs, over all students, after which a store has cost less than an online teacher;
                  `passes` are the forward passes per instance that made the store
cost.epoch        milliseconds per instance of an epoch from the store, over one with the teacher online
cost.bytes        bytes per instance of a store, over its maps in float32

torch and the loader use one thread each, and their CPU times are added. Contenders take turns of one batch. Frames are
those of real photographs if these are present, else those of the sample; the heatmaps are `synthetic`.
"""

import argparse
import contextlib
import dataclasses
import datetime
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import cache
from benchmarks.support.batches import MemoryBatches, StoreBatches
from benchmarks.support.effort import QUICK, Effort
from benchmarks.support.online import OnlineTeacher
from benchmarks.support.report import Line, machine
from benchmarks.support.synthetic import JOINTS
from benchmarks.support.timing import Timings, Work, interleave_on
from benchmarks.support.turn import Turn
from benchmarks.support.workspace import ROOT, Workspace
from cache.commands.info import describe
from kdcli.flags import Parser
from kdlib.images import normalise_images
from train.recipe import Recipe
from train.run.loop import Run, Trainer
from train.supervision import Batch, Supervision

CPU = torch.device("cpu")
PAGE = ROOT / "docs" / "cost.md"
BEGIN, END = "<!-- begin: python -m benchmarks.study.cost --write -->", "<!-- end -->"
INSTANCES = 150_000
GIGABYTE_MONTH = 0.023
"""Assumed price of object storage."""
CORE_HOUR = 0.04
"""Assumed price of a rented core."""
LABELS = {
    "teacher": "the teacher's forward pass, t",
    "step": "a student's distillation step, with its batch in memory",
    "loss": "of this, the loss, forward and backward",
    "normalise": "of this, normalising the images",
    "load": "the loader without heatmaps",
    "load_maps": "the loader with heatmaps",
}


class Case(NamedTuple):
    """Input size (width, height), the teacher's architecture, and instances per batch."""

    input_size: tuple[int, int]
    teacher: str
    batch_size: int

    def __str__(self) -> str:
        return f"{self.teacher} at {self.input_size[1]}x{self.input_size[0]}"


CASES = (Case((192, 256), "hrnet_w32", 8), Case((288, 384), "hrnet_w48", 2))


class Measured(NamedTuple):
    """Median and quartiles over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def from_rounds(cls, milliseconds: Sequence[float]) -> "Measured":
        """Compute and round to the printed digits, so that derived numbers can be checked by hand."""
        low, median, high = (_three_digits(value) for value in np.quantile(milliseconds, (0.25, 0.5, 0.75)))
        return cls(median, low, high)

    def __str__(self) -> str:
        return f"{self.median:g} ({self.low:g} to {self.high:g})"


@dataclasses.dataclass(frozen=True)
class Figures:
    """The measurements of a teacher and the numbers derived from them."""

    name: str
    heatmap_size: tuple[int, int]
    views: int
    """Stored views."""
    passes: int
    """Forward passes per instance that made them."""
    milliseconds: Mapping[str, Measured]
    """Per instance, for every key of `LABELS`."""
    view_bytes: int
    """Mean bytes of the maps of one view."""
    frame_bytes: int
    """Mean bytes of a frame."""

    def __getitem__(self, name: str) -> float:
        return self.milliseconds[name].median

    @property
    def reading(self) -> float:
        """Milliseconds that reading the maps costs per instance and epoch."""
        return self["load_maps"] - self["load"]

    @property
    def paid_after(self) -> float:
        """Epochs, over all students, after which the store has paid for itself."""
        return self.passes * self["teacher"] / (self["teacher"] - self.reading)

    @property
    def epochs(self) -> tuple[float, float]:
        """Milliseconds per instance of an epoch: from the store, and with the teacher online."""
        return self["step"] + self["load_maps"], self["step"] + self["load"] + self["teacher"]

    @property
    def exact_bytes(self) -> int:
        """Bytes of an instance's maps in float32."""
        return self.views * JOINTS * self.heatmap_size[0] * self.heatmap_size[1] * 4

    @property
    def bytes(self) -> int:
        """Bytes of an instance's maps and frame."""
        return self.views * self.view_bytes + self.frame_bytes


def _three_digits(value: float) -> float:
    return float(f"{value:.3g}")


def run(workspace: Workspace) -> Iterator[Line]:
    """Yield the lines of the first teacher; with ``full``, of both."""
    for case in CASES if workspace.effort.full else CASES[:1]:
        yield from lines(*measure(workspace, case))


def measure(workspace: Workspace, case: Case) -> tuple[Figures, Timings]:
    """Measure all parts with one teacher in the same rounds."""
    path = workspace.store_path(workspace.sources[-1], case.input_size)
    store = cache.open_store(path)
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
        work = _contenders(workspace, case, store, stack)
        timings = interleave_on({"cpu": time.process_time}, work, workspace.effort.rounds)["cpu"]
    facts = describe(path)
    milliseconds = {name: Measured.from_rounds([1e3 * seconds for seconds in timings.seconds[name]]) for name in LABELS}
    return Figures(
        name=str(case),
        heatmap_size=(store.spec.width, store.spec.height),
        views=store.spec.views,
        passes=store.spec.views * (1 + store.manifest["provenance"]["teacher"]["flip_test"]),
        milliseconds=milliseconds,
        view_bytes=round(facts["heatmap_bytes_per_view"]),
        frame_bytes=round(facts["frame_bytes"] / len(store)),
    ), timings


def _contenders(workspace: Workspace, case: Case, store: cache.Store, stack: contextlib.ExitStack) -> dict[str, Work]:
    size = case.batch_size
    plain, maps = (
        stack.enter_context(contextlib.closing(StoreBatches(store, views, size, CPU, threads=1)))
        for views in (None, "average")
    )
    memory = MemoryBatches([next(maps) for _ in range(2)])
    teacher = OnlineTeacher(case.teacher, CPU)
    recipe = Recipe(pretrained="none", batch_size=size)
    trainer = Trainer(Run(store, store, workspace.folder / "run", recipe, distil=True, device=CPU, threads=1))
    return {
        "teacher": Turn(memory, 1, CPU, lambda batch: teacher(batch["image"])),
        "step": Turn(memory, 1, CPU, trainer.train_step),
        "loss": Turn(memory, 8, CPU, _Loss(trainer.state.supervision)),
        "normalise": Turn(memory, 8, CPU, lambda batch: normalise_images(batch["image"])),
        "load": Turn(plain, 8, CPU),
        "load_maps": Turn(maps, 8, CPU),
    }


class _Loss:
    """Forward and backward pass of a loss on maps of zeros."""

    def __init__(self, supervision: Supervision) -> None:
        self._supervision = supervision

    def __call__(self, batch: Batch) -> None:
        maps = torch.zeros_like(batch["heatmaps"]).requires_grad_()
        torch.stack(list(self._supervision.terms(maps, batch).values())).sum().backward()


def lines(figures: Figures, timings: Timings) -> Iterator[Line]:
    """Yield the lines of the measured and of the derived numbers."""
    extra, n = {"teacher": figures.name}, timings.items["step"]
    for name, measured in figures.milliseconds.items():
        more = {**extra, "quartiles": [measured.low, measured.high]}
        yield Line("cost", name, measured.median, "ms", timings.items[name], extra=more)
    ours, online = figures.epochs
    yield Line("cost", "paid_after", figures.paid_after, "epochs", n, extra={**extra, "passes": figures.passes})
    yield Line("cost", "epoch", ours, "ms", n, "teacher online", online, extra)
    yield Line("cost", "bytes", figures.bytes, "B", n, "float32", figures.exact_bytes, extra)


def tables(columns: Sequence[Figures]) -> str:
    """Format the tables of docs/cost.md as Markdown, one column per teacher."""
    head = ["| {} | " + " | ".join(figures.name for figures in columns) + " |", "|---" * (len(columns) + 1) + "|"]

    def row(label: str, *cells: str) -> str:
        return "| " + " | ".join([label, *cells]) + " |"

    measured = [row(text, *(str(figures.milliseconds[name]) for figures in columns)) for name, text in LABELS.items()]
    instance = [
        row("bytes of a view's heatmaps", *(f"{figures.view_bytes:,}" for figures in columns)),
        row("bytes of a frame", *(f"{figures.frame_bytes:,}" for figures in columns)),
        row("r, reading the heatmaps", *(f"{figures.reading:.2f}" for figures in columns)),
        row("epochs after which a store pays off", *(f"{figures.paid_after:.2f}" for figures in columns)),
        row("an epoch with an online teacher / from the store", *(f"{_gain(figures):.2f}" for figures in columns)),
    ]
    all_instances = [row(label, *(cell(figures) for figures in columns)) for label, cell in _TOTALS.items()]
    first = [head[0].format("milliseconds per instance"), head[1], *measured, *instance]
    second = [head[0].format(f"{INSTANCES:,} instances"), head[1], *all_instances]
    return "\n".join([*first, "", *second])


def _gain(figures: Figures) -> float:
    ours, online = figures.epochs
    return online / ours


def _gigabytes(bytes_per_instance: float) -> float:
    return bytes_per_instance * INSTANCES / 1e9


def _hours(milliseconds: float) -> float:
    return milliseconds * INSTANCES / 3.6e6


_EPOCHS = Recipe().epochs
_TOTALS = {
    "store: heatmaps + frames": lambda figures: (
        f"{_gigabytes(figures.views * figures.view_bytes):.1f} + {_gigabytes(figures.frame_bytes):.1f} GB"
    ),
    "heatmaps in float32 instead": lambda figures: f"{_gigabytes(figures.exact_bytes):.0f} GB",
    "the teacher, once": lambda figures: f"{_hours(figures.passes * figures['teacher']):.0f} core-hours",
    f"an online teacher, a student of {_EPOCHS} epochs": lambda figures: (
        f"{_hours(_EPOCHS * figures['teacher']):.0f} core-hours"
    ),
    f"reading the heatmaps, a student of {_EPOCHS} epochs": lambda figures: (
        f"{_hours(_EPOCHS * figures.reading):.1f} core-hours"
    ),
    f"the teacher, once, at {CORE_HOUR} per core-hour (assumed)": lambda figures: (
        f"{_hours(figures.passes * figures['teacher']) * CORE_HOUR:.2f}"
    ),
    f"storing it for a month, at {GIGABYTE_MONTH} per GB (assumed)": lambda figures: (
        f"{_gigabytes(figures.bytes) * GIGABYTE_MONTH:.2f}"
    ),
}
"""Label of a row -> function that formats its cell."""


def write_page(page: Path, columns: Sequence[Figures], rounds: int, day: datetime.date) -> None:
    """Replace the tables between the markers of the page."""
    source = f"Measured on `{machine()}`, {day.isoformat()}: medians of {rounds} rounds (quartiles)."
    block = f"{BEGIN}\n\n{source}\n\n{tables(columns)}\n\n{END}"
    text, found = re.subn(f"{BEGIN}.*{END}", lambda _: block, page.read_text(), flags=re.DOTALL)
    assert found == 1, f"{page} must mark the place of the tables once"  # noqa: S101 - a page of this repository
    page.write_text(text)


def main(argv: list[str] | None = None) -> int:
    """Measure both teachers and print the lines; with --write, update the page."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    effort_or_page = parser.add_mutually_exclusive_group()
    effort_or_page.add_argument("--quick", action="store_true", help="smallest sizes, to check that it runs")
    effort_or_page.add_argument("--write", action="store_true", help="write the tables into docs/cost.md")
    arguments = parser.parse_args(argv)
    effort, columns = QUICK if arguments.quick else Effort(), []
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder), effort)
        for case in CASES:
            figures, timings = measure(workspace, case)
            columns.append(figures)
            for line in lines(figures, timings):
                print(json.dumps(line.to_json()), flush=True)
    if arguments.write:
        write_page(PAGE, columns, effort.rounds, datetime.date.today())
    return 0


if __name__ == "__main__":
    sys.exit(main())
