"""Batches of a store in a seeded order, made ahead by threads.

Decoding, warping and decompressing release the interpreter's lock, so threads of one process serve: nothing is forked,
nothing is pickled between processes, and memory does not grow with workers.
"""

import collections
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from cache.errors import StoreFormatError
from kdlib.errors import BadRecordError
from kdlib.samples.dataset import StoreDataset, as_tensors

BATCHES_AHEAD = 3


AT_ONCE = 32
"""So many samples a thread takes through each step together: their frames' bytes are in memory at once."""


REPLACEMENTS = 16
"""So many bad records one after the other are no accident: something else is wrong."""


class Loader:
    """Batches of a dataset.

    The order of an epoch is a random permutation of (seed, epoch) alone, and so is every sample, whatever the number of
    threads: a run resumed in the middle of an epoch sees what it would have seen.

    Args:
        dataset: Where samples come from.
        batch_size: Samples a batch, over all ranks.
        shuffle: Random order, the last incomplete batch dropped; else the store's order, nothing dropped.
        threads: Threads that make samples; a number for the machine where None.
        device: Where batches go; pinned memory and asynchronous copies where it is a GPU.
        order: How to shuffle, see `kdlib.samples.loader.epoch_order`.
        part: Rank and number of ranks: this one's part of every batch; of an unshuffled epoch, whole batches.
        skip_bad: Put the next good record of the store in the place of a corrupt one, and note it in ``bad``.
    """

    def __init__(
        self,
        dataset: StoreDataset,
        batch_size: int,
        *,
        shuffle: bool,
        threads: int | None = None,
        device: torch.device | None = None,
        order: str = "instances",
        part: tuple[int, int] = (0, 1),
        skip_bad: bool = False,
    ) -> None:
        self.dataset, self.shuffle, self.device = dataset, shuffle, device or torch.device("cpu")
        self.batch_size = min(batch_size, len(dataset)) if shuffle else batch_size
        self.threads = threads or min(8, os.cpu_count() or 1)
        self.order, self.part, self.skip_bad = order, part, skip_bad
        self.bad: dict[int, str] = {}
        """Row -> what is wrong, of the bad records met so far."""

    def __len__(self) -> int:
        """Batches an epoch."""
        if self.shuffle:
            return len(self.dataset) // self.batch_size
        return len(self._batches(0))

    def _batches(self, number: int) -> list[NDArray[np.int64]]:
        """The rows of every batch of an epoch, as far as they are this rank's."""
        rows, (rank, world) = self.dataset.rows, self.part
        if not self.shuffle:
            starts = range(0, len(rows), self.batch_size)
            return [rows[start : start + self.batch_size] for start in starts][rank::world]
        shard = self.dataset.store.spec.shard_instances
        rows = epoch_order(rows, self.order, shard, (self.dataset.seed, number))
        whole = rows[: len(self) * self.batch_size].reshape(len(self), self.batch_size)
        return list(np.array_split(whole, world, axis=1)[rank])

    def epoch(self, number: int = 0, first: int = 0) -> Iterator[dict[str, torch.Tensor]]:
        """The batches of one epoch, from the ``first`` on."""
        cv2.setNumThreads(0)  # the samples are the parallel work
        with ThreadPoolExecutor(self.threads, thread_name_prefix="loader") as pool:
            pending: collections.deque[_Pending] = collections.deque()
            for rows in self._batches(number)[first:]:
                pending.append(self._submit(pool, rows, number))
                if len(pending) > BATCHES_AHEAD:
                    yield self._finish(pending.popleft())
            while pending:
                yield self._finish(pending.popleft())

    def _submit(self, pool: ThreadPoolExecutor, rows: NDArray[np.int64], epoch: int) -> "_Pending":
        batch = self.dataset.empty_batch(len(rows))
        slots, count = np.arange(len(rows)), min(self.threads, len(rows))
        return batch, [pool.submit(self._fill, batch, slots[part::count], rows, epoch) for part in range(count)]

    def _fill(
        self, batch: dict[str, NDArray[Any]], slots: NDArray[np.int64], rows: NDArray[np.int64], epoch: int
    ) -> dict[int, str]:
        bad: dict[int, str] = {}
        for start in range(0, len(slots), AT_ONCE):
            part = slots[start : start + AT_ONCE]
            try:
                self.dataset.fill(batch, part, rows[part], epoch)
            except (StoreFormatError, BadRecordError):
                if not self.skip_bad:
                    raise
                for slot in part:
                    self._fill_slot(batch, slot, rows[slot], epoch, bad)
        return bad

    def _fill_slot(
        self, batch: dict[str, NDArray[Any]], slot: np.int64, row: np.int64, epoch: int, bad: dict[int, str]
    ) -> None:
        rows = self.dataset.rows
        at = np.searchsorted(rows, row)
        for further in range(REPLACEMENTS + 1):
            chosen = rows[[(at + further) % len(rows)]]
            try:
                return self.dataset.fill(batch, np.array([slot]), chosen, epoch)
            except (StoreFormatError, BadRecordError) as error:
                if further == REPLACEMENTS or not is_bad_record(error):
                    raise
                bad[int(chosen[0])] = str(error)
        return None

    def _finish(self, pending: "_Pending") -> dict[str, torch.Tensor]:
        batch, parts = pending
        for part in parts:
            self.bad |= part.result()
        tensors = as_tensors(batch)
        if self.device.type != "cuda":
            return tensors
        host = ("affine", "row")  # bookkeeping that the device never needs
        return {
            name: tensor if name in host else tensor.pin_memory().to(self.device, non_blocking=True)
            for name, tensor in tensors.items()
        }


def is_bad_record(error: BaseException | None) -> bool:
    """Does an error mean one damaged record, rather than that the system could not read at all?"""
    if not isinstance(error, (StoreFormatError, BadRecordError)):
        return False
    while error is not None:
        if isinstance(error, OSError):
            return False
        error = error.__cause__
    return True


_Pending = tuple[dict[str, NDArray[Any]], list["Future[dict[int, str]]"]]


WINDOW = 8
"""Shards whose rows are mixed with each other under ``shards``."""


def epoch_order(rows: NDArray[np.int64], order: str, shard: int, seed: tuple[int, int]) -> NDArray[np.int64]:
    """A permutation of rows, decided by its arguments alone.

    Args:
        rows: Rows of a store, ascending.
        order: ``instances``, every permutation alike; or ``shards``: shards in random order, and rows in random order
            among those of `WINDOW` shards at a time, so that a store at the end of a network is read a few shards at a
            time. The mixing is then only as good as the window is wide.
        shard: Rows of a store's shard.
        seed: Of the run, and the epoch.
    """
    rng = np.random.default_rng(seed)
    if order == "instances":
        return rng.permutation(rows)
    shard_of = rows // shard
    shards = rng.permutation(np.unique(shard_of))
    windows = [shards[start : start + WINDOW] for start in range(0, len(shards), WINDOW)]
    return np.concatenate([rng.permutation(rows[np.isin(shard_of, window)]) for window in windows])
