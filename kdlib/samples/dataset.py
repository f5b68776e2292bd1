"""One training sample from a store: picture, keypoints and the teacher's heatmaps under one affine.

`StoreDataset` is a plain ``torch.utils.data.Dataset``, so that anybody's loop can train from a store; our own loop
fills whole batches through `StoreDataset.fill`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from kdlib.errors import KdlibError
from kdlib.geometry import (
    STRIDE,
    box_to_region,
    check_stride,
    clip_boxes,
    compose_affines,
    invert_affine,
    transform_points,
)
from kdlib.resample.pictures import warp_packed
from kdlib.samples.pixels import frame_pixels, image_pixels
from kdlib.samples.teacher_maps import TeacherMaps, check_inverses
from kdlib.samples.views import NONE, Augmentation, Views, draw_choices, draw_views
from kdlib.skeleton import FLIP_ORDER, JOINTS


class StoreDataset(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Samples of a store.

    Each is a dict of tensors: ``image`` (H, W, 3) uint8 RGB; ``keypoints`` (K, 2) float32 in heatmap pixels;
    ``labelled`` (K,) float32, 1 where a joint is labelled and inside the map; ``heatmaps`` (K, H / stride, W / stride)
    float32, the teacher's raw maps in this very view (absent with ``views=None``); ``affine`` (2, 3) float64, image
    pixels to input pixels; ``row``, the instance's row in the store. Heatmap pixel u lies at input pixel stride * u.

    Args:
        store: An opened store (`cache.open_store`).
        input_size: Width and height of the student's input; the teacher's where None.
        augmentation: Random views; the plain crop where None.
        stride: Input pixels a heatmap pixel: 2, 4 or 8.
        views: Stored views the teacher's maps are made of: ``average``, ``matching``, ``first``; None leaves them out.
            ``replay`` shows one stored view, drawn anew in every epoch, as the teacher saw it; the augmentation then
            starts from it.
        images: Folder of the original images, for a store without frames.
        seed: Of the augmentation; a sample depends on (seed, epoch, row) alone.

    Raises:
        KdlibError: If the stride is another, or the store has other joints than COCO's, or neither frames nor an image
            folder to go with it.
    """

    def __init__(
        self,
        store: Any,
        input_size: tuple[int, int] | None = None,
        augmentation: Augmentation | None = None,
        *,
        stride: int = STRIDE,
        views: str | None = "average",
        images: Path | None = None,
        seed: int = 0,
    ) -> None:
        check_stride(stride)
        teacher = store.manifest["provenance"]["teacher"]
        self.store, self.images, self.views, self.seed, self.epoch = store, images, views, seed, 0
        self.augmentation = augmentation or NONE
        self.teacher_size: tuple[int, int] = tuple(teacher["input_size"])
        self.input_size = input_size or self.teacher_size
        self.stride = stride
        self.heatmap_size = (self.input_size[0] // stride, self.input_size[1] // stride)
        if store.spec.joints != len(JOINTS):
            raise KdlibError(
                f"{store.path} holds {store.spec.joints} joints a person; students learn COCO's {len(JOINTS)}"
            )
        if images is None and not store.has_frames:
            raise KdlibError(f"{store.path} holds no frames; name the folder of its images with --images DIR")
        self.flips = store.view_flip.astype(bool)
        self.maps = None if views is None else TeacherMaps(store, views, stride)
        columns = store.instances
        self.rows = np.flatnonzero(store.written)
        if not len(self.rows):
            raise KdlibError(f"{store.path} holds no usable person: none of its {len(store)} records was written")
        self.keypoints = columns["keypoints"]
        boxes = clip_boxes(columns["bbox"], columns["image_size"])
        self.centers, self.sizes = box_to_region(boxes, self.input_size)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        batch = self.empty_batch(1)
        self.fill(batch, np.zeros(1, np.int64), self.rows[[index]], self.epoch)
        return {name: tensor[0] for name, tensor in as_tensors(batch).items()}

    def empty_batch(self, size: int) -> dict[str, NDArray[Any]]:
        """Arrays for a batch of that many samples, to be filled slot by slot; maps have their joints last."""
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
        self, batch: dict[str, NDArray[Any]], slots: NDArray[np.int64], rows: NDArray[np.int64], epoch: int
    ) -> None:
        """Put the samples of some rows, as this epoch sees them, into slots of a batch. Safe in threads.

        Every step is taken for all of them before the next: the processor then finds its code where it left it. There
        may be none.
        """
        if not len(rows):
            return
        views = self._views(rows, epoch)
        to_image = invert_affine(views.affines)
        self._fill_images(batch["image"], slots, rows, to_image)
        batch["affine"][slots], batch["row"][slots] = views.affines, rows
        seen, targets = (views.flips, views.affines / self.stride), (batch["keypoints"], batch["labelled"])
        _fill_targets(self.keypoints[rows], FLIP_ORDER, *seen, self.heatmap_size, slots, *targets)
        if self.maps is not None:
            self.maps.fill(batch["heatmaps"], slots, rows, views, to_image)

    def _views(self, rows: NDArray[np.int64], epoch: int) -> Views:
        if self.views == "replay":
            return self._replayed(rows, epoch)
        regions, keypoints = (self.centers[rows], self.sizes[rows]), self.keypoints[rows]
        return draw_views(self.seed, epoch, rows, self.augmentation, regions, keypoints, self.input_size)

    def _replayed(self, rows: NDArray[np.int64], epoch: int) -> Views:
        """A stored view of each, drawn with equal chances, and the augmentation on top of it."""
        stored = draw_choices(self.seed, epoch, rows, len(self.flips))
        seen = compose_affines(self.store.view_affine[rows, stored], self.store.frame_affine[rows])
        keypoints = self.keypoints[rows]
        keypoints[..., :2] = transform_points(keypoints[..., :2], seen)
        size = np.tile(np.array(self.teacher_size, np.float64), (len(rows), 1))
        drawn = draw_views(self.seed, epoch, rows, self.augmentation, (size / 2, size), keypoints, self.input_size)
        return Views(compose_affines(drawn.affines, seen), drawn.flips != self.flips[stored], stored)

    def _fill_images(
        self,
        images: NDArray[np.uint8],
        slots: NDArray[np.int64],
        rows: NDArray[np.int64],
        to_image: NDArray[np.float64],
    ) -> None:
        inverses = to_image if self.images is not None else compose_affines(self.store.frame_affine[rows], to_image)
        check_inverses(self.store, rows, inverses)
        for pixels, inverse, slot in zip(self._pixels(rows.tolist()), inverses, slots.tolist(), strict=True):
            warp_packed(pixels, inverse, images[slot])

    def _pixels(self, rows: list[int]) -> Iterator[NDArray[np.uint8]]:
        """Pixels (H, W, 4) that show each person: the stored frame's, or those of the original image."""
        if self.images is not None:
            return (image_pixels(self.store, row, self.images) for row in rows)
        frames = [self.store.frame(row) for row in rows]
        return (frame_pixels(self.store, row, frame) for row, frame in zip(rows, frames, strict=True))


@numba.njit(nogil=True, cache=True)
def _fill_targets(keypoints, mirrored, flips, affines, size, slots, points, labelled):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Fill slots of points (B, K, 2) and labelled (B, K) with keypoints (n, K, 3) in heatmap pixels, and who is inside.

    affines (n, 2, 3) lead from image to heatmap pixels. Where flips, the joints of a sample are its keypoints in the
    order mirrored.
    """
    for i in range(len(slots)):
        affine, slot = affines[i], slots[i]
        for k in range(len(mirrored)):
            x, y, visibility = keypoints[i, mirrored[k] if flips[i] else k]
            u = affine[0, 0] * x + affine[0, 1] * y + affine[0, 2]
            v = affine[1, 0] * x + affine[1, 1] * y + affine[1, 2]
            inside = -0.5 < u < size[0] - 0.5 and -0.5 < v < size[1] - 0.5
            points[slot, k, 0], points[slot, k, 1], labelled[slot, k] = u, v, visibility > 0 and inside


def as_tensors(batch: dict[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    """A filled batch as tensors that share its memory; maps get their joints in front, (B, K, H, W)."""
    tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
    if "heatmaps" in tensors:
        tensors["heatmaps"] = tensors["heatmaps"].permute(0, 3, 1, 2)
    return tensors
