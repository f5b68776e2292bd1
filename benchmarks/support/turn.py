"""A contender's turn: it processes a few batches and leaves nothing running."""

from collections.abc import Callable

import torch

from benchmarks.support.batches import Batches
from train.supervision import Batch


class Turn:
    """Work for `benchmarks.support.timing`.

    Args:
        batches: Source of the batches; several contenders can share it, as each drains it.
        count: Batches per turn.
        device: Device of the batches; a GPU is synchronised at the end of the turn.
        use: Function applied to each batch; None loads the batches only.
    """

    def __init__(
        self, batches: Batches, count: int, device: torch.device, use: Callable[[Batch], object] | None = None
    ) -> None:
        self.batches, self.count, self.device, self.use = batches, count, device, use

    def __call__(self) -> int:
        """Run one turn; return its number of instances."""
        done = 0
        for _ in range(self.count):
            batch = next(self.batches)
            if self.use is not None:
                self.use(batch)
            done += len(batch["image"])
        self.batches.drain()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return done
