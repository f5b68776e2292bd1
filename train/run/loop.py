"""The training loop: baseline and distillation are the same loop with other loss weights.

A run can be killed at any moment: what its folder holds (`train.run.folder`) is whole, and the run that is resumed from
it ends as the uninterrupted one would have, bit for bit on a CPU. Every random number is decided by the seed and by
what it is for (epoch and row, or step and rank), so that there is no generator whose state could be lost.
"""

import contextlib
import json
import math
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cache.errors import StoreError
from kdcli.progress import say, show_progress
from kdcli.words import duration
from kdlib.errors import KdlibError
from kdlib.samples.loader import Loader, is_bad_record
from kdlib.students.loading import TorchStudent
from train.evaluate import in_store_order, measure, predict, to_json
from train.run.folder import write_history, write_text
from train.run.progress import Pace, Progress
from train.run.resume import restore
from train.run.settings import Run
from train.run.state import State
from train.run.stopping import StopRequest
from train.show.tensorboard import Board, Pictures
from train.supervision import Batch

RUNS, ASKED_TO_STOP, CANNOT = range(3)
"""What a rank says before each step; the highest of all ranks decides."""
REFUSALS = (KdlibError, StoreError, OSError)
"""Problems whose message says all."""
NAMED = 16
"""Instances of a batch that a line about it names."""


def fit(run: Run) -> dict[str, Any]:
    """Train a student and evaluate its best epoch.

    Returns:
        The content of ``metrics.json``.

    Raises:
        TrainError: If the run folder is taken, a checkpoint belongs to another run, a record is damaged, the disk is
            full, the loss is not finite, or somebody asked to stop.
    """
    with run.ranks.together():
        trainer = Trainer(run)
    restore(trainer.state)
    trainer.train()
    return trainer.finish()


class Trainer:
    """One run, from its first epoch that is left to its last."""

    def __init__(self, run: Run) -> None:
        self.run, self.ranks, self.state = run, run.ranks, State(run)
        self.pictures: Pictures | None = None
        self.pace = Pace()
        self.stop = StopRequest(speak=self.ranks.first)

    @property
    def progress(self) -> Progress:
        """How far the run is."""
        return self.state.progress

    @property
    def loader(self) -> Loader:
        """The training batches."""
        return self.state.loader

    def train(self) -> None:
        """Train the epochs that are left; a signal leaves a checkpoint to resume from."""
        self.board = Board(self.run.out if self.ranks.first else None, self.progress.step)
        with contextlib.closing(self.board), self.stop.heard():
            try:
                while self.progress.epoch < self.run.recipe.epochs:
                    self._train_epoch()
            except KeyboardInterrupt:
                self.ranks.fail(f"interrupted at once, {self.state.how_to_go_on()}")

    def _train_epoch(self) -> None:
        self.state.model.train()
        began = since = time.perf_counter()
        first = self.progress.step
        for batch in self._batches():
            losses = self._train_step(batch)
            if self.progress.step == 0:
                self.state.take_folder()
            self._note_bad_records()
            now = time.perf_counter()
            self.progress.add_step(losses, now - since)
            since = now
            self.board.add("train", losses, self.progress.step)
            if self.state.is_checkpoint_due():
                self._save()
        if self.state.has_unsaved_steps:  # the evaluation may take longer than a cluster grants
            self._save()
        self.pace.add_steps(self.progress.step - first, time.perf_counter() - began)
        self._close_epoch()

    def _batches(self) -> Iterator[Batch]:
        first, length = self.progress.steps_of_epoch, len(self.loader)
        label = f"{self.run.name} epoch {self.progress.epoch + 1}/{self.run.recipe.epochs}"
        source = self.loader.epoch(self.progress.epoch, first)
        bar = show_progress(label, "steps", first, shown=self.ranks.first, transient=True)
        with bar as progress, contextlib.closing(source):  # type: ignore[type-var]
            progress(first, length)
            for step in range(first + 1, length + 1):
                yield self._next(source)
                progress(step, length)

    def _next(self, source: Iterator[Batch]) -> Batch:
        """The next batch, once all ranks have theirs and nobody asked to stop."""
        batch, problem = None, None
        try:
            batch = next(source)
        except Exception as error:  # whatever a thread of the loader met
            problem = error
        wish = CANNOT if problem else ASKED_TO_STOP if self.stop.signal else RUNS
        decided = self.ranks.highest(wish)
        if decided != RUNS:
            self._end(problem, self.stop.signal or "another process")
        assert batch is not None  # noqa: S101 - a rank without a batch had a problem
        return batch

    def _end(self, problem: Exception | None, who: str) -> None:
        """Write a checkpoint between two steps, if there is anything to keep, and end all ranks."""
        reason = _reason(problem) if problem else None
        try:
            if self.state.has_unsaved_steps:
                self._save()
        except KdlibError as error:
            reason = f"{reason}; and {error}" if reason else str(error)
        self.ranks.agree(f"{reason}; {self.state.how_to_go_on()}" if reason else None)
        self.ranks.fail(f"stopped by {who}, {self.state.how_to_go_on()}")

    def _train_step(self, batch: Batch) -> dict[str, float]:
        """One step of the optimiser; returns the loss and its terms."""
        losses = self.state.stepper.gradients(batch, self.progress.step)
        self._check_finite("loss", losses["loss"], batch)
        self._check_finite("gradient's norm", self.state.stepper.clip(), batch)
        self.state.stepper.update(self.progress.step)
        return losses

    def _check_finite(self, what: str, value: float, batch: Batch) -> None:
        if math.isfinite(value):
            return
        rows = [row for rows in self.ranks.gather(batch["row"].tolist()) for row in rows]
        ids = ", ".join(map(str, self.run.store.instances["annotation_id"][rows[:NAMED]]))
        more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
        self.ranks.fail(
            f"the {what} is {value} at step {self.progress.step + 1}, before the optimiser took it in; the batch's "
            f"annotation ids are {ids}{more}: look at these instances, or lower --learning-rate and "
            f"start anew ({self.state.kept()})"
        )

    def _save(self) -> None:
        self.board.flush()
        self.state.save()

    def _close_epoch(self) -> None:
        """Evaluate, keep the best, write the checkpoint and then the history that it holds."""
        began = time.perf_counter()
        student = self.state.plain_student()
        metrics = self._evaluate(student)
        more = {"bad_records": len(self.progress.bad_records)} if self.run.skip_bad_records else {}
        line = self.progress.close_epoch(self.loader.batch_size, metrics, more)
        if self.ranks.first:
            self._show(student, metrics)
            self.state.keep_best(student, metrics)
            self._save()
            write_history(self.run.out, self.progress.history)
            self.pace.add_end(time.perf_counter() - began)
            say(_epoch_line(self.run.name, self.run.recipe.epochs, line) + self._to_go())
            for why in list(self.progress.bad_records.values())[:1]:
                say(f"bad records so far, each replaced by another: {len(self.progress.bad_records)}, e.g. {why}")

    def _to_go(self) -> str:
        epochs = self.run.recipe.epochs - self.progress.epoch
        seconds = self.pace.left(self.state.steps - self.progress.step, epochs)
        return "" if seconds is None else f", {duration(seconds)} to go"

    def _show(self, student: TorchStudent, metrics: dict[str, Any]) -> None:
        """Numbers and a few persons of the validation store, for TensorBoard."""
        self.board.add("val", {name: metrics[name] or 0.0 for name in ("ap", "pck@0.05")}, self.progress.step)
        if self.pictures is None:
            self.pictures = Pictures(
                self.run.val_store, self.run.input_size, self.run.val_images, stride=self.run.recipe.stride
            )
        picture = self.pictures.draw(student)
        self.board.show("val/people", picture, self.progress.step)

    def _evaluate(self, student: TorchStudent) -> dict[str, Any]:
        """Metrics of the student as it is, computed from all ranks' predictions; empty but on rank 0."""
        mine, problem = None, None
        try:
            with show_progress("evaluate", "batches", shown=self.ranks.first, transient=True) as progress:
                mine = predict(student, self.state.val_loader, progress=progress)
        except Exception as error:  # whatever the loader or the device met
            problem = f"in the evaluation: {_what(error)}; {self.state.how_to_go_on()}"
        self.ranks.agree(problem)
        assert mine is not None  # noqa: S101 - a rank without predictions had a problem
        parts = self.ranks.gather(mine)
        if not self.ranks.first:
            return dict.fromkeys(("ap", "ap50", "pck@0.05", "pck@0.1"))
        metrics: dict[str, Any] = json.loads(to_json(measure(self.run.val_store, in_store_order(parts))))
        return {**metrics, "decoder": mine.decoder}

    def _note_bad_records(self) -> None:
        if self.run.skip_bad_records:
            for of_rank in self.ranks.gather(self.loader.bad):
                self.progress.bad_records |= of_rank

    def finish(self) -> dict[str, Any]:
        """Write ``metrics.json``: the best epoch's evaluation, and what the training took."""
        progress = self.progress
        metrics = {
            **(progress.best or {}),
            "model": self.run.name,
            "store": self.run.val_store.path.name,
            "train_seconds": round(progress.seconds, 1),
            "train_instances_per_second": round(
                progress.step * self.loader.batch_size / max(progress.seconds, 1e-9), 1
            ),
        }
        if self.run.skip_bad_records:
            metrics["bad_records"] = len(progress.bad_records)
        if self.ranks.first:
            write_text(self.run.out / "metrics.json", to_json(metrics, indent=2) + "\n")
        self.ranks.leave()
        return metrics


def _reason(problem: Exception) -> str:
    """One line for what a loader met, and why training cannot go on."""
    if is_bad_record(problem):
        return f"{problem}; --skip-bad-records trains without such records"
    return _what(problem) if isinstance(problem, REFUSALS) else f"a loader thread failed: {_what(problem)}"


def _what(problem: Exception) -> str:
    """One line for a problem; with its place if it is none of our own refusals."""
    if isinstance(problem, REFUSALS):
        return str(problem)
    frame = traceback.extract_tb(problem.__traceback__)[-1]
    return f"{type(problem).__name__}: {problem} ({Path(frame.filename).name}, line {frame.lineno})"


def _epoch_line(name: str, epochs: int, line: dict[str, Any]) -> str:
    ap = float("nan") if line["ap"] is None else line["ap"]
    return (
        f"{name} epoch {line['epoch']}/{epochs}: loss {line['loss']:.3f}, AP {ap:.1f}, "
        f"PCK@0.05 {line['pck@0.05']:.1f}, {line['instances_per_second']:.0f} instances/s"
    )
