"""A contender's turn: a few batches, something done with each, and nothing left running."""

from collections.abc import Callable

import torch

from benchmarks.support.batches import Batches
from train.supervision import Batch


class Turn:
    """Work for `benchmarks.support.timing`.

    Args:
        batches: Where they come from; several contenders may share them, as each leaves them at rest.
        count: Batches a turn.
        device: Waited for at the end, where it works on its own.
        use: What is done with a batch; nothing where None.
    """

    def __init__(
        self, batches: Batches, count: int, device: torch.device, use: Callable[[Batch], object] | None = None
    ) -> None:
        self.batches, self.count, self.device, self.use = batches, count, device, use

    def __call__(self) -> int:
        """One turn; returns its instances."""
        done = 0
        for _ in range(self.count):
            batch = next(self.batches)
            if self.use is not None:
                self.use(batch)
            done += len(batch["image"])
        self.batches.rest()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return done
