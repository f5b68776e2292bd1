"""How much a run of the benchmarks does."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Effort:
    """Sizes of what is measured and how often; the defaults take about five minutes on two quiet cores."""

    instances: int = 256
    """Persons in a store of people."""
    rounds: int = 7
    """Repeats that a median is taken of, where a round takes a second; slower ones are fewer, faster ones more."""
    steps: int = 2
    """Training steps of one block."""
    batch_size: int = 32
    large: int = 150_000
    """Instances of the large store."""
    small: int = 1_000
    """Instances of the small store beside it."""
    full: bool = False
    """Also what takes minutes or gigabytes."""

    def some(self, share: float) -> int:
        """That share of the rounds, at least one."""
        return max(1, round(self.rounds * share))


QUICK = Effort(instances=40, rounds=1, steps=1, batch_size=8, large=3_000, small=500)
"""Says whether the benchmarks run, not what they would find."""
