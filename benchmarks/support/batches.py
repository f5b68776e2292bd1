"""Where training steps in turns get their batches: at full prefetch within a turn, at rest between two turns.

A loader works ahead. Stopped in the middle, it would go on in the turn of whoever comes next and hand out for nothing,
in its own next turn, what was made meanwhile. So a turn ends with `rest`, inside its clock: all batches that were asked
for are made. Every turn then takes as many batches as it makes, and still finds a full queue when it begins.
"""

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from kdlib.samples.dataset import StoreDataset
from kdlib.samples.loader import Loader
from kdlib.samples.views import Augmentation
from train.recipe import Recipe
from train.supervision import Batch

ENDLESS = 1_000
"""How often an epoch of `endless` has every instance: the end of an epoch empties a loader's queue."""


class Batches(Protocol):
    """Batches without an end."""

    def __next__(self) -> Batch:
        """The next one, on the device."""

    def rest(self) -> None:
        """Wait until nothing is being made."""

    def close(self) -> None:
        """Make no more."""


def recipe_augmentation() -> Augmentation:
    """The default recipe's."""
    recipe = Recipe()
    return Augmentation(recipe.flip, recipe.rotation, scale=recipe.scale, half_body=recipe.half_body)


def endless(dataset: StoreDataset) -> StoreDataset:
    """The dataset, changed so that its epochs are too long to end."""
    dataset.rows = np.repeat(dataset.rows, ENDLESS)  # sorted as before: a loader searches them
    return dataset


class MemoryBatches:
    """The same few batches over and over, which cost nothing."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = itertools.cycle(batches)

    def __next__(self) -> Batch:
        return next(self._batches)

    def rest(self) -> None:
        """Nothing is ever being made."""

    def close(self) -> None:
        """Nothing to do."""


class StoreBatches:
    """Batches of the trainer's own loader with the recipe's augmentation.

    Args:
        store: Where samples come from.
        views: As `StoreDataset`'s.
        batch_size: Instances a batch.
        device: Where batches go.
        threads: As the loader's.
    """

    def __init__(
        self, store: Any, views: str | None, batch_size: int, device: torch.device, threads: int | None = None
    ) -> None:
        dataset = endless(StoreDataset(store, augmentation=recipe_augmentation(), views=views))
        self._loader = _Watched(dataset, batch_size, shuffle=True, device=device, threads=threads)
        self.threads = self._loader.threads
        self._epoch: Iterator[Batch] = self._loader.epoch()

    def __next__(self) -> Batch:
        return next(self._epoch)

    def rest(self) -> None:
        """Wait for the loader's threads."""
        wait(self._loader.futures)
        self._loader.futures.clear()

    def close(self) -> None:
        """End the loader's threads."""
        self._epoch.close()  # type: ignore[attr-defined]


class _Watched(Loader):
    """A loader that notes what its threads were given to do."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.futures: list[Future[dict[int, str]]] = []

    def _submit(self, pool: ThreadPoolExecutor, rows: NDArray[np.int64], epoch: int) -> Any:
        pending = super()._submit(pool, rows, epoch)
        self.futures += pending[1]
        return pending
