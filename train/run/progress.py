"""How far a run is: everything a resumed run must know beside weights and optimiser."""

import dataclasses
from typing import Any, Self


@dataclasses.dataclass
class Progress:
    """Plain values only, as a checkpoint keeps them.

    Attributes:
        epoch, step: Epochs closed and steps done; together they are the sampler's position.
        seconds: Spent on training, evaluation not counted.
        best: Evaluation of the best epoch so far.
        history: The lines of ``history.jsonl``.
        bad_records: Row of the store -> why it was replaced by another.
        start: What the student started from.
        sums, steps_of_epoch, seconds_of_epoch: Of the epoch that is open.
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
    def of(cls, content: dict[str, Any]) -> Self:
        """Read back what `as_dict` gave."""
        return cls(**content)

    def as_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return dataclasses.asdict(self)

    def add_step(self, losses: dict[str, float], seconds: float) -> None:
        """Count one step of the open epoch."""
        self.step += 1
        self.steps_of_epoch += 1
        self.seconds += seconds
        self.seconds_of_epoch += seconds
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def close_epoch(self, batch_size: int, metrics: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
        """End the epoch with its evaluation; returns its line of the history."""
        rate = self.steps_of_epoch * batch_size / max(self.seconds_of_epoch, 1e-9)
        line = {
            "epoch": self.epoch + 1,
            **{name: value / max(self.steps_of_epoch, 1) for name, value in self.sums.items()},
            "instances_per_second": round(rate, 1),
            **{name: metrics[name] for name in ("ap", "ap50", "pck@0.05", "pck@0.1")},
            **more,
        }
        self.history.append(line)
        self.epoch += 1
        self.sums, self.steps_of_epoch, self.seconds_of_epoch = {}, 0, 0.0
        return line


@dataclasses.dataclass
class Pace:
    """Seconds of steps and of the ends of epochs (evaluation, pictures, checkpoints), each with its mean."""

    steps: int = 0
    seconds_of_steps: float = 0.0
    ends: int = 0
    seconds_of_ends: float = 0.0

    def add_steps(self, count: int, seconds: float) -> None:
        """Count an epoch's steps, or those that a resumed run had left of it."""
        self.steps += count
        self.seconds_of_steps += seconds

    def add_end(self, seconds: float) -> None:
        """Count the end of an epoch."""
        self.ends += 1
        self.seconds_of_ends += seconds

    def left(self, steps: int, ends: int) -> float | None:
        """Seconds that so many steps and ends will take; None where there are none, or nothing was seen of either."""
        if not (steps and self.steps and self.ends):
            return None
        return steps * self.seconds_of_steps / self.steps + ends * self.seconds_of_ends / self.ends
