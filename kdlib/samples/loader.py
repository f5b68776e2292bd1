"""Batches of a store in a seeded order, prepared ahead of time by threads.

Decoding, warping and decompressing release Python's global interpreter lock, so the threads of one process are enough:
nothing is forked, nothing is pickled, and memory does not grow with the number of workers.
"""

import collections
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from cache.errors import StoreFormatError
from kdlib.errors import BadRecordError
from kdlib.machine.process import available_cores
from kdlib.samples.dataset import StoreDataset, as_tensors
from kdlib.samples.mixture import MixedDataset
from kdlib.samples.views import Epoch, epoch_of

BATCHES_AHEAD = 3
SAMPLES_PER_STEP = 32
"""Samples that a thread takes through each step together; the bytes of their frames are in memory at the same time."""
MAX_REPLACEMENTS = 16
"""After this many consecutive bad records the error is raised: more than single records is damaged."""
WINDOW = 8
"""Shards whose rows are mixed with each other under the order ``shards``."""
_Pending = tuple[dict[str, NDArray[Any]], list["Future[dict[int, str]]"]]
"""A batch that is being filled, and what its threads will return: the bad records that they found."""


class Loader:
    """Batches of a dataset.

    The order of an epoch depends on (seed, epoch) alone and each sample on (seed, epoch, row) alone, not on the number
    of threads. A run that is resumed in the middle of an epoch therefore gets the same batches as an uninterrupted one.

    Args:
        dataset: The dataset of the samples.
        batch_size: Samples per batch, over all ranks.
        shuffle: True gives a random order without the last incomplete batch; False gives the store's order, complete.
        threads: Threads that prepare samples; None takes one per core, at most 8.
        device: The device of the batches; None is the CPU. For a GPU they are pinned and copied asynchronously.
        order: How to shuffle, see `epoch_order`.
        part: Rank and number of ranks. A rank gets its part of every batch of a shuffled epoch, and whole batches of
            one that is not shuffled.
        skip_bad: Replace a bad record by the next good one of the store, and add it to ``bad``.

    Attributes:
        bad: The bad records found so far: row -> what is wrong.
    """

    def __init__(
        self,
        dataset: StoreDataset | MixedDataset,
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
        self.threads = threads or min(8, available_cores())
        self.order, self.part, self.skip_bad = order, part, skip_bad
        self.bad: dict[int, str] = {}

    def __len__(self) -> int:
        """Number of batches per epoch."""
        if self.shuffle:
            return len(self.dataset) // self.batch_size
        return len(self._batches(0))

    def _batches(self, epoch: int) -> list[tuple[NDArray[np.int64], Epoch]]:
        """This rank's part of every batch of an epoch: its rows (n,), and the epochs that their views are drawn for."""
        size, (rank, ranks) = len(self.dataset), self.part
        rows, epochs = self.dataset.locate(np.arange(size), epoch)
        if self.shuffle:
            order = epoch_order(np.arange(size), self.order, self.dataset.shards(rows), (self.dataset.seed, epoch))
            whole = order[: len(self) * self.batch_size].reshape(len(self), self.batch_size)
            batches = list(np.array_split(whole, ranks, axis=1)[rank])
        else:
            starts = range(0, size, self.batch_size)
            batches = [np.arange(size)[start : start + self.batch_size] for start in starts][rank::ranks]
        return [(rows[batch], epoch_of(epochs, batch)) for batch in batches]

    def epoch(self, number: int = 0, first: int = 0) -> Iterator[dict[str, torch.Tensor]]:
        """The batches of an epoch from batch ``first`` on, as dicts of tensors (see `StoreDataset`) with a batch axis.

        Raises:
            BadRecordError: If a record cannot be used and ``skip_bad`` is False.
            cache.StoreFormatError: If the bytes of a record are damaged and ``skip_bad`` is False.
        """
        cv2.setNumThreads(0)  # samples are prepared in parallel; OpenCV must not use threads on top of that
        with ThreadPoolExecutor(self.threads, thread_name_prefix="loader") as pool:
            pending: collections.deque[_Pending] = collections.deque()
            for rows, epoch in self._batches(number)[first:]:
                pending.append(self._submit(pool, rows, epoch))
                if len(pending) > BATCHES_AHEAD:
                    yield self._finish(pending.popleft())
            while pending:
                yield self._finish(pending.popleft())

    def _submit(self, pool: ThreadPoolExecutor, rows: NDArray[np.int64], epoch: Epoch) -> _Pending:
        batch = self.dataset.empty_batch(len(rows))
        groups = np.array_split(np.argsort(rows), min(self.threads, len(rows)))  # rows of one store stay together
        return batch, [pool.submit(self._fill, batch, slots, rows, epoch) for slots in groups]

    def _fill(
        self, batch: dict[str, NDArray[Any]], slots: NDArray[np.int64], rows: NDArray[np.int64], epoch: Epoch
    ) -> dict[int, str]:
        """Fill some slots of a batch; returns the bad records that were replaced."""
        bad: dict[int, str] = {}
        for start in range(0, len(slots), SAMPLES_PER_STEP):
            part = slots[start : start + SAMPLES_PER_STEP]
            try:
                self.dataset.fill(batch, part, rows[part], epoch_of(epoch, part))
            except (StoreFormatError, BadRecordError):
                if not self.skip_bad:
                    raise
                for slot in part:
                    self._fill_or_replace(batch, slot, rows[slot], epoch_of(epoch, np.array([slot])), bad)
        return bad

    def _fill_or_replace(
        self, batch: dict[str, NDArray[Any]], slot: np.int64, row: np.int64, epoch: Epoch, bad: dict[int, str]
    ) -> None:
        """Fill one slot with the sample of a row, or of the next good row; adds the bad ones to ``bad``."""
        rows = self.dataset.rows
        at = np.searchsorted(rows, row)
        for further in range(MAX_REPLACEMENTS + 1):
            chosen = rows[[(at + further) % len(rows)]]
            try:
                return self.dataset.fill(batch, np.array([slot]), chosen, epoch)
            except (StoreFormatError, BadRecordError) as error:
                if further == MAX_REPLACEMENTS or not is_bad_record(error):
                    raise
                bad[int(chosen[0])] = str(error)
        return None

    def _finish(self, pending: _Pending) -> dict[str, torch.Tensor]:
        """Wait for the threads of a batch and move it to the device."""
        batch, parts = pending
        for part in parts:
            self.bad |= part.result()
        tensors = as_tensors(batch)
        if self.device.type == "cpu":
            return tensors
        host = ("affine", "row")  # never used on the device
        pinned = self.device.type == "cuda"
        return {
            name: tensor
            if name in host
            else (tensor.pin_memory() if pinned else tensor).to(self.device, non_blocking=pinned)
            for name, tensor in tensors.items()
        }


def is_bad_record(error: BaseException | None) -> bool:
    """Whether an error is due to one bad record. False if an `OSError` caused it: the store cannot be read at all."""
    if not isinstance(error, (StoreFormatError, BadRecordError)):
        return False
    while error is not None:
        if isinstance(error, OSError):
            return False
        error = error.__cause__
    return True


def epoch_order(
    rows: NDArray[np.int64], order: str, shard: int | NDArray[np.int64], seed: tuple[int, int]
) -> NDArray[np.int64]:
    """A permutation of rows that depends on the arguments alone.

    Args:
        rows: (n,) ascending, rows of a store or positions in an epoch.
        order: ``instances``, a uniformly random permutation; or ``shards``, shards in random order, and rows in random
            order within each group of `WINDOW` shards, so that a remote store is read a few shards at a time.
        shard: Rows per shard of the store, or the shard of each row, (n,).
        seed: Seed of the run, and the epoch.
    """
    rng = np.random.default_rng(seed)
    if order == "instances":
        return rng.permutation(rows)
    shard_of = shard if isinstance(shard, np.ndarray) else rows // shard
    shards = rng.permutation(np.unique(shard_of))
    windows = [shards[start : start + WINDOW] for start in range(0, len(shards), WINDOW)]
    return np.concatenate([rng.permutation(rows[np.isin(shard_of, window)]) for window in windows])
