"""Reports a run while it trains: one line per epoch on stderr, and TensorBoard's events. Only rank 0 reports."""

import dataclasses
from typing import Any

from kdcli.progress import say
from kdcli.words import duration, percentage
from kdlib.samples.dataset import StoreDataset
from kdlib.samples.mixture import MixedDataset
from kdlib.students.loading import TorchStudent
from train.evaluate import labels_of
from train.run.state import State, has_labels
from train.show.tensorboard import Board, Pictures


@dataclasses.dataclass
class Durations:
    """Durations of steps and of evaluated ends of epochs, with pictures and checkpoint, to predict the time left."""

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


def describe_mixture(dataset: MixedDataset) -> str:
    """Describe in one line how many persons each training store gives, and how often they are seen."""
    stores = [
        f"{len(of.rows):,} of {part.store.path.name}" + ("" if part.weight == 1 else f" with weight {part.weight:g}")
        for part, of in zip(dataset.parts, dataset.datasets, strict=True)
    ]
    return f"training on {len(dataset.rows):,} persons, {len(dataset):,} samples per epoch: {', '.join(stores)}"


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

    def report_stores(self) -> None:
        """Print how several training stores are mixed, and which of them teach nothing."""
        run, dataset = self.state.run, self.state.loader.dataset
        if not self.state.ranks.first or isinstance(dataset, StoreDataset):
            return
        for line in [describe_mixture(dataset), *dataset.shared]:
            say(line)
        unlabelled = [part.store for part in run.parts if not has_labels(part.store)]
        for store in unlabelled if self.state.supervision.needs_labels else ():
            say(f"{store.path} holds no labelled joint: its persons teach nothing in this run")

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
            if isinstance(dataset := self.state.loader.dataset, MixedDataset):
                self._board.write("stores", "\n\n".join([describe_mixture(dataset), *dataset.shared]), step)
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
        if "ap" in line:
            self._durations.add_end(seconds)
        say(self._epoch_line(line) + self._time_left())
        for reason in list(progress.bad_records.values())[:1]:
            say(f"{len(progress.bad_records)} bad records so far were replaced by others, e.g. {reason}")

    def _epoch_line(self, line: dict[str, Any]) -> str:
        was_evaluated = "ap" in line
        metrics = f"AP {percentage(line['ap'])}, PCK@0.05 {percentage(line['pck@0.05'])}, " if was_evaluated else ""
        return (
            f"{self.state.run.name} epoch {line['epoch']}/{self.state.run.recipe.epochs}: loss {line['loss']:.3f}, "
            f"{metrics}{line['instances_per_second']:.0f} instances/s"
        )

    def _time_left(self) -> str:
        recipe, done = self.state.run.recipe, self.state.progress.epoch
        evaluations = -(-recipe.epochs // recipe.evaluate_every) - done // recipe.evaluate_every
        seconds = self._durations.remaining(self.state.steps - self.state.progress.step, evaluations)
        return "" if seconds is None else f", {duration(seconds)} to go"
