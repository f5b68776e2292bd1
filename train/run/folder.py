"""The run folder: checks it before a run, and writes its files so that a killed run leaves no incomplete file.

config.json      the resolved configuration, the number of persons it learns from, and the manifests of the stores
history.jsonl    one line per epoch
last.pt          the checkpoint from which the run is resumed; it also holds the history
best.pt          the student of the best epoch on the validation store (`is_better`)
metrics.json     the evaluation of that student
events.out.*     TensorBoard's events

Every file is written under a temporary name and then renamed. The history is written after each checkpoint that holds
it, and again when a run is resumed.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch

from kdcli.files import replacing, temporary_files
from kdlib.students.checkpoint import VERSION
from kdlib.students.loading import TorchStudent
from train.errors import TrainError, not_written
from train.evaluate import to_json
from train.run.state import State

MADE_LATER: Final = ("exported.json", "card.md", "card.svg", "report.html")
"""Files that `card` and `release` write about a run."""
FILES: Final = ("config.json", "history.jsonl", "last.pt", "best.pt", "metrics.json", "evaluation.json", *MADE_LATER)
RANKED_BY: Final = ("ap", "pck@0.05")
"""The metrics that choose the best epoch; the second breaks ties of the first."""


# --- checks before anything is computed -------------------------------------------------------------------------------


def check_writable(out: Path) -> None:
    """Check that a run can be written to a folder, which need not exist yet.

    Raises:
        TrainError: If the folder, or the nearest existing folder above it, is a file, a broken link, or not accessible
            to the user.
    """
    try:
        place = next(place for place in (out, *out.parents) if place.is_symlink() or place.exists())
    except PermissionError as error:
        raise TrainError(
            f"--out {out}: no permission to read its parent folders ({error}); give another folder"
        ) from error
    if not place.exists():
        raise TrainError(f"--out {out} cannot be created: {place} is a broken link; give another folder")
    if not place.is_dir():
        if place == out:
            raise TrainError(f"--out {out} is a file; give a folder; it is created if it does not exist")
        raise TrainError(f"--out {out} cannot be created: {place} is a file; give another folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise TrainError(f"--out {out}: no permission to write to {place}; give another folder")


def check_overwritable(out: Path) -> None:
    """Raise `TrainError` if a folder holds something other than a run, which ``--overwrite`` must not delete."""
    if out.exists() and any(out.iterdir()) and not (out / "config.json").exists():
        raise TrainError(f"{out} is not a run folder, so --overwrite does not delete it; give another --out")


def check_free(out: Path) -> None:
    """Raise `TrainError` if a folder already holds a run."""
    if (out / "config.json").exists():
        raise TrainError(f"{out} already holds a run; give --resume to continue it, or --overwrite to replace it")


# --- the files of a run -----------------------------------------------------------------------------------------------


class RunFolder:
    """Writes the files of one run. Rank 0 writes; all ranks keep the step of the last checkpoint.

    Attributes:
        state: The parts of the run.
        out: The folder.
        saved_step: Step of the last checkpoint of this run; 0 if there is none yet.
    """

    def __init__(self, state: State) -> None:
        self.state, self.out = state, state.run.out
        self.saved_step, self._saved_at = 0, time.monotonic()

    @property
    def last(self) -> Path:
        """The checkpoint from which the run is resumed."""
        return self.out / "last.pt"

    @property
    def best(self) -> Path:
        """The student of the best epoch."""
        return self.out / "best.pt"

    @property
    def has_unsaved_steps(self) -> bool:
        """Whether steps were done after the last checkpoint."""
        return self.state.progress.step > self.saved_step

    def check_free(self) -> None:
        """Raise `TrainError` if the folder holds a run and the user chose neither to resume nor to overwrite it.

        A run must not be overwritten by one that starts from its student either, which would be lost.
        """
        if not (self.state.run.resume or self.state.run.overwrite):
            check_free(self.out)
        start = Path(self.state.run.recipe.pretrained)
        if self.state.run.overwrite and self.out.resolve() in start.resolve().parents and start.exists():
            raise TrainError(
                f"--overwrite would delete {start}, the student that this run starts from (--pretrained); give another "
                "--out"
            )

    def begin(self) -> None:
        """Create the folder after the first step, so that a run that fails earlier changes nothing on disk.

        Raises:
            TrainError: On rank 0, if another run uses the folder or it cannot be written; the other ranks exit.
        """
        with self.state.ranks.fail_together():
            if self.state.ranks.first:
                self.check_free()
                if self.state.run.overwrite:
                    _delete_run(self.out)
                _create_folder(self.out)
                config = {
                    **self.state.config,
                    "sources": self.state.sources.to_dict(),
                    "resolved": self.state.resolved,
                    "manifests": self.state.manifests,
                }
                _write_text(self.out / "config.json", json.dumps(config, indent=2) + "\n")
                self.write_history([])

    def is_checkpoint_due(self) -> bool:
        """Whether the interval between checkpoints is over."""
        steps, seconds = self.state.progress.step - self.saved_step, time.monotonic() - self._saved_at
        return self.state.run.checkpoint_every.is_over(steps, seconds)

    def save_last(self) -> None:
        """Write ``last.pt``: weights, their average, optimiser, configuration and progress."""
        state = self.state
        if state.ranks.first:
            content = {**state.config, **state.stepper.state(), "resolved": state.resolved}
            save_checkpoint(self.last, {**content, "progress": state.progress.to_dict()})
        self.saved_step, self._saved_at = state.progress.step, time.monotonic()

    def save_best(self, student: TorchStudent, metrics: dict[str, Any]) -> None:
        """Write ``best.pt`` and keep its metrics, if the epoch is better than all earlier ones."""
        progress = self.state.progress
        if progress.best is None or is_better(metrics, progress.best):
            progress.best = metrics
            content = {**self.state.config, "model": student.model.state_dict(), "resolved": self.state.resolved}
            save_checkpoint(self.best, {**content, "epoch": progress.epoch})

    def write_history(self, history: list[dict[str, Any]]) -> None:
        """Write ``history.jsonl``."""
        _write_text(self.out / "history.jsonl", "".join(to_json(line) + "\n" for line in history))

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """Write ``metrics.json``."""
        _write_text(self.out / "metrics.json", to_json(metrics, indent=2) + "\n")

    def delete_partial_files(self) -> None:
        """Delete the temporary files that a killed process left."""
        _delete_partial_files(self.out)

    def describe_position(self) -> str:
        """Describe the position of the run and its last checkpoint, for messages."""
        progress = self.state.progress
        where = f"after step {progress.step} of {self.state.steps}, in epoch {progress.epoch + 1}"
        how = "--resume instead of --overwrite" if self.state.run.overwrite else "--resume"
        return f"{where}; {self.describe_checkpoint()}" + (f", {how} continues from it" if self.saved_step else "")

    def describe_checkpoint(self) -> str:
        """The step of the last checkpoint of this run; an old run that ``--overwrite`` will delete does not count."""
        return f"{self.last} holds step {self.saved_step}" if self.saved_step else "there is no checkpoint yet"


def is_better(metrics: dict[str, Any], best: dict[str, Any]) -> bool:
    """Compare two epochs of a run: by AP, then by PCK@0.05.

    A metric for which the validation store has no labels is None in both. If that is true for AP and PCK, the later
    epoch is better.
    """
    ours, theirs = ([-1.0 if of[name] is None else of[name] for name in RANKED_BY] for of in (metrics, best))
    return ours > theirs or all(metrics[name] is None for name in RANKED_BY)


def _delete_run(out: Path) -> None:
    """Delete the files of a run in a folder, and nothing else."""
    for name in FILES:
        (out / name).unlink(missing_ok=True)
    for events in out.glob("events.out.tfevents.*"):
        events.unlink()
    _delete_partial_files(out)


def _delete_partial_files(out: Path) -> None:
    for name in FILES:
        for partial in temporary_files(out / name):
            partial.unlink(missing_ok=True)


def _create_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainError(f"--out {out} cannot be created: {error.strerror}; give another folder") from error


def _write_text(path: Path, text: str) -> None:
    with _writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint and synchronise it to the disk; a file at the path is always complete.

    Raises:
        TrainError: If it cannot be written; an older checkpoint at the path stays unchanged.
    """
    with _writing(path) as temporary, temporary.open("wb") as file:
        torch.save({"version": VERSION, **content}, file)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """Write a file with `kdcli.files.replacing`, and turn errors of the disk into a `TrainError`.

    Raises:
        TrainError: If the file cannot be written; an older file at the path stays unchanged.
    """
    try:
        with replacing(path) as temporary:
            try:
                yield temporary
            except (OSError, RuntimeError) as error:
                cause = _find_os_error(error)
                if cause is None:
                    raise
                # Built before the unfinished file is deleted, because the message counts the free bytes.
                raise not_written(path, path.parent, cause) from error
    except OSError as error:
        raise not_written(path, path.parent, error) from error


def _find_os_error(error: BaseException | None) -> OSError | None:
    """Find the error of the disk; torch may replace it by its own error when it closes its file."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error
