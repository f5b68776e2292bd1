"""Reports a run while it trains: one line per epoch on stderr, and TensorBoard's events. Only rank 0 reports."""

import dataclasses
from typing import Any

from kdcli.progress import say
from kdcli.words import duration, percentage
from kdlib.students.loading import TorchStudent
from train.evaluate import labels_of
from train.run.state import State
from train.show.tensorboard import Board, Pictures


@dataclasses.dataclass
class Durations:
    """Durations of steps and of ends of epochs (evaluation, pictures, checkpoints), to predict the remaining time."""

    steps: int = 0
    seconds_of_steps: float = 0.0
    ends: int = 0
    seconds_of_ends: float = 0.0

    def add_steps(self, count: int, seconds: float) -> None:
        """Add the steps of an epoch; after resuming, the remaining steps."""
        self.steps += count
        self.seconds_of_steps += seconds

    def add_end(self, seconds: float) -> None:
        """Add the end of an epoch."""
        self.ends += 1
        self.seconds_of_ends += seconds

    def remaining(self, steps: int, ends: int) -> float | None:
        """Predict the seconds for some steps and ends of epochs; None for 0 steps, or before both were measured."""
        if not (steps and self.steps and self.ends):
            return None
        return steps * self.seconds_of_steps / self.steps + ends * self.seconds_of_ends / self.ends


class Reporter:
    """Reports one run, from its start or from the step at which it is resumed.

    Args:
        state: The parts of the run, with its restored progress.
    """

    def __init__(self, state: State) -> None:
        self.state = state
        self._board = Board(state.run.out if state.ranks.first else None, state.progress.step)
        self._pictures: Pictures | None = None
        self._durations = Durations()

    def close(self) -> None:
        """Close TensorBoard's file."""
        self._board.close()

    def report_sources(self) -> None:
        """Print what the student learns from."""
        state = self.state
        if state.ranks.first:
            sources = state.sources
            say(f"{state.run.name} learns from {sources.describe(state.supervision)}, in {sources.steps:,} steps")

    def report_choice(self) -> None:
        """Print how the best epoch is chosen, if the validation store lacks labels for AP or for PCK."""
        store = self.state.run.val_store
        has_ap, has_pck = labels_of(store)
        if self.state.ranks.first and not (has_ap and has_pck):
            ways = {
                (True, False): "its persons have no labels: no PCK; AP chooses best.pt",
                (False, True): "its images have no ground truth that counts: no AP; PCK@0.05 chooses best.pt",
                (False, False): "it has no ground truth: no AP and no PCK; best.pt is the student of the last epoch",
            }
            say(f"{store.path}: {ways[has_ap, has_pck]}")

    def report_step(self, losses: dict[str, float], step: int) -> None:
        """Add the losses of a step to TensorBoard; ``step`` counts the steps done."""
        self._board.add("train", losses, step)

    def add_steps(self, count: int, seconds: float) -> None:
        """Record the time that the steps of an epoch took."""
        self._durations.add_steps(count, seconds)

    def report_evaluation(self, student: TorchStudent, metrics: dict[str, Any]) -> None:
        """Add the metrics that exist, and pictures of a few persons of the validation store, to TensorBoard."""
        run, step = self.state.run, self.state.progress.step
        known = {name: metrics[name] for name in ("ap", "pck@0.05") if metrics[name] is not None}
        self._board.add("val", known, step)
        if self._pictures is None:
            self._pictures = Pictures(run.val_store, run.input_size, run.val_images, stride=run.recipe.stride)
        self._board.show("val/people", self._pictures.draw(student), step)

    def flush(self) -> None:
        """Write TensorBoard's events to disk."""
        self._board.flush()

    def report_epoch(self, line: dict[str, Any], seconds: float) -> None:
        """Print the line of an epoch.

        Args:
            line: The epoch's line of the history.
            seconds: Time that the end of the epoch took.
        """
        progress = self.state.progress
        self._durations.add_end(seconds)
        say(self._epoch_line(line) + self._time_left())
        for reason in list(progress.bad_records.values())[:1]:
            say(f"{len(progress.bad_records)} bad records so far were replaced by others, e.g. {reason}")

    def _epoch_line(self, line: dict[str, Any]) -> str:
        return (
            f"{self.state.run.name} epoch {line['epoch']}/{self.state.run.recipe.epochs}: loss {line['loss']:.3f}, "
            f"AP {percentage(line['ap'])}, PCK@0.05 {percentage(line['pck@0.05'])}, "
            f"{line['instances_per_second']:.0f} instances/s"
        )

    def _time_left(self) -> str:
        epochs = self.state.run.recipe.epochs - self.state.progress.epoch
        seconds = self._durations.remaining(self.state.steps - self.state.progress.step, epochs)
        return "" if seconds is None else f", {duration(seconds)} to go"
