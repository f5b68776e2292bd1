"""Timing that holds on a noisy machine: contenders take turns, and medians over the rounds are compared."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np

Work = Callable[[], int]
"""Does a piece of work; returns how many items it did."""
Block = Callable[[], tuple[int, float]]
"""The same, timed: items and seconds."""


@dataclasses.dataclass(frozen=True)
class Timings:
    """Seconds an item, of every contender in every round."""

    seconds: dict[str, list[float]]
    items: dict[str, int]
    """Items of each contender over all rounds."""

    def median(self, name: str) -> float:
        """Median seconds an item."""
        return statistics.median(self.seconds[name])

    def rate(self, name: str) -> float:
        """Items a second, from the median."""
        return 1 / self.median(name)

    def spread(self, name: str, peer: str) -> list[float]:
        """Quartiles of the rounds' own ratios of seconds: how far the noise goes."""
        ratios = np.divide(self.seconds[name], self.seconds[peer])
        return [round(float(quartile), 3) for quartile in np.quantile(ratios, (0.25, 0.75))]


def timed(work: Work, clock: Callable[[], float] = time.perf_counter) -> Block:
    """A piece of work with a clock around it."""

    def block() -> tuple[int, float]:
        started = clock()
        items = work()
        return items, clock() - started

    return block


def interleave(blocks: Mapping[str, Block], rounds: int) -> Timings:
    """Run all blocks once a round, back and forth; an additional first round warms up and is thrown away."""
    names = list(blocks)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    items = dict.fromkeys(names, 0)
    for number in range(rounds + 1):
        for name in names if number % 2 else reversed(names):
            done, elapsed = blocks[name]()
            if number:
                seconds[name].append(elapsed / done)
                items[name] += done
    return Timings(seconds, items)
