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

from train.dataset import StoreDataset, as_tensors

BATCHES_AHEAD = 3


class Loader:
    """Batches of a dataset.

    The order of an epoch is a random permutation of (seed, epoch) alone, and so is every sample, whatever the number of
    threads: a run resumed in the middle of an epoch sees what it would have seen.

    Args:
        dataset: Where samples come from.
        batch_size: Samples a batch.
        shuffle: Random order, the last incomplete batch dropped; else the store's order, nothing dropped.
        threads: Threads that make samples; a number for the machine where None.
        device: Where batches go; pinned memory and asynchronous copies where it is a GPU.
    """

    def __init__(
        self,
        dataset: StoreDataset,
        batch_size: int,
        *,
        shuffle: bool,
        threads: int | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.dataset, self.shuffle, self.device = dataset, shuffle, device or torch.device("cpu")
        self.batch_size = min(batch_size, len(dataset)) if shuffle else batch_size
        self.threads = threads or min(8, os.cpu_count() or 1)

    def __len__(self) -> int:
        """Batches an epoch."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + bool(rest and not self.shuffle)

    def epoch(self, number: int = 0, first: int = 0) -> Iterator[dict[str, torch.Tensor]]:
        """The batches of one epoch, from the ``first`` on."""
        cv2.setNumThreads(0)  # the samples are the parallel work
        rows = self.dataset.rows
        if self.shuffle:
            rows = np.random.default_rng((self.dataset.seed, number)).permutation(rows)
        starts = range(first * self.batch_size, len(self) * self.batch_size, self.batch_size)
        with ThreadPoolExecutor(self.threads, thread_name_prefix="loader") as pool:
            pending: collections.deque[_Pending] = collections.deque()
            for start in starts:
                pending.append(self._submit(pool, rows[start : start + self.batch_size], number))
                if len(pending) > BATCHES_AHEAD:
                    yield self._finish(pending.popleft())
            while pending:
                yield self._finish(pending.popleft())

    def _submit(self, pool: ThreadPoolExecutor, rows: NDArray[np.int64], epoch: int) -> "_Pending":
        batch = self.dataset.empty_batch(len(rows))
        parts = np.array_split(np.arange(len(rows)), min(self.threads, len(rows)))
        return batch, [pool.submit(self._fill, batch, part, rows, epoch) for part in parts]

    def _fill(
        self, batch: dict[str, NDArray[Any]], slots: NDArray[np.int64], rows: NDArray[np.int64], epoch: int
    ) -> None:
        for slot in slots:
            self.dataset.fill(batch, int(slot), int(rows[slot]), epoch)

    def _finish(self, pending: "_Pending") -> dict[str, torch.Tensor]:
        batch, parts = pending
        for part in parts:
            part.result()
        tensors = as_tensors(batch)
        if self.device.type != "cuda":
            return tensors
        host = ("affine", "row")  # bookkeeping that the device never needs
        return {
            name: tensor if name in host else tensor.pin_memory().to(self.device, non_blocking=True)
            for name, tensor in tensors.items()
        }


_Pending = tuple[dict[str, NDArray[Any]], list["Future[None]"]]
