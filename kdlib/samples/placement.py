"""Every affine that a sample needs, computed in one place.

A sample links these pixel grids: the original image; the source of its pixels, which is the stored frame or the
original image; the student's input; its heatmap, which is ``stride`` times coarser than the input; and the maps of each
stored view.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

import cache
from kdlib.errors import BadRecordError
from kdlib.geometry import (
    LARGEST_COEFFICIENT,
    box_to_region,
    clip_boxes,
    compose_affines,
    invert_affine,
    transform_points,
)
from kdlib.samples.views import Augmentation, AugmentedViews, Epoch, draw_choices, draw_views


@dataclasses.dataclass(frozen=True)
class Placement:
    """The affines of n samples (float64), their mirroring, and the stored views of their heatmaps."""

    rows: NDArray[np.int64]
    """(n,) rows of the store."""
    flips: NDArray[np.bool_]
    """(n,) True where the sample is mirrored."""
    image_to_input: NDArray[np.float64]
    """(n, 2, 3) image pixels to input pixels."""
    image_to_heatmap: NDArray[np.float64]
    """(n, 2, 3) image pixels to heatmap pixels."""
    input_to_source: NDArray[np.float64]
    """(n, 2, 3) input pixels to pixels of the frame, or of the image where images are read from a folder."""
    heatmap_to_maps: NDArray[np.float64]
    """(n, V, 2, 3) heatmap pixels to pixels of the maps of each stored view; V is 0 where no maps are read."""
    stored_views: list[list[int]]
    """The stored views that each sample's heatmaps are averaged from."""


class Placer:
    """Draws the augmented views of samples and computes their `Placement`.

    Args:
        store: An opened store.
        input_size: Width and height of the student's input in pixels.
        stride: Input pixels per heatmap pixel.
        augmentation: How far augmented views may differ from the plain crop.
        is_upper: (K,) True for joints of the upper body. If none is, no view shows half a body.
        views: ``average``, ``matching``, ``first``, ``replay`` or None, see `kdlib.samples.dataset.StoreDataset`.
        from_images: True if pixels are read from the original images, False if from the stored frames.
        seed: Seed of the augmentation.
    """

    def __init__(
        self,
        store: cache.Store,
        input_size: tuple[int, int],
        stride: int,
        augmentation: Augmentation,
        is_upper: NDArray[np.bool_],
        *,
        views: str | None,
        from_images: bool,
        seed: int,
    ) -> None:
        teacher = store.manifest["provenance"]["teacher"]
        if not is_upper.any():
            augmentation = dataclasses.replace(augmentation, half_body=0.0)
        self.input_size, self.stride, self.augmentation, self.seed = input_size, stride, augmentation, seed
        self._is_upper = is_upper.copy()  # writeable: the compiled code exists for such arrays
        self._store, self._views, self._from_images = store, views, from_images
        self._teacher_size = np.array(teacher["input_size"], np.float64)
        self._teacher_stride = teacher["input_size"][0] / teacher["heatmap_size"][0]
        self._stored_flips = store.view_flip.astype(bool)
        self._keypoints = store.instances["keypoints"]
        boxes = clip_boxes(store.instances["bbox"], store.instances["image_size"])
        self._centers, self._sizes = box_to_region(boxes, input_size)

    def place(self, rows: NDArray[np.int64], epoch: Epoch) -> Placement:
        """Compute the placement of the samples of some rows (n,) in an epoch, or each in an epoch of its own.

        Raises:
            BadRecordError: If an affine is unusable, see `check_affines`.
        """
        views = self.augmented_views(rows, epoch)
        input_to_image = invert_affine(views.image_to_input)
        image_to_frame = self._store.frame_affine[rows]
        input_to_source = input_to_image if self._from_images else compose_affines(image_to_frame, input_to_image)
        heatmap_to_maps = np.empty((len(rows), 0, 2, 3))
        stored_views: list[list[int]] = [[]] * len(rows)
        if self._views is not None:
            heatmap_to_image = input_to_image * [self.stride, self.stride, 1.0]
            heatmap_to_frame = compose_affines(image_to_frame, heatmap_to_image)
            heatmap_to_stored_input = compose_affines(self._store.view_affine[rows], heatmap_to_frame[:, None])
            heatmap_to_maps = heatmap_to_stored_input / self._teacher_stride
            stored_views = self._stored_views(views)
        check_affines(self._store, rows, np.concatenate([input_to_source[:, None], heatmap_to_maps], axis=1))
        return Placement(
            rows=rows,
            flips=views.flips,
            image_to_input=views.image_to_input,
            image_to_heatmap=views.image_to_input / self.stride,
            input_to_source=input_to_source,
            heatmap_to_maps=heatmap_to_maps,
            stored_views=stored_views,
        )

    def augmented_views(self, rows: NDArray[np.int64], epoch: Epoch) -> AugmentedViews:
        """Draw the augmented views of some rows (n,); each depends on (seed, epoch, row) alone."""
        if self._views == "replay":
            return self._replayed_views(rows, epoch)
        regions = self._centers[rows], self._sizes[rows]
        keypoints = self._keypoints[rows]
        return draw_views(
            self.seed, epoch, rows, self.augmentation, regions, keypoints, self._is_upper, self.input_size
        )

    def _replayed_views(self, rows: NDArray[np.int64], epoch: Epoch) -> AugmentedViews:
        """Draw a stored view of each row with equal probability, and augment the crop that it shows."""
        chosen = draw_choices(self.seed, epoch, rows, len(self._stored_flips))
        image_to_stored = compose_affines(self._store.view_affine[rows, chosen], self._store.frame_affine[rows])
        keypoints = self._keypoints[rows]
        keypoints[..., :2] = transform_points(keypoints[..., :2], image_to_stored)
        sizes = np.tile(self._teacher_size, (len(rows), 1))
        regions = sizes / 2, sizes
        drawn = draw_views(
            self.seed, epoch, rows, self.augmentation, regions, keypoints, self._is_upper, self.input_size
        )
        image_to_input = compose_affines(drawn.image_to_input, image_to_stored)
        return AugmentedViews(image_to_input, drawn.flips != self._stored_flips[chosen], chosen)

    def _stored_views(self, views: AugmentedViews) -> list[list[int]]:
        """The stored views that the heatmaps of each sample are averaged from."""
        if views.replayed is not None:
            return [[view] for view in views.replayed.tolist()]
        stored_flips = self._stored_flips.tolist()
        if self._views == "average":
            return [list(range(len(stored_flips)))] * len(views.flips)
        if self._views == "first":
            return [[0]] * len(views.flips)
        matching = {flip: stored_flips.index(flip) if flip in stored_flips else 0 for flip in (False, True)}
        return [[matching[flip]] for flip in views.flips.tolist()]


def check_affines(store: cache.Store, rows: NDArray[np.int64], affines: NDArray[np.float64]) -> None:
    """Check the affines (n, ..., 2, 3) of some rows (n,) before compiled code computes addresses from them.

    Raises:
        BadRecordError: If a number is NaN or larger than `kdlib.geometry.LARGEST_COEFFICIENT`.
    """
    wrong = ~(np.abs(affines) <= LARGEST_COEFFICIENT).reshape(len(rows), -1).all(axis=1)
    if wrong.any():
        row = int(rows[wrong.argmax()])
        box = ", ".join(f"{number:.6g}" for number in store.instances["bbox"][row])
        raise BadRecordError(
            f"row {row} of {store.path} (annotation {store.instances['annotation_id'][row]}): its box [{box}] and its "
            "stored affines point far outside any image; make the store again, with another box if this one is wrong"
        )
