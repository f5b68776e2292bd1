"""One `torch.save` file a sample, read by torch's `DataLoader`: what one would write without a store, as its peer.

A file holds what a sample is made from: the frame's pixels uint8, the teacher's maps float32 (all views already
averaged in the plain crop, so that there is one to read and to warp), the labels' weight. The view that is drawn and
the kernels that warp are the trainer's own: what differs is where the bytes come from and who makes the batch.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, get_worker_info

from benchmarks.support.batches import endless
from kdlib.resample.maps import bordered_shape, interior, mean_heatmaps
from kdlib.samples.dataset import StoreDataset
from kdlib.samples.pixels import frame_pixels
from kdlib.samples.teacher_maps import SCRATCH, TeacherMaps
from kdlib.samples.views import Augmentation, Views
from kdlib.skeleton import FLIP_ORDER
from train.supervision import Batch

PREFETCH = 2
"""Batches a worker keeps ready: torch's default."""
POLL = 2e-4
"""Seconds between two looks at what the workers have made."""


def write_files(store: Any, folder: Path) -> int:
    """A file of every instance of a store; returns the bytes of one, on average."""
    plain = StoreDataset(store)
    for index, row in enumerate(plain.rows):
        sample, frame = plain[index], frame_pixels(store, int(row), store.frame(int(row)))
        content = {
            "image": torch.from_numpy(np.ascontiguousarray(frame[..., :3])),
            "heatmaps": sample["heatmaps"].contiguous(),
            "weight": sample["labelled"].clone(),
        }
        torch.save(content, _path(folder, int(row)))
    return round(sum(path.stat().st_size for path in folder.glob("*.pt")) / len(plain))


def _path(folder: Path, row: int) -> Path:
    return folder / f"{row:09d}.pt"


class _ReadMaps(TeacherMaps):
    """Maps (K, H, W) that were read just now, instead of those of the store's first view."""

    read: NDArray[np.float32]

    def fill(
        self,
        heatmaps: NDArray[np.float32],
        slots: NDArray[np.int64],
        rows: NDArray[np.int64],
        seen: Views,
        to_image: NDArray[np.float64],
    ) -> None:
        bordered = SCRATCH.array("maps", (1, *bordered_shape(self.read.shape)), np.float32)
        interior(bordered)[0] = (self.read[FLIP_ORDER] if seen.flips[0] else self.read).transpose(1, 2, 0)
        size = self.read.shape[:0:-1]
        mean_heatmaps(bordered, self.inverses(rows, to_image)[0, :1], size, heatmaps[slots[0]])


class FilesDataset(StoreDataset):
    """The store's samples from the files in a folder.

    Attributes:
        work: (workers, 2) how many samples each worker has made, and its CPU seconds; shared with the workers.
    """

    def __init__(self, store: Any, augmentation: Augmentation, folder: Path, workers: int) -> None:
        super().__init__(store, augmentation=augmentation, views="first")
        self.folder, self.maps = folder, _ReadMaps(store, "first", self.stride)
        self.work = torch.zeros(workers, 2, dtype=torch.float64).share_memory_()

    def __getitem__(self, index: int) -> Batch:
        sample = super().__getitem__(index)
        worker = get_worker_info()
        if worker is not None:
            self.work[worker.id, 0] += 1
            self.work[worker.id, 1] = time.process_time()
        return sample

    def _pixels(self, rows: list[int]) -> Iterator[NDArray[np.uint8]]:
        for row in rows:  # one: each sample is made alone
            content = torch.load(_path(self.folder, row), weights_only=True)
            self.maps.read = content["heatmaps"].numpy()
            yield np.asarray(cv2.cvtColor(content["image"].numpy(), cv2.COLOR_RGB2RGBA), np.uint8)


class FileBatches:
    """Batches of worker processes, as many as our loader has threads.

    Args:
        store: Whose samples the files hold.
        augmentation: How they are seen.
        folder: With the files of `write_files`.
        batch_size: Instances a batch.
        device: Where batches go.
    """

    def __init__(
        self, store: Any, augmentation: Augmentation, folder: Path, batch_size: int, device: torch.device
    ) -> None:
        workers = min(8, os.cpu_count() or 1)
        self._dataset, self._device, self._batch_size = (
            FilesDataset(store, augmentation, folder, workers),
            device,
            batch_size,
        )
        loader = DataLoader(
            endless(self._dataset),
            batch_size,
            shuffle=True,
            num_workers=workers,
            prefetch_factor=PREFETCH,
            pin_memory=device.type == "cuda",
            worker_init_fn=_alone,
        )
        self._batches: Any = iter(loader)
        self._asked = workers * PREFETCH

    def __next__(self) -> Batch:
        self._asked += 1
        batch: Batch = next(self._batches)
        return {name: tensor.to(self._device, non_blocking=True) for name, tensor in batch.items()}

    def rest(self) -> None:
        """Wait until the workers have made what they were asked for."""
        while self._dataset.work[:, 0].sum() < self._asked * self._batch_size:
            time.sleep(POLL)

    def cpu_seconds(self) -> float:
        """What the workers have used so far."""
        return float(self._dataset.work[:, 1].sum())

    def close(self) -> None:
        """End the workers."""
        self._batches._shutdown_workers()


def _alone(_worker: int) -> None:
    cv2.setNumThreads(0)  # the samples are the parallel work
