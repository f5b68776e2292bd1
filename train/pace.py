"""How long the rest of a run will take, from what this process has seen of it."""

import dataclasses


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
