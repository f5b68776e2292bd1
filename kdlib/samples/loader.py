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
        self.threads = threads or min(8, available_cores())
        self.order, self.part, self.skip_bad = order, part, skip_bad
        self.bad: dict[int, str] = {}

    def __len__(self) -> int:
        """Number of batches per epoch."""
        if self.shuffle:
            return len(self.dataset) // self.batch_size
        return len(self._batches(0))

    def _batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """This rank's part of every batch of an epoch, (2, n): rows, and the epochs that their views are drawn for."""
        size, (rank, ranks) = len(self.dataset), self.part
        samples = np.stack(self.dataset.locate(np.arange(size), np.full(size, epoch)))
        if not self.shuffle:
            starts = range(0, size, self.batch_size)
            return [samples[:, start : start + self.batch_size] for start in starts][rank::ranks]
        order = epoch_order(self.dataset.shards(samples[0]), self.order, (self.dataset.seed, epoch))
        whole = samples[:, order[: len(self) * self.batch_size]].reshape(2, len(self), self.batch_size)
        return list(np.array_split(whole, ranks, axis=2)[rank].swapaxes(0, 1))

    def epoch(self, number: int = 0, first: int = 0) -> Iterator[dict[str, torch.Tensor]]:
        """The batches of an epoch from batch ``first`` on, as dicts of tensors (see `StoreDataset`) with a batch axis.

        Raises:
            BadRecordError: If a record cannot be used and ``skip_bad`` is False.
            cache.StoreFormatError: If the bytes of a record are damaged and ``skip_bad`` is False.
        """
        cv2.setNumThreads(0)  # samples are prepared in parallel; OpenCV must not use threads on top of that
        with ThreadPoolExecutor(self.threads, thread_name_prefix="loader") as pool:
            pending: collections.deque[_Pending] = collections.deque()
            for rows, epochs in self._batches(number)[first:]:
                pending.append(self._submit(pool, rows, epochs))
                if len(pending) > BATCHES_AHEAD:
                    yield self._finish(pending.popleft())
            while pending:
                yield self._finish(pending.popleft())

    def _submit(self, pool: ThreadPoolExecutor, rows: NDArray[np.int64], epochs: NDArray[np.int64]) -> _Pending:
        batch = self.dataset.empty_batch(len(rows))
        slots, count = np.arange(len(rows)), min(self.threads, len(rows))
        return batch, [pool.submit(self._fill, batch, slots[part::count], rows, epochs) for part in range(count)]

    def _fill(
        self,
        batch: dict[str, NDArray[Any]],
        slots: NDArray[np.int64],
        rows: NDArray[np.int64],
        epochs: NDArray[np.int64],
    ) -> dict[int, str]:
        """Fill some slots of a batch; returns the bad records that were replaced."""
        bad: dict[int, str] = {}
        for start in range(0, len(slots), SAMPLES_PER_STEP):
            part = slots[start : start + SAMPLES_PER_STEP]
            try:
                self.dataset.fill(batch, part, rows[part], epochs[part])
            except (StoreFormatError, BadRecordError):
                if not self.skip_bad:
                    raise
                for slot in part:
                    self._fill_or_replace(batch, slot, rows[slot], epochs[[slot]], bad)
        return bad

    def _fill_or_replace(
        self,
        batch: dict[str, NDArray[Any]],
        slot: np.int64,
        row: np.int64,
        epoch: NDArray[np.int64],
        bad: dict[int, str],
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
        if self.device.type != "cuda":
            return tensors
        host = ("affine", "row")  # never used on the device
        return {
            name: tensor if name in host else tensor.pin_memory().to(self.device, non_blocking=True)
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


def epoch_order(shards: NDArray[np.int64], order: str, seed: tuple[int, int]) -> NDArray[np.int64]:
    """A permutation of the samples 0 to n - 1 of an epoch, which depends on the arguments alone.

    Args:
        shards: (n,) the shard that holds each sample.
        order: ``instances``, a uniformly random permutation; or ``shards``, shards in random order, and samples in
            random order within each group of `WINDOW` shards, so that a remote store is read a few shards at a time.
        seed: Seed of the run, and the epoch.
    """
    rng = np.random.default_rng(seed)
    if order == "instances":
        return rng.permutation(len(shards))
    drawn = rng.permutation(np.unique(shards))
    windows = [drawn[start : start + WINDOW] for start in range(0, len(drawn), WINDOW)]
    return np.concatenate([rng.permutation(np.flatnonzero(np.isin(shards, window))) for window in windows])
