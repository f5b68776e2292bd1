"""Stores as a plain torch dataset for any training loop: image, label target, teacher's logits and weights.

It works with torch's ``DataLoader``, with forked and spawned workers and with the default collation.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import cache
from kdcli.flags import weighted
from kdlib.errors import KdlibError
from kdlib.geometry import STRIDE
from kdlib.losses import TRANSFORMS, default_sigma
from kdlib.samples.collation import split_batch
from kdlib.samples.loader import SAMPLES_PER_STEP
from kdlib.samples.mixture import Part, training_set
from kdlib.samples.targets import fill_gaussians, fill_logits, fill_normalised
from kdlib.samples.views import Augmentation, Epoch, epoch_of

Source = str | Path | cache.Store | Part
"""A store of a dataset: its place, with or without a weight, or an opened store."""
_EPOCHS = 2**31
"""Each sample's view is drawn for a random epoch below this."""


class DistillationDataset(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Samples of one or several stores: image, label target and teacher's logits in the same augmented view.

    Each sample is a dict of tensors:

    * ``image`` (3, H, W) float32, RGB, normalised with ImageNet's mean and standard deviation; or, with
      ``normalise=False``, (H, W, 3) uint8, RGB, 0 to 255;
    * ``target`` (K, H / stride, W / stride) float32, a Gaussian of height 1 around each label;
    * ``weight`` (K,) float32, 1 where a joint is labelled and inside the heatmap, else 0;
    * ``logits`` (K, H / stride, W / stride) float32, the teacher's logits, -inf where its probability is 0;
      `kdlib.losses.spatial_kl` accepts them unchanged;
    * ``confidence`` (K,) float32 in 0..1, the maximum of the teacher's heatmap;
    * ``index`` int64, the sample's index in the dataset.

    Heatmap pixel u lies at input pixel stride * u.

    With an augmentation, every access draws a new view from torch's random generator, so `torch.manual_seed` and the
    worker seeds of ``DataLoader`` make runs repeatable.

    ``DataLoader`` asks for whole batches (`__getitems__`), which takes half of the time of single samples. A batch has
    exactly the samples that single accesses in the same order give from the same state of the random generator.

    Several stores are mixed as in `kdlib.samples.mixture.MixedDataset`: they must have the same joints and heatmap
    size, and a person that is in several of them is used once. Each person of a store with weight w has w samples. If w
    is not a whole number, a sample shows one of several persons, drawn at each access, and each has w on average.

    Args:
        store: A path, a URL, or an opened store (`cache.open_store`); or a list of these. A weight is written
            ``PATH:WEIGHT``; for an opened store, give a `Part`.
        input_size: Width and height of the image in pixels; None takes the teacher's.
        augmentation: How augmented views are drawn; None gives the plain crop.
        stride: Input pixels per heatmap pixel: 2, 4 or 8.
        logits: How logits are made from heatmaps: ``log`` (their logarithm) or ``raw`` (unchanged).
        images: Folder of the original images, for stores without frames. One store is read from it even if it holds
            frames.
        normalise: False leaves images as (H, W, 3) uint8: a quarter of the bytes to copy, and
            `kdlib.images.normalise_images` makes the student's input of a batch (B, H, W, 3) on any device.

    Raises:
        cache.StoreError: If the store cannot be opened.
        KdlibError: If ``stride`` or ``logits`` has another value; if a store does not hold the joints that its manifest
            states, no record of it was written, or it holds no frames and ``images`` is None; or if the stores cannot
            be mixed.
    """

    def __init__(
        self,
        store: Source | Sequence[Source],
        input_size: tuple[int, int] | None = None,
        augmentation: Augmentation | None = None,
        *,
        stride: int = STRIDE,
        logits: str = "log",
        images: str | Path | None = None,
        normalise: bool = True,
    ) -> None:
        if logits not in TRANSFORMS:
            raise KdlibError(f"logits are made with one of {', '.join(TRANSFORMS)}, got {logits!r}")
        sources = [store] if isinstance(store, str | Path | cache.Store | Part) else store
        folder = None if images is None else Path(images)
        parts = _parts(sources, folder)
        self.samples = training_set(parts, input_size, augmentation, stride=stride)
        self._transform, self._normalise, self._floor = logits, normalise, self.samples.floor
        self._sigma = default_sigma(self.samples.heatmap_size[1])

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self._read([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        """The samples of some indices, in their order. They share the memory of one batch; to keep one, copy it.

        Raises:
            IndexError: If an index is out of range.
            BadRecordError: If the frame, image or affines of a sample cannot be used.
            cache.StoreFormatError: If a record is damaged.
        """
        if type(self).__getitem__ is not DistillationDataset.__getitem__:  # a subclass changes single samples
            return [self[index] for index in indices]
        return self._read(indices)

    def _read(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        chosen = np.array([int(index) for index in indices], np.int64)
        rows, epochs = self.samples.locate(chosen, torch.randint(_EPOCHS, (len(chosen),)).numpy())
        batch = self._empty_batch(len(rows))
        for start in range(0, len(rows), SAMPLES_PER_STEP):
            part = slice(start, start + SAMPLES_PER_STEP)
            self._fill({name: array[part] for name, array in batch.items()}, rows[part], epoch_of(epochs, part))
        batch["index"] = chosen
        return split_batch({name: torch.from_numpy(array) for name, array in batch.items()})

    def _empty_batch(self, size: int) -> dict[str, NDArray[Any]]:
        """Uninitialised arrays for all entries of ``size`` samples but ``index``."""
        (width, height), (columns, rows) = self.samples.input_size, self.samples.heatmap_size
        joints = len(self.samples.skeleton)
        maps = (size, joints, rows, columns)
        image = ((3, height, width), np.float32) if self._normalise else ((height, width, 3), np.uint8)
        return {
            "image": np.empty((size, *image[0]), image[1]),
            "target": np.empty(maps, np.float32),
            "weight": np.empty((size, joints), np.float32),
            "logits": np.empty(maps, np.float32),
            "confidence": np.empty((size, joints), np.float32),
        }

    def _fill(self, batch: dict[str, NDArray[Any]], rows: NDArray[np.int64], epochs: Epoch) -> None:
        """Fill a batch with the samples of some rows of the store (n,), each in an epoch of its own."""
        read = self.samples.empty_batch(len(rows))
        if not self._normalise:
            read["image"] = batch["image"]
        self.samples.fill(read, np.arange(len(rows)), rows, epochs)
        if self._normalise:
            fill_normalised(read["image"], batch["image"])
        fill_gaussians(read["keypoints"], self._sigma, batch["target"])
        batch["weight"][...] = read["labelled"]
        fill_logits(read["heatmaps"], self._transform, self._floor, batch["logits"], batch["confidence"])
        batch["confidence"].clip(0, 1, out=batch["confidence"])


def _parts(sources: Sequence[Source], images: Path | None) -> list[Part]:
    """Open the stores; an image folder is for those without frames, or for a single store."""
    opened = [_open(source) for source in sources]
    return [
        part if part.images or (part.store.has_frames and len(opened) > 1) else dataclasses.replace(part, images=images)
        for part in opened
    ]


def _open(source: Source) -> Part:
    if isinstance(source, Part):
        return source
    if isinstance(source, cache.Store):
        return Part(source)
    if isinstance(source, Path):
        return Part(cache.open_store(source))
    try:
        place, weight = weighted(source)
    except argparse.ArgumentTypeError as error:
        raise KdlibError(str(error)) from error
    return Part(cache.open_store(place), weight)
