"""Training samples from a store: image, keypoints and the teacher's heatmaps under one affine.

`StoreDataset` is a plain ``torch.utils.data.Dataset``. The training loop of `train` fills whole batches at once with
`StoreDataset.fill`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

import cache
from kdlib.errors import KdlibError
from kdlib.geometry import STRIDE, check_stride
from kdlib.resample.packed import warp_packed
from kdlib.samples.pixels import frame_pixels, image_pixels
from kdlib.samples.placement import Placement, Placer
from kdlib.samples.teacher_maps import TeacherMaps
from kdlib.samples.views import NO_AUGMENTATION, Augmentation, Epoch
from kdlib.skeletons.reading import skeleton_of
from kdlib.skeletons.skeleton import Skeleton


class StoreDataset(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Samples of a store.

    Each sample is a dict of tensors:

    * ``image`` (H, W, 3) uint8 RGB, the student's input;
    * ``keypoints`` (K, 2) float32 in heatmap pixels; heatmap pixel u lies at input pixel stride * u;
    * ``labelled`` (K,) float32, 1 where a joint is labelled and inside the heatmap, else 0;
    * ``heatmaps`` (K, H / stride, W / stride) float32, the teacher's heatmaps (absent with ``views=None``);
    * ``affine`` (2, 3) float64, image pixels to input pixels;
    * ``row`` int64, the instance's row in the store.

    A sample depends on (seed, epoch, row) alone; ``epoch`` is an attribute, initially 0.

    Args:
        store: An opened store (`cache.open_store`).
        input_size: Width and height of the student's input in pixels; None takes the teacher's.
        augmentation: How augmented views are drawn; None gives the plain crop.
        stride: Input pixels per heatmap pixel: 2, 4 or 8.
        views: Which stored views the heatmaps are made from: ``average`` (the mean of all), ``matching`` (the first
            one that is mirrored like the sample), ``first``, or ``replay``. ``replay`` draws one stored view of each
            sample in every epoch and shows that view, changed by the augmentation. None leaves the heatmaps out.
        images: Folder of the original images, for a store without frames.
        seed: Seed of the augmentation.
        labelled_only: Whether to leave out instances without a labelled joint. The dataset keeps its number of samples:
            the other instances occur several times, each time in another augmented view.

    Raises:
        KdlibError: If the stride is not 2, 4 or 8, the store does not hold the joints that its manifest states, no
            record of it was written, it holds no frames and ``images`` is None, or ``labelled_only`` is set and no
            written record has a labelled joint.
    """

    def __init__(
        self,
        store: cache.Store,
        input_size: tuple[int, int] | None = None,
        augmentation: Augmentation | None = None,
        *,
        stride: int = STRIDE,
        views: str | None = "average",
        images: Path | None = None,
        seed: int = 0,
        labelled_only: bool = False,
    ) -> None:
        check_stride(stride)
        _check_store(store, images)
        self.skeleton = store_skeleton(store)
        self._flip_order = self.skeleton.flip_order.copy()  # writeable: the compiled code exists for such arrays
        width, height = input_size or store.manifest["provenance"]["teacher"]["input_size"]
        self.input_size, self.heatmap_size = (width, height), (width // stride, height // stride)
        self.store, self.stride, self.views, self.images = store, stride, views, images
        self.augmentation, self.seed, self.epoch = augmentation or NO_AUGMENTATION, seed, 0
        self.keypoints = store.instances["keypoints"]
        self.rows = np.flatnonzero(store.written)
        self.instances = len(self.rows)
        if labelled_only:
            self.keep_labelled()
            if not len(self.rows):
                raise KdlibError(f"{store.path} holds no labelled instance: no written record has a labelled joint")
        self.placer = Placer(
            store,
            self.input_size,
            stride,
            self.augmentation,
            self.skeleton.is_upper,
            views=views,
            from_images=images is not None,
            seed=seed,
        )
        self.maps = TeacherMaps(store, self.skeleton)

    def __len__(self) -> int:
        return self.instances

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        batch = self.empty_batch(1)
        rows, epochs = self.locate(np.array([range(len(self))[index]]), self.epoch)
        self.fill(batch, np.zeros(1, np.int64), rows, epochs)
        return {name: tensor[0] for name, tensor in as_tensors(batch).items()}

    @property
    def floor(self) -> float:
        """The heatmap value below which the ``log`` transform removes a pixel."""
        return float(self.store.manifest["provenance"]["logits"]["floor"])

    def keep(self, chosen: NDArray[np.bool_]) -> None:
        """Keep some of the rows, (n,) bool, and leave the others out of the dataset."""
        self.rows = self.rows[chosen]
        self.instances = len(self.rows)

    def keep_labelled(self) -> None:
        """Use only rows with a labelled joint, for as many samples as before; none may be left."""
        self.rows = self.rows[self._is_labelled()]

    @property
    def labelled(self) -> int:
        """Number of used instances with a labelled joint."""
        return int(self._is_labelled().sum())

    def _is_labelled(self) -> NDArray[np.bool_]:
        return np.asarray((self.keypoints[self.rows, :, 2] > 0).any(axis=1))

    def locate(self, indices: NDArray[np.int64], epoch: Epoch) -> tuple[NDArray[np.int64], Epoch]:
        """Find the rows (n,) of samples (n,) and the epochs that their augmented views are drawn for.

        With ``labelled_only``, the samples of successive epochs pass over the rows again and again; each pass draws
        other views.

        Args:
            indices: Indices in the dataset.
            epoch: Epoch of the samples; one number, or one for each, (n,).

        Raises:
            IndexError: If an index is out of range.
        """
        if self.instances == len(self.rows):
            return self.rows[indices], epoch
        passes, places = np.divmod(epoch * len(self) + indices % len(self), len(self.rows))
        return self.rows[places], passes

    def shards(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of the shard (n,) that holds each row (n,)."""
        return self.store.shard_of(rows)

    def annotation_ids(self, rows: NDArray[np.int64]) -> str:
        """The annotation ids of some rows (n,), in their order, for a message."""
        return ", ".join(map(str, self.store.instances["annotation_id"][rows]))

    def empty_batch(self, size: int) -> dict[str, NDArray[Any]]:
        """Uninitialised arrays for a batch of ``size`` samples.

        They have the names, dtypes and shapes of a sample's tensors with a batch axis in front, but ``heatmaps`` is
        (B, H / stride, W / stride, K).
        """
        (width, height), (columns, rows), joints = self.input_size, self.heatmap_size, self.keypoints.shape[1]
        batch: dict[str, NDArray[Any]] = {
            "image": np.empty((size, height, width, 3), np.uint8),
            "keypoints": np.empty((size, joints, 2), np.float32),
            "labelled": np.empty((size, joints), np.float32),
            "affine": np.empty((size, 2, 3), np.float64),
            "row": np.empty(size, np.int64),
        }
        if self.views is not None:
            batch["heatmaps"] = np.empty((size, rows, columns, joints), np.float32)
        return batch

    def fill(
        self, batch: dict[str, NDArray[Any]], slots: NDArray[np.int64], rows: NDArray[np.int64], epoch: Epoch
    ) -> None:
        """Write the samples of rows (n,) of the store in one epoch to slots (n,) of a batch.

        Several threads may fill different slots of the same batch. Each step is done for all samples before the next
        one begins, so that the processor keeps the step's code and data in its caches. Both arrays may be empty.

        Args:
            batch: Arrays from `empty_batch`.
            slots: Positions in the batch.
            rows: The row for each slot.
            epoch: Epoch that the augmented views are drawn for; one number, or one for each row, (n,).

        Raises:
            BadRecordError: If the frame, image or affines of a row cannot be used.
            cache.StoreFormatError: If a record is damaged.
        """
        if len(rows):
            placement = self.placer.place(rows, epoch)
            self.fill_images(batch, slots, placement)
            self.fill_labels(batch, slots, placement)
            self.fill_maps(batch, slots, placement)

    def fill_images(self, batch: dict[str, NDArray[Any]], slots: NDArray[np.int64], placement: Placement) -> None:
        """The part of `fill` that writes ``image``."""
        images, sources = batch["image"], self._sources(placement.rows.tolist())
        for source, affine, slot in zip(sources, placement.input_to_source, slots.tolist(), strict=True):
            warp_packed(source, affine, images[slot])

    def fill_labels(self, batch: dict[str, NDArray[Any]], slots: NDArray[np.int64], placement: Placement) -> None:
        """The part of `fill` that writes ``affine``, ``row``, ``keypoints`` and ``labelled``."""
        batch["affine"][slots], batch["row"][slots] = placement.image_to_input, placement.rows
        _fill_labels(
            self.keypoints[placement.rows],
            self._flip_order,
            placement.flips,
            placement.image_to_heatmap,
            self.heatmap_size,
            slots,
            batch["keypoints"],
            batch["labelled"],
        )

    def fill_maps(self, batch: dict[str, NDArray[Any]], slots: NDArray[np.int64], placement: Placement) -> None:
        """The part of `fill` that writes ``heatmaps``, unless ``views`` is None."""
        if self.views is not None:
            self.maps.fill(batch["heatmaps"], slots, placement)

    def _sources(self, rows: list[int]) -> Iterator[NDArray[np.uint8]]:
        """Pixels (H, W, 4) of the frame, or of the original image, of each row."""
        if self.images is not None:
            return (image_pixels(self.store, row, self.images) for row in rows)
        frames = [self.store.frame(row) for row in rows]
        return (frame_pixels(self.store, row, frame) for row, frame in zip(rows, frames, strict=True))


def store_skeleton(store: cache.Store) -> Skeleton:
    """The skeleton of a store's heatmaps and keypoints.

    Raises:
        SkeletonError: If the manifest's skeleton is damaged or does not have the store's number of joints.
    """
    return skeleton_of(store.manifest["provenance"], store.spec.joints, str(store.path))


def _check_store(store: cache.Store, images: Path | None) -> None:
    if images is None and not store.has_frames:
        raise KdlibError(f"{store.path} holds no frames; give the folder of its images, images=... (--images DIR)")
    if not store.written.any():
        raise KdlibError(f"{store.path} holds no usable instance: none of its {len(store)} records was written")


@numba.njit(nogil=True, cache=True)
def _fill_labels(
    keypoints: NDArray[np.float32],
    flip_order: NDArray[np.int64],
    flips: NDArray[np.bool_],
    affines: NDArray[np.float64],
    size: tuple[int, int],
    slots: NDArray[np.int64],
    points: NDArray[np.float32],
    labelled: NDArray[np.float32],
) -> None:
    """Write keypoints (n, K, 3) as points (B, K, 2) in heatmap pixels and labelled (B, K) to slots (n,).

    affines (n, 2, 3) take image pixels to heatmap pixels. flip_order (K,) is the joint order of a mirrored sample.
    """
    for i in range(len(slots)):
        affine, slot = affines[i], slots[i]
        for k in range(len(flip_order)):
            x, y, visibility = keypoints[i, flip_order[k] if flips[i] else k]
            u = affine[0, 0] * x + affine[0, 1] * y + affine[0, 2]
            v = affine[1, 0] * x + affine[1, 1] * y + affine[1, 2]
            inside = -0.5 < u < size[0] - 0.5 and -0.5 < v < size[1] - 0.5
            points[slot, k, 0], points[slot, k, 1], labelled[slot, k] = u, v, visibility > 0 and inside


def as_tensors(batch: Mapping[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    """A filled batch as tensors that share its memory; ``heatmaps`` becomes (B, K, H / stride, W / stride)."""
    return with_maps_as_planes({name: torch.from_numpy(array) for name, array in batch.items()})


def with_maps_as_planes(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A batch whose ``heatmaps`` (B, H, W, K) are seen as (B, K, H, W), in the same memory."""
    planes = {"heatmaps": tensors["heatmaps"].permute(0, 3, 1, 2)} if "heatmaps" in tensors else {}
    return {**tensors, **planes}
