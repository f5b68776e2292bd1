"""Timing that holds on a noisy machine: contenders take turns, and medians over the rounds are compared.

Load that comes and goes hits all contenders of a round alike when their turns are short. So what is reported is the
median of the rounds' own ratios (`Timings.paired`), and how far they scatter (`Timings.spread`).
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Work = Callable[[], int]
"""Does a piece of work; returns how many items it did."""
Block = Callable[[], tuple[int, float]]
"""The same, timed: items and seconds."""
Clock = Callable[[], float]
"""Seconds since some moment."""


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

    def of(self, *names: str) -> NDArray[np.float64]:
        """Seconds an item of several contenders together, a number a round."""
        return np.sum([self.seconds[name] for name in names], axis=0)

    def paired(self, name: str, peer: str) -> float:
        """Median of the rounds' own ratios of seconds."""
        return round(float(np.median(self.of(name) / self.of(peer))), 3)

    def spread(self, name: str, peer: str) -> list[float]:
        """Quartiles of the rounds' own ratios of seconds: how far the noise goes."""
        return quartiles(self.of(name) / self.of(peer))


def quartiles(values: NDArray[np.float64]) -> list[float]:
    """The first and the third, rounded."""
    return [round(float(quartile), 3) for quartile in np.quantile(values, (0.25, 0.75))]


def timed(work: Work, clock: Clock = time.perf_counter) -> Block:
    """A piece of work with a clock around it."""

    def block() -> tuple[int, float]:
        started = clock()
        items = work()
        return items, clock() - started

    return block


def interleave(blocks: Mapping[str, Block], rounds: int) -> Timings:
    """Run all blocks once a round, back and forth; an additional first round warms up and is thrown away."""
    timings = Timings({name: [] for name in blocks}, dict.fromkeys(blocks, 0))
    names = list(blocks)
    for number in range(rounds + 1):
        for name in names if number % 2 else reversed(names):
            done, elapsed = blocks[name]()
            if number:
                timings.seconds[name].append(elapsed / done)
                timings.items[name] += done
    return timings


def interleave_on(clocks: Mapping[str, Clock], work: Mapping[str, Work], rounds: int) -> dict[str, Timings]:
    """For many contenders: the same turns read off several clocks, in a random order that is another every round.

    Back and forth, each would always have the same neighbours, and who follows a large network finds other caches, and
    an allocator in another state, than who follows a small one.

    Returns:
        Timings of each clock.
    """
    timings = {clock: Timings({name: [] for name in work}, dict.fromkeys(work, 0)) for clock in clocks}
    rng, names = np.random.default_rng(0), list(work)
    for number in range(rounds + 1):
        for name in (names[i] for i in rng.permutation(len(names))):
            started = {clock: read() for clock, read in clocks.items()}
            done = work[name]()
            elapsed = {clock: read() - started[clock] for clock, read in clocks.items()}
            for clock, of in timings.items() if number else ():
                of.seconds[name].append(elapsed[clock] / done)
                of.items[name] += done
    return timings
