"""The training loop: build, start or resume, train epoch by epoch, evaluate, save, report.

Baseline and distillation are the same loop with other weights of the loss.

A run can be killed at any moment: the files in its folder (`train.run.folder`) are complete, and a run resumed from
them gives the same result as an uninterrupted run, bit for bit on a CPU. Every random number depends only on the seed
and on its use (epoch and row, or step and rank), so checkpoints need no generator states.
"""

import contextlib
import json
import math
import time
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from kdcli.memory import describe_out_of_memory, is_out_of_memory
from kdcli.progress import show_progress
from kdlib.errors import KdlibError
from kdlib.samples.loader import Loader
from kdlib.students.loading import TorchStudent
from train.errors import LESS_MEMORY, TrainError
from train.evaluate import in_store_order, measure, predict, to_json
from train.run.folder import RunFolder
from train.run.progress import Progress
from train.run.reporting import Reporter
from train.run.resume import start_or_resume
from train.run.settings import Run
from train.run.state import build_state
from train.run.step import Measurements
from train.run.stopping import StopRequest, Vote, describe_loader_problem, describe_problem
from train.supervision import Batch

SHOWN_IDS: Final = 16
"""Number of annotation ids of a batch that a message lists."""
READ_EVERY: Final = {"cpu": 1, "mps": 1, "cuda": 20}
"""Steps between two readings of the losses, by device: a GPU is idle while the host waits for a reading."""


def fit(run: Run) -> dict[str, Any]:
    """Train a student and evaluate its best epoch.

    Returns:
        The content of ``metrics.json``.

    Raises:
        TrainError: If the folder holds a run, a checkpoint belongs to another run, a record is damaged, the disk or
            the memory is full, the loss is not finite, or a signal stops the run.
    """
    try:
        with run.ranks.fail_together():
            trainer = Trainer(run)
        trainer.start()
        trainer.train()
        return trainer.finish()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise TrainError(f"{describe_out_of_memory(error)}; {LESS_MEMORY}") from error


class Trainer:
    """One training run.

    Attributes:
        run: Its inputs.
        state: Its parts: student, optimiser, batches, progress.
        folder: Writes its checkpoints and other files.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.ranks, self.state = run, run.ranks, build_state(run)
        self.folder = RunFolder(self.state)
        self._stop = StopRequest(announce=self.ranks.first)
        self._unread: list[Measurements] = []

    @property
    def progress(self) -> Progress:
        """The progress of the run."""
        return self.state.progress

    @property
    def loader(self) -> Loader:
        """The training batches."""
        return self.state.loader

    def start(self) -> None:
        """Load the start weights or the checkpoint of a run that is resumed and, with ``--resident``, the store."""
        start_or_resume(self.state, self.folder)

    def train(self) -> None:
        """Train the remaining epochs; a signal ends the run with a checkpoint from which it can be resumed."""
        self._reporter = Reporter(self.state)
        self._reporter.report_stores()
        self._reporter.report_sources()
        self._reporter.report_choice()
        with contextlib.closing(self._reporter), self._stop.listening():
            try:
                while self.progress.epoch < self.run.recipe.epochs:
                    self._train_epoch()
                    self._end_epoch()
            except KeyboardInterrupt:
                self.ranks.fail(f"interrupted immediately, {self.folder.describe_position()}")

    def _train_epoch(self) -> None:
        """Do the remaining steps of the current epoch."""
        self.state.model.train()
        began = since = time.perf_counter()
        first = self.progress.step
        for batch in self._batches():
            self._unread.append(self.train_step(batch))
            self._collect_bad_records()
            now = time.perf_counter()
            self.progress.count_step(now - since)
            since = now
            # On a checkpoint every N steps all ranks agree, so all of them read; on one every N minutes they may not.
            due = self.folder.is_checkpoint_due()
            by_steps = due and self.run.checkpoint_every.steps
            if self.progress.step == 1 or self.progress.step % READ_EVERY[self.run.device.type] == 0 or by_steps:
                self._read_losses()
            if due and not self._unread:
                self._save()
        self._read_losses()
        # Save before the evaluation, which may take longer than a cluster waits between SIGTERM and SIGKILL.
        if self.folder.has_unsaved_steps:
            self._save()
        self._reporter.add_steps(self.progress.step - first, time.perf_counter() - began)

    def train_step(self, batch: Batch) -> Measurements:
        """Do one step of the optimiser on this rank's part of a batch; does not wait for the device.

        Raises:
            TrainError: If the device has too little memory.
        """
        try:
            return self.state.stepper.step(batch, self.progress.step)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise TrainError(
                f"the memory of {self.run.device} is too small for a step of {len(batch['row'])} instances; "
                f"{LESS_MEMORY} (the result is the same up to rounding)"
            ) from error

    def _read_losses(self) -> None:
        """Add the losses of the last steps to the progress; end all ranks if one of them is not finite.

        All ranks must call this after the same step. After the first step of the run it creates the folder.
        """
        unread, self._unread = self._unread, []
        for measured in unread:
            with self.ranks.limit_wait():
                losses = measured.read()
            self._check_finite("loss", losses["loss"], measured)
            self._check_finite("gradient's norm", float(measured.norm), measured)
            if measured.step == 1:
                self.folder.begin()
            self.progress.add_losses(losses)
            self._reporter.report_step(losses, measured.step)

    def _end_epoch(self) -> None:
        """Evaluate, keep the best student, and write the checkpoint and then the history that it holds.

        With ``--evaluate-every``, most epochs end with the checkpoint and the history only.
        """
        began = time.perf_counter()
        done, recipe = self.progress.epoch + 1, self.run.recipe
        is_evaluated = done % recipe.evaluate_every == 0 or done == recipe.epochs
        student = self.state.current_student() if is_evaluated else None
        metrics = None if student is None else self._evaluate(student)
        more = {"bad_records": len(self.progress.bad_records)} if self.run.skip_bad_records else {}
        line = self.progress.close_epoch(self.loader.batch_size, metrics, more)
        if self.ranks.first:
            if student is not None and metrics is not None:
                self._reporter.report_evaluation(student, metrics)
                self.folder.save_best(student, metrics)
            self._save()
            self.folder.write_history(self.progress.history)
            self._reporter.report_epoch(line, time.perf_counter() - began)

    def _evaluate(self, student: TorchStudent) -> dict[str, Any]:
        """Compute the student's metrics from the predictions of all ranks; on ranks other than 0 they are None."""
        mine, problem = None, None
        try:
            with show_progress("evaluate", "batches", shown=self.ranks.first, transient=True) as progress:
                mine = predict(student, self.state.val_loader, progress=progress)
        except Exception as error:  # anything in the loader or on the device
            problem = f"in the evaluation: {describe_problem(error)}; {self.folder.describe_position()}"
        self.ranks.fail_if_any(problem)
        assert mine is not None  # noqa: S101 - a rank without predictions had a problem
        parts = self.ranks.gather(mine)
        if not self.ranks.first:
            return dict.fromkeys(("ap", "ap50", "pck@0.05", "pck@0.1"))
        metrics: dict[str, Any] = json.loads(to_json(measure(self.run.val_store, in_store_order(parts))))
        return {**metrics, "decoder": mine.decoder}

    def finish(self) -> dict[str, Any]:
        """Write ``metrics.json``: the evaluation of the best epoch, and the time of the training."""
        progress = self.progress
        metrics = {
            **(progress.best or {}),
            "model": self.run.name,
            "store": self.run.val_store.path.name,
            "learned_from": self.state.sources.describe(self.state.supervision),
            "train_seconds": round(progress.seconds, 1),
            "train_instances_per_second": round(
                progress.step * self.loader.batch_size / max(progress.seconds, 1e-9), 1
            ),
        }
        if self.run.skip_bad_records:
            metrics["bad_records"] = len(progress.bad_records)
        if self.ranks.first:
            self.folder.write_metrics(metrics)
        self.ranks.leave()
        return metrics

    # --- details of the loop above: batches, early ends, and the order of writing ---

    def _batches(self) -> Iterator[Batch]:
        """The remaining batches of the current epoch."""
        first, length = self.progress.steps_of_epoch, len(self.loader)
        label = f"{self.run.name} epoch {self.progress.epoch + 1}/{self.run.recipe.epochs}"
        source = self.loader.epoch(self.progress.epoch, first)
        bar = show_progress(label, "steps", first, shown=self.ranks.first, transient=True)
        with bar as progress, contextlib.closing(source):  # type: ignore[type-var]
            progress(first, length)
            for step in range(first + 1, length + 1):
                yield self._next_batch(source)
                progress(step, length)

    def _next_batch(self, source: Iterator[Batch]) -> Batch:
        """Return the next batch after all ranks have theirs; end all ranks if one failed or received a signal."""
        batch, problem = None, None
        try:
            batch = next(source)
        except Exception as error:  # anything in a thread of the loader
            problem = error
        vote = Vote.FAIL if problem else Vote.STOP if self._stop.signal else Vote.CONTINUE
        if self.ranks.highest(vote) != Vote.CONTINUE:
            self._end_early(problem, self._stop.signal or "another process")
        assert batch is not None  # noqa: S101 - a rank without a batch had a problem
        return batch

    def _end_early(self, problem: Exception | None, stopped_by: str) -> None:
        """Write a checkpoint between two steps, if there are unsaved steps, and end all ranks."""
        reason = describe_loader_problem(problem) if problem else None
        self._read_losses()  # ends all ranks alike if a loss is not finite; after a `try`, rank 0 alone would go on
        try:
            if self.folder.has_unsaved_steps:
                self._save()
        except KdlibError as error:
            reason = f"{reason}; and {error}" if reason else str(error)
        self.ranks.fail_if_any(f"{reason}; {self.folder.describe_position()}" if reason else None)
        self.ranks.fail(f"stopped by {stopped_by}, {self.folder.describe_position()}")

    def _check_finite(self, name: str, value: float, measured: Measurements) -> None:
        if math.isfinite(value):
            return
        rows = [row for rows in self.ranks.gather(measured.rows.tolist()) for row in rows]
        ids = self.loader.dataset.annotation_ids(np.array(rows[:SHOWN_IDS]))
        more = f" and {len(rows) - SHOWN_IDS} more" if len(rows) > SHOWN_IDS else ""
        self.ranks.fail(
            f"the {name} is {value} at step {measured.step}, before the optimiser used it; the annotation ids "
            f"of the batch are {ids}{more}: check these instances, or start again with a lower --learning-rate "
            f"({self.folder.describe_checkpoint()})"
        )

    def _collect_bad_records(self) -> None:
        if self.run.skip_bad_records:
            for of_rank in self.ranks.gather(self.loader.bad):
                self.progress.bad_records |= of_rank

    def _save(self) -> None:
        """Write a checkpoint; TensorBoard's events up to its step are written first."""
        self._reporter.flush()
        self.folder.save_last()
