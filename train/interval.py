"""How often a run writes a checkpoint."""

import dataclasses
import re
from typing import Self

from train.errors import TrainError


@dataclasses.dataclass(frozen=True)
class Interval:
    """A number of steps or of minutes; 0 of both is never."""

    steps: int = 0
    minutes: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``500`` as steps and ``5m`` as minutes.

        Raises:
            TrainError: If it is neither.
        """
        if re.fullmatch(r"\d+", text):
            return cls(steps=int(text))
        if re.fullmatch(r"\d+(\.\d+)?m", text):
            return cls(minutes=float(text[:-1]))
        raise TrainError(f"--checkpoint-every takes steps, e.g. 500, or minutes, e.g. 5m; got {text!r}")

    def is_over(self, steps: int, seconds: float) -> bool:
        """Is a checkpoint due so many steps and seconds after the last one?"""
        return bool((self.steps and steps >= self.steps) or (self.minutes and seconds >= 60 * self.minutes))
