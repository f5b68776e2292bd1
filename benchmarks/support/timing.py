"""Timing for noisy machines: contenders take turns, and ratios within a round are compared.

Changing load affects all contenders of a round alike if their turns are short. The reported values are the median of
the ratios within each round (`Timings.paired`) and their quartiles (`Timings.spread`).
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

Work = Callable[[], int]
"""Do a piece of work; return the number of items."""
Block = Callable[[], tuple[int, float]]
"""Do a piece of work; return the number of items and the seconds."""
Clock = Callable[[], float]
"""Return the seconds since a fixed moment."""


@dataclasses.dataclass(frozen=True)
class Timings:
    """Seconds per item of every contender in every round."""

    seconds: dict[str, list[float]]
    items: dict[str, int]
    """Items of each contender over all rounds."""

    def median(self, name: str) -> float:
        """Return the median seconds per item."""
        return statistics.median(self.seconds[name])

    def rate(self, name: str) -> float:
        """Return the items per second, from the median."""
        return 1 / self.median(name)

    def total(self, *names: str) -> NDArray[np.float64]:
        """Return the summed seconds per item of several contenders, one number per round."""
        return np.sum([self.seconds[name] for name in names], axis=0)

    def paired(self, name: str, peer: str) -> float:
        """Return the median of the ratios of seconds within each round."""
        return round(float(np.median(self.total(name) / self.total(peer))), 3)

    def spread(self, name: str, peer: str) -> list[float]:
        """Return the quartiles of the ratios of seconds within each round."""
        return quartiles(self.total(name) / self.total(peer))


def quartiles(values: NDArray[np.float64]) -> list[float]:
    """Return the first and the third quartile, rounded to 3 decimals."""
    return [round(float(quartile), 3) for quartile in np.quantile(values, (0.25, 0.75))]


def timed(work: Work, clock: Clock = time.perf_counter) -> Block:
    """Wrap work into a block that measures its seconds."""

    def block() -> tuple[int, float]:
        started = clock()
        items = work()
        return items, clock() - started

    return block


def device_seconds(run: Callable[[], object], on_gpu: bool) -> float:
    """The seconds that a call takes on its device: between two CUDA events on a GPU, else on the clock."""
    if not on_gpu:
        started = time.perf_counter()
        run()
        return time.perf_counter() - started
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def interleave(blocks: Mapping[str, Block], rounds: int) -> Timings:
    """Run all blocks once per round, in alternating order; an extra first round is a warm-up and does not count."""
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
    """Time many contenders with several clocks at once, in a new random order in every round.

    In alternating order, each contender would always follow the same one. The state of caches and allocator, however,
    depends on the contender that ran before.

    Returns:
        The timings of each clock.
    """
    timings = {clock: Timings({name: [] for name in work}, dict.fromkeys(work, 0)) for clock in clocks}
    rng, names = np.random.default_rng(0), list(work)
    for number in range(rounds + 1):
        for name in (names[i] for i in rng.permutation(len(names))):
            started = {clock: read() for clock, read in clocks.items()}
            done = work[name]()
            elapsed = {clock: read() - started[clock] for clock, read in clocks.items()}
            for clock, timing in timings.items() if number else ():
                timing.seconds[name].append(elapsed[clock] / done)
                timing.items[name] += done
    return timings
