"""Sizes and repetitions of a run of the benchmarks."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Effort:
    """Sizes and repetitions; the defaults take about five minutes on two quiet cores."""

    instances: int = 256
    """Instances of a store of people."""
    rounds: int = 7
    """Rounds per median if a round takes a second; slow benchmarks run fewer, fast ones more."""
    steps: int = 2
    """Training steps per turn."""
    batch_size: int = 32
    large: int = 150_000
    """Instances of the large store."""
    small: int = 1_000
    """Instances of the small store beside it."""
    full: bool = False
    """Whether to run the cases that take minutes or gigabytes."""

    def rounds_times(self, factor: float) -> int:
        """Return the rounds times a factor, rounded, at least one."""
        return max(1, round(self.rounds * factor))


QUICK = Effort(instances=40, rounds=1, steps=1, batch_size=8, large=3_000, small=500)
"""Sizes to check that the benchmarks run; the results are meaningless."""
