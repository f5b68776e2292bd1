"""A store in the memory of a device: its decoded frames and its codes. Samples are made there, by batch.

The host draws the augmented views and computes labels and affines with the compiled code of `StoreDataset`; these are
about half a kilobyte per sample, and the only copies to the device. Decoding the codes, warping and averaging the
heatmaps, and warping the frames are operations of the device (`kdlib.resample.on_device`) by the same formulas: labels
and affines are equal to those of `StoreDataset` to the bit, pixels differ by at most one grey level, and heatmaps by
rounding, less than 1e-5. The order of the samples is that of the loader, also for ranks and after a resume.

All ranks hold the whole store, each on its own device, because an epoch's order is random over the whole store.
"""

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import cache
from cache.codec.floats import FloatCodec
from cache.codec.root4 import RootCodec
from cache.errors import StoreFormatError
from kdlib.errors import BadRecordError, KdlibError
from kdlib.machine.memory import free_memory
from kdlib.machine.process import available_cores
from kdlib.resample.on_device import bordered_size, mean_maps, warp_frames, without_border
from kdlib.samples.dataset import StoreDataset
from kdlib.samples.pixels import frame_pixels
from kdlib.samples.views import Epoch

SHARE: Final = 0.75
"""Largest share of the free memory of a device that a resident store may take; training needs the rest."""
_ROWS_AT_ONCE: Final = 256
"""Rows that are read before they are copied to the device."""
_TORCH_DTYPES: Final[Mapping[str, torch.dtype]] = {
    "uint8": torch.uint8,
    "float16": torch.float16,
    "float32": torch.float32,
}


def resident_bytes(dataset: StoreDataset) -> int:
    """Bytes of device memory that a dataset's store would take, from the size of its first usable frame.

    Raises:
        BadRecordError: If no frame can be decoded.
        cache.StoreFormatError: If a record is damaged.
    """
    width, height = bordered_size(_frame_size(dataset))
    per_row = 3 * width * height
    if dataset.views is not None:
        spec = dataset.store.spec
        values = math.prod(spec.map_shape)
        per_row += spec.views * (values * _dtype(dataset.store.codec).itemsize + 4 * spec.joints)
    return len(dataset.rows) * per_row


def why_not_resident(dataset: StoreDataset, device: torch.device) -> str | None:
    """The reason why a dataset's store cannot live in a device's memory, a sentence without an end; None if it can."""
    store = dataset.store
    if dataset.images is not None:
        return f"{store.path} holds no frames, and only frames can live in device memory"
    if device.type not in ("cpu", "cuda"):
        return f"--resident needs float64, in which {device.type} cannot compute"
    needed, free = resident_bytes(dataset), free_memory(device)
    if free is None or needed <= SHARE * free:
        return None
    return (
        f"{store.path} does not fit into the memory of {device}: --resident needs {needed / 1e9:.1f} GB for frames and "
        f"codes, {free / 1e9:.1f} GB are free, and a quarter of that stays free for training"
    )


class ResidentDataset(StoreDataset):
    """Samples of a store whose frames and codes are in the memory of a device.

    `fill` writes labels and affines of samples in host memory; `complete` makes the samples of a batch of them, with
    the names, shapes and dtypes of `StoreDataset`'s tensors, on the device.

    Args:
        source: The dataset that this one replaces, of a store with frames.
        device: The device; the CPU is possible, and slow.
        threads: Threads that read the store; None takes one per core.
        compiled: Use ``torch.compile``, which makes few kernels of the operations.
        skip_bad: Keep going where a record is bad. `fill` then raises the error for its rows.
        progress: Called with the number of rows read and of all rows.

    Raises:
        BadRecordError: If a record cannot be used, or a frame has another size than the first one.
        cache.StoreFormatError: If a record is damaged.
    """

    def __init__(
        self,
        source: StoreDataset,
        device: torch.device,
        *,
        threads: int | None = None,
        compiled: bool = False,
        skip_bad: bool = False,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.__dict__.update(source.__dict__)
        self._device, self._skip_bad = device, skip_bad
        self._warp = torch.compile(warp_frames) if compiled else warp_frames
        self._mean = torch.compile(mean_maps) if compiled else mean_maps
        self._decode = torch.compile(decode_codes) if compiled else decode_codes
        self._problems: dict[int, StoreFormatError | BadRecordError] = {}
        self._frame_size = _frame_size(source)
        count, spec = len(self.rows), self.store.spec
        columns, lines = bordered_size(self._frame_size)
        self._frames = torch.zeros((count, lines, columns, 3), dtype=torch.uint8, device=device)
        views = spec.views if self.views is not None else 0
        dtype = _TORCH_DTYPES[_dtype(self.store.codec).name]
        self._codes = torch.empty((count, views, *spec.map_shape), dtype=dtype, device=device)
        self._peaks = torch.empty((count, views, spec.joints), dtype=torch.float32, device=device)
        self._order = torch.from_numpy(np.stack([np.arange(len(self.skeleton)), self._flip_order])).to(device)
        self._stored_flips = self.store.view_flip.astype(bool)
        self._load(threads or available_cores(), progress)

    # --- reading the store ---

    def _load(self, threads: int, progress: Callable[[int, int], None]) -> None:
        """Read, decode and copy all rows; the errors of bad records are kept if they are to be skipped."""
        cv2.setNumThreads(0)  # as in the loader
        progress(0, len(self.rows))
        with ThreadPoolExecutor(threads, thread_name_prefix="resident") as pool:
            for start in range(0, len(self.rows), _ROWS_AT_ONCE):
                places = range(start, min(start + _ROWS_AT_ONCE, len(self.rows)))
                frames = np.zeros((len(places), *self._frame_size[::-1], 3), np.uint8)
                codes = np.zeros((len(places), *self._codes.shape[1:]), _dtype(self.store.codec))
                peaks = np.zeros((len(places), *self._peaks.shape[1:]), np.float32)
                for _ in pool.map(self._read, self.rows[places.start : places.stop].tolist(), frames, codes, peaks):
                    pass
                pixels = without_border(self._frames)
                for target, read in ((pixels, frames), (self._codes, codes), (self._peaks, peaks)):
                    target[places.start : places.stop] = torch.from_numpy(read)
                progress(places.stop, len(self.rows))

    def _read(self, row: int, frame: NDArray[np.uint8], codes: NDArray[Any], peaks: NDArray[np.float32]) -> None:
        """Decode a row's frame (H, W, 3) and its codes (V, K, h, w) with their peaks (V, K)."""
        try:
            pixels = frame_pixels(self.store, row, self.store.frame(row))
            if pixels.shape[:2] != frame.shape[:2]:
                raise BadRecordError(
                    f"row {row} of {self.store.path}: its frame is {pixels.shape[1]}x{pixels.shape[0]} and others are "
                    f"{frame.shape[1]}x{frame.shape[0]}; --resident needs frames of one size: leave it out"
                )
            frame[:] = pixels[..., :3]
            for view in range(len(codes)):
                if isinstance(self.store.codec, RootCodec | FloatCodec):
                    codes[view], peaks[view] = self.store.codes(row, view)
                else:
                    codes[view] = self.store.heatmap(row, view)
        except (StoreFormatError, BadRecordError) as error:
            if not self._skip_bad:
                raise
            self._problems[row] = error

    # --- samples ---

    def empty_batch(self, size: int) -> dict[str, NDArray[Any]]:
        """Uninitialised arrays for what `fill` writes about ``size`` samples."""
        joints, used = len(self.skeleton), self._used_views
        batch: dict[str, NDArray[Any]] = {
            "keypoints": np.empty((size, joints, 2), np.float32),
            "labelled": np.empty((size, joints), np.float32),
            "affine": np.empty((size, 2, 3), np.float64),
            "row": np.empty(size, np.int64),
            "place": np.empty(size, np.int64),
            "input_to_frame": np.empty((size, 2, 3), np.float64),
        }
        if used:
            batch["view"], batch["mirrored"] = (np.empty((size, used), np.int64) for _ in range(2))
            batch["heatmap_to_maps"] = np.empty((size, used, 2, 3), np.float64)
        return batch

    @property
    def _used_views(self) -> int:
        """Number of stored views from which the heatmaps of a sample are averaged."""
        return 0 if self.views is None else self.store.spec.views if self.views == "average" else 1

    def fill(
        self, batch: dict[str, NDArray[Any]], slots: NDArray[np.int64], rows: NDArray[np.int64], epoch: Epoch
    ) -> None:
        """Write labels, affines and places of the samples of rows (n,) to slots (n,) of a batch; see `StoreDataset`.

        Raises:
            BadRecordError: If the affines of a row cannot be used, or its record was bad when it was read.
            cache.StoreFormatError: If its record was damaged.
        """
        if not len(rows):
            return
        problem = next((self._problems[row] for row in rows.tolist() if row in self._problems), None)
        if problem is not None:
            raise problem
        placement = self.placer.place(rows, epoch)
        self.fill_labels(batch, slots, placement)
        batch["place"][slots] = self.rows.searchsorted(rows)
        batch["input_to_frame"][slots] = placement.input_to_source
        if self._used_views:
            views = np.array(placement.stored_views, np.int64)
            batch["view"][slots] = views
            batch["mirrored"][slots] = self._stored_flips[views] != placement.flips[:, None]
            batch["heatmap_to_maps"][slots] = np.take_along_axis(
                placement.heatmap_to_maps, views[:, :, None, None], axis=1
            )

    def complete(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Make the samples of a batch from `fill` that was copied to the device; does not wait for the device."""
        with torch.no_grad():
            made = {name: batch[name] for name in ("keypoints", "labelled", "affine", "row")}
            made["image"] = self._warp(self._frames, batch["place"], batch["input_to_frame"], self.input_size)
            if self._used_views:
                order = self._order[batch["mirrored"]]  # (B, v, K)
                where = (batch["place"][:, None, None], batch["view"][..., None], order)
                maps = self._decode(self._codes[where], self._peaks[where], self.store.codec)
                made["heatmaps"] = self._mean(maps, batch["heatmap_to_maps"], self.heatmap_size)
        return made

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        batch = self.empty_batch(1)
        rows, epochs = self.locate(np.array([range(len(self))[index]]), self.epoch)
        self.fill(batch, np.zeros(1, np.int64), rows, epochs)
        on_device = {name: torch.from_numpy(array).to(self._device) for name, array in batch.items()}
        return {name: tensor[0] for name, tensor in self.complete(on_device).items()}


def decode_codes(codes: Tensor, peaks: Tensor, codec: cache.Codec) -> Tensor:
    """Heatmaps (..., H, W) float32 of the codes (..., H, W) and peaks (...) that live on a device."""
    if not isinstance(codec, RootCodec):
        return codes.float()
    return code_values(peaks, codec).gather(-1, codes.flatten(-2).long()).view(codes.shape)


def code_values(peaks: Tensor, codec: RootCodec) -> Tensor:
    """The value of every code of maps with peaks (...), (..., levels + 1) float32; see `RootCodec`."""
    floor = float(np.float32(codec.floor))
    low = math.sqrt(math.sqrt(floor))
    step = (peaks.double().sqrt().sqrt() - low) / (codec.levels - 1)  # NaN for a negative peak, which is replaced below
    codes = torch.arange(codec.levels + 1, device=peaks.device, dtype=torch.float64)
    square = (low + (codes - 1) * step[..., None]).square()
    values = square.square().float()
    values = torch.where(codes == 1, floor, torch.where(codes == codec.levels, peaks[..., None], values))
    return torch.where((codes > 0) & (peaks > floor)[..., None], values, 0.0)


def _dtype(codec: cache.Codec) -> np.dtype[Any]:
    """The dtype in which a codec's maps live on the device; other codecs than the two known here live decoded."""
    return codec.dtype if isinstance(codec, RootCodec | FloatCodec) else np.dtype(np.float32)


def _frame_size(dataset: StoreDataset) -> tuple[int, int]:
    """Width and height of the first frame that can be decoded.

    Raises:
        BadRecordError: If none of the first frames can be decoded.
        cache.StoreFormatError: If the first records are damaged.
    """
    problem: StoreFormatError | BadRecordError | None = None
    for row in dataset.rows[:_ROWS_AT_ONCE].tolist():
        try:
            height, width = frame_pixels(dataset.store, row, dataset.store.frame(row)).shape[:2]
        except (StoreFormatError, BadRecordError) as error:
            problem = problem or error
        else:
            return width, height
    raise problem or KdlibError(f"{dataset.store.path} holds no usable instance")
