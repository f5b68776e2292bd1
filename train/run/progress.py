"""The progress of a run: what a resumed run needs besides weights and optimiser."""

import dataclasses
from typing import Any, Self


@dataclasses.dataclass
class Progress:
    """The position of a run and its history; only plain values, which a checkpoint can store.

    Attributes:
        epoch, step: Numbers of finished epochs and steps, the position in the order of the samples.
        seconds: Time spent on training, without evaluation.
        best: Metrics of the best epoch so far.
        history: Lines of ``history.jsonl``.
        bad_records: Row of the store -> the reason why its record was replaced by another.
        start: What the student started from, in one line.
        sums, steps_of_epoch, seconds_of_epoch: Sums over the steps of the current epoch, their number and their time.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    best: dict[str, Any] | None = None
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    bad_records: dict[int, str] = dataclasses.field(default_factory=dict)
    start: str = ""
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    steps_of_epoch: int = 0
    seconds_of_epoch: float = 0.0

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """Rebuild the progress from `to_dict`."""
        return cls(**content)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return dataclasses.asdict(self)

    def count_step(self, seconds: float) -> None:
        """Count one step of the current epoch, and the time that it took."""
        self.step += 1
        self.steps_of_epoch += 1
        self.seconds += seconds
        self.seconds_of_epoch += seconds

    def add_losses(self, losses: dict[str, float]) -> None:
        """Add the losses of one counted step to the sums of the current epoch."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def close_epoch(self, batch_size: int, metrics: dict[str, Any] | None, more: dict[str, Any]) -> dict[str, Any]:
        """End the current epoch.

        Args:
            batch_size: Instances per step.
            metrics: Evaluation at the end of the epoch; None if it was not evaluated, and the line then has no metrics.
            more: Further entries of the line.

        Returns:
            The epoch's line of the history, with mean losses and instances per second.
        """
        rate = self.steps_of_epoch * batch_size / max(self.seconds_of_epoch, 1e-9)
        line = {
            "epoch": self.epoch + 1,
            **{name: value / max(self.steps_of_epoch, 1) for name, value in self.sums.items()},
            "instances_per_second": round(rate, 1),
            **({name: metrics[name] for name in ("ap", "ap50", "pck@0.05", "pck@0.1")} if metrics else {}),
            **more,
        }
        self.history.append(line)
        self.epoch += 1
        self.sums, self.steps_of_epoch, self.seconds_of_epoch = {}, 0, 0.0
        return line
