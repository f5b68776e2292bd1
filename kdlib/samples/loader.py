"""Batches of a store in a seeded order, prepared ahead of time by threads.

Decoding, warping and decompressing release Python's global interpreter lock, so the threads of one process are enough:
nothing is forked, nothing is pickled, and memory does not grow with the number of workers.
"""

import collections
import dataclasses
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from cache.errors import StoreFormatError
from kdlib.errors import BadRecordError
from kdlib.machine.process import available_cores
from kdlib.samples.dataset import StoreDataset, with_maps_as_planes
from kdlib.samples.mixture import MixedDataset
from kdlib.samples.resident import ResidentDataset
from kdlib.samples.uploads import ON_HOST, CudaUploads, HostBatch, HostBatches, Upload, Uploads
from kdlib.samples.views import Epoch, epoch_of

BATCHES_AHEAD = 3
"""Batches that are prepared ahead of the one in use, at least."""
SAMPLES_PER_STEP = 32
"""Samples that a thread takes through each step together; the bytes of their frames are in memory at the same time."""
MAX_REPLACEMENTS = 16
"""After this many consecutive bad records the error is raised: more than single records is damaged."""
WINDOW = 8
"""Shards whose rows are mixed with each other under the order ``shards``."""


@dataclasses.dataclass
class Pending:
    """A batch that is being filled.

    Attributes:
        tensors: Entries of the batch, in the memory that the threads fill.
        futures: What each thread will return: the bad records that it found.
        source: The memory that is used again for other batches, where batches are copied to a GPU.
    """

    tensors: Mapping[str, torch.Tensor]
    futures: list[Future[dict[int, str]]]
    source: HostBatch | None = None

    @property
    def is_filled(self) -> bool:
        """Whether all threads are done, without an error."""
        return all(future.done() and future.exception() is None for future in self.futures)


class Loader:
    """Batches of a dataset.

    The order of an epoch depends on (seed, epoch) alone and each sample on (seed, epoch, row) alone, not on the number
    of threads. A run that is resumed in the middle of an epoch therefore gets the same batches as an uninterrupted one.

    Args:
        dataset: The dataset of the samples.
        batch_size: Samples per batch, over all ranks.
        shuffle: True gives a random order without the last incomplete batch; False gives the store's order, complete.
        threads: Threads that prepare samples; None takes one per core.
        device: The device of the batches; None is the CPU. For a GPU they are filled in page-locked memory, and each
            is copied one batch ahead of its use, see `kdlib.samples.uploads`.
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
        self.threads = threads or available_cores()
        self.order, self.part, self.skip_bad = order, part, skip_bad
        self.bad: dict[int, str] = {}
        self._uploads: Uploads | None = CudaUploads(self.device) if self.device.type == "cuda" else None
        self._host_batches: HostBatches | None = None

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
            order = epoch_order(self.dataset.shards(rows), self.order, (self.dataset.seed, epoch))
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
        pending: collections.deque[Pending] = collections.deque()
        try:
            with ThreadPoolExecutor(self.threads, thread_name_prefix="loader") as pool:
                self._prepare_memory()
                for rows, epoch in self._batches(number)[first:]:
                    pending.append(self._submit(pool, rows, epoch))
                    if len(pending) > self.ahead:
                        yield self._finish(pending)
                while pending:
                    yield self._finish(pending)
        finally:  # after the last thread
            if self._host_batches is not None:
                self._host_batches.finish()

    @property
    def largest(self) -> int:
        """Number of samples of this rank's largest batch."""
        return -(-self.batch_size // self.part[1]) if self.shuffle else min(self.batch_size, len(self.dataset))

    @property
    def ahead(self) -> int:
        """Number of batches that are prepared ahead of the one in use: enough work for all threads."""
        return max(BATCHES_AHEAD, -(-self.threads // self.groups(self.largest)) + 1)

    def groups(self, size: int) -> int:
        """Number of groups into which a batch of that size is split, each for one thread.

        A thread is faster with many samples at once, so small batches are not split: each thread fills a whole one.
        """
        return max(1, min(self.threads, -(-size // SAMPLES_PER_STEP)))

    def _prepare_memory(self) -> None:
        """For a GPU, allocate the host memory of the batches, once.

        `ahead` + 1 batches are being filled, and the copies of two may be waiting for the steps before them.
        """
        if self._uploads is not None and self._host_batches is None:
            like = _from_numpy(self.dataset.empty_batch(self.largest))
            self._host_batches = HostBatches(like, self.ahead + 3, self._uploads)

    def _submit(self, pool: ThreadPoolExecutor, rows: NDArray[np.int64], epoch: Epoch) -> Pending:
        """Let threads fill a batch."""
        if self._host_batches is None:
            source, batch = None, self.dataset.empty_batch(len(rows))
            tensors = _from_numpy(batch)
        else:
            source = self._host_batches.take()
            batch, tensors = source.part(len(rows))
        groups = np.array_split(np.argsort(rows), self.groups(len(rows)))  # rows of one store stay together
        futures = [pool.submit(self._fill, batch, slots, rows, epoch) for slots in groups]
        return Pending(tensors, futures, source)

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

    def _finish(self, pending: collections.deque[Pending]) -> dict[str, torch.Tensor]:
        """Take the first batch, after its threads are done, on the device; start to copy the next one if it is filled.

        The copy of the next batch is started before the caller uses this one, so the two overlap.
        """
        first = pending.popleft()
        for future in first.futures:
            self.bad |= future.result()
        if first.source is not None:
            tensors: Mapping[str, torch.Tensor] = self._upload(first).take()
            if pending and pending[0].is_filled:
                self._upload(pending[0])
        elif self.device.type == "cpu":
            tensors = first.tensors
        else:  # a Mac: its GPU has no memory or streams of its own that copies could use
            tensors = {
                name: tensor if name in ON_HOST else tensor.to(self.device) for name, tensor in first.tensors.items()
            }
        if isinstance(self.dataset, ResidentDataset):
            return self.dataset.complete(tensors)
        return with_maps_as_planes(tensors)

    def _upload(self, filled: Pending) -> Upload:
        """The copy of a filled batch, which is started now if it was not before."""
        assert self._uploads is not None and filled.source is not None  # noqa: S101, PT018 - a batch for a GPU
        if filled.source.upload is None:
            filled.source.upload = self._uploads.start(filled.tensors)
        return filled.source.upload


def _from_numpy(batch: Mapping[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in batch.items()}


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
