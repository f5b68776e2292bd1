"""The peer of a store: one `torch.save` file per sample, read by torch's `DataLoader`.

A file holds the frame's pixels (uint8), the teacher's heatmaps (float32, all stored views averaged in the plain crop,
so that one map per joint is read and warped) and the labels' weights. The augmented view and the warp kernels are
those of the trainer. Only the source of the bytes and the code that builds the batch differ.
"""

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
from cache import Store
from kdlib.machine.process import available_cores
from kdlib.resample.maps import bordered_shape, interior, mean_heatmaps
from kdlib.samples.dataset import StoreDataset
from kdlib.samples.pixels import frame_pixels
from kdlib.samples.placement import Placement
from kdlib.samples.teacher_maps import BUFFERS, TeacherMaps
from kdlib.samples.views import Augmentation
from kdlib.skeletons.skeleton import COCO
from train.supervision import Batch

PREFETCH = 2
"""Batches that each worker keeps ready: torch's default."""
POLL = 2e-4
"""Seconds between two checks of the workers' progress."""


def write_files(store: Store, folder: Path) -> int:
    """Write one file per instance of a store; return their mean size in bytes."""
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
    """Heatmaps (K, H, W) that were just read from a file, in place of the store's first view."""

    read: NDArray[np.float32]

    def fill(self, heatmaps: NDArray[np.float32], slots: NDArray[np.int64], placement: Placement) -> None:
        bordered = BUFFERS.array("maps", (1, *bordered_shape(self.read.shape)), np.float32)
        interior(bordered)[0] = (self.read[COCO.flip_order] if placement.flips[0] else self.read).transpose(1, 2, 0)
        size = self.read.shape[:0:-1]
        mean_heatmaps(bordered, placement.heatmap_to_maps[0, :1], size, heatmaps[slots[0]])


class FilesDataset(StoreDataset):
    """The samples of a store, read from the files of a folder.

    Attributes:
        work: (workers, 2) float64 in shared memory: samples that each worker has made, and its CPU seconds.
    """

    def __init__(self, store: Store, augmentation: Augmentation, folder: Path, workers: int) -> None:
        super().__init__(store, augmentation=augmentation, views="first")
        self.folder, self._read_maps = folder, _ReadMaps(store, COCO)
        self.maps = self._read_maps
        self.work = torch.zeros(workers, 2, dtype=torch.float64).share_memory_()

    def __getitem__(self, index: int) -> Batch:
        sample = super().__getitem__(index)
        worker = get_worker_info()
        if worker is not None:
            self.work[worker.id, 0] += 1
            self.work[worker.id, 1] = time.process_time()
        return sample

    def _sources(self, rows: list[int]) -> Iterator[NDArray[np.uint8]]:
        for row in rows:  # always a single row: each sample is made separately
            content = torch.load(_path(self.folder, row), weights_only=True)
            self._read_maps.read = content["heatmaps"].numpy()
            yield np.asarray(cv2.cvtColor(content["image"].numpy(), cv2.COLOR_RGB2RGBA), np.uint8)


class FileBatches:
    """Batches made by worker processes, as many as the trainer's loader has threads.

    Args:
        store: The store whose samples the files hold.
        augmentation: Augmentation of the samples.
        folder: Folder with the files of `write_files`.
        batch_size: Instances per batch.
        device: Device of the batches.
    """

    def __init__(
        self, store: Store, augmentation: Augmentation, folder: Path, batch_size: int, device: torch.device
    ) -> None:
        workers = min(8, available_cores())
        self._dataset = FilesDataset(store, augmentation, folder, workers)
        self._device, self._batch_size = device, batch_size
        loader = DataLoader(
            endless(self._dataset),
            batch_size,
            shuffle=True,
            num_workers=workers,
            prefetch_factor=PREFETCH,
            pin_memory=device.type == "cuda",
            worker_init_fn=_use_one_opencv_thread,
        )
        self._batches: Any = iter(loader)
        self._requested = workers * PREFETCH

    def __next__(self) -> Batch:
        self._requested += 1
        batch: Batch = next(self._batches)
        return {name: tensor.to(self._device, non_blocking=True) for name, tensor in batch.items()}

    def drain(self) -> None:
        """Wait until the workers have made all requested batches."""
        while self._dataset.work[:, 0].sum() < self._requested * self._batch_size:
            time.sleep(POLL)

    def cpu_seconds(self) -> float:
        """Return the CPU seconds that the workers have used so far."""
        return float(self._dataset.work[:, 1].sum())

    def close(self) -> None:
        """End the workers."""
        self._batches._shutdown_workers()


def _use_one_opencv_thread(_worker: int) -> None:
    cv2.setNumThreads(0)  # the samples are processed in parallel instead
