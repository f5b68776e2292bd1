"""Batches for contenders that take turns: loaders prefetch within a turn and do no work between turns.

A loader prefetches. If it were still loading at the end of a turn, it would go on during the next contender's turn, and
its own next turn would get those batches at no cost. Each turn therefore ends with `drain`, inside its timing: it waits
for all requested batches. Every turn then loads as many batches as it uses, and starts with a full queue.
"""

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cache import Store
from kdlib.samples.dataset import StoreDataset
from kdlib.samples.loader import Loader
from kdlib.samples.views import Augmentation, Epoch
from train.recipe import Recipe
from train.supervision import Batch

ENDLESS = 1_000
"""How often an epoch of `endless` holds every instance. Epochs are long, because the end of one empties the queue."""


class Batches(Protocol):
    """An endless source of batches."""

    def __next__(self) -> Batch:
        """Return the next batch, on the device."""

    def drain(self) -> None:
        """Wait until no batch is being made."""

    def close(self) -> None:
        """Release threads or processes."""


def recipe_augmentation() -> Augmentation:
    """Return the augmentation of the default recipe."""
    recipe = Recipe()
    return Augmentation(recipe.flip, recipe.rotation, scale=recipe.scale, half_body=recipe.half_body)


def endless(dataset: StoreDataset) -> StoreDataset:
    """Change the dataset in place so that its epochs practically do not end, and return it."""
    dataset.rows = np.repeat(dataset.rows, ENDLESS)  # stays sorted: a loader searches them
    dataset.instances = len(dataset.rows)
    return dataset


class MemoryBatches:
    """The same few batches in memory, repeated at no cost."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = itertools.cycle(batches)

    def __next__(self) -> Batch:
        return next(self._batches)

    def drain(self) -> None:
        """Do nothing: no batch is ever being made."""

    def close(self) -> None:
        """Do nothing."""


class StoreBatches:
    """Batches of the trainer's own loader with the recipe's augmentation.

    Args:
        store: The store of the samples.
        views: As in `StoreDataset`.
        batch_size: Instances per batch.
        device: Device of the batches.
        threads: As in `Loader`.
    """

    def __init__(
        self, store: Store, views: str | None, batch_size: int, device: torch.device, threads: int | None = None
    ) -> None:
        dataset = endless(StoreDataset(store, augmentation=recipe_augmentation(), views=views))
        self._loader = _RecordingLoader(dataset, batch_size, shuffle=True, device=device, threads=threads)
        self.threads = self._loader.threads
        self._epoch: Iterator[Batch] = self._loader.epoch()

    def __next__(self) -> Batch:
        return next(self._epoch)

    def drain(self) -> None:
        """Wait for the loader's threads."""
        wait(self._loader.futures)
        self._loader.futures.clear()

    def close(self) -> None:
        """End the loader's threads."""
        self._epoch.close()  # type: ignore[attr-defined]


class _RecordingLoader(Loader):
    """A loader that records the futures submitted to its threads."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.futures: list[Future[dict[int, str]]] = []

    def _submit(self, pool: ThreadPoolExecutor, rows: NDArray[np.int64], epoch: Epoch) -> Any:
        pending = super()._submit(pool, rows, epoch)
        self.futures += pending.futures
        return pending
