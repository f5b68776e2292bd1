"""Augmented views of instances to train the sample's teacher: crops, joints in heatmap pixels and their weights.

The augmentation follows deep-high-resolution-net.pytorch (lib/dataset/JointsDataset.py: scale, rotation, mirror, half
body), but is weaker: the teacher is trained for a few epochs only, and is used on plain crops.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from kdlib.geometry import box_to_region, clip_boxes, region_affine, transform_points
from kdlib.inputs.annotations import Instances
from kdlib.resample.exact import crop_image, warp_image
from kdlib.skeletons.skeleton import COCO

Array = np.ndarray

STRIDE = 4
ROTATION, SCALE, HALF_BODY = 20.0, 0.2, 0.1
"""Standard deviations of rotation (degrees; 3 of 5 views are rotated) and relative size; share of half bodies."""


@dataclass(frozen=True)
class Views:
    """B augmented views.

    Attributes:
        crops: (B, H, W, 3) uint8 RGB.
        points: (B, 17, 2) float32, x and y in heatmap pixels.
        weights: (B, 17) float32, 1 for joints that are labelled and inside the crop, else 0.
    """

    crops: Array
    points: Array
    weights: Array


class InstanceViews:
    """Cuts plain crops and augmented views of instances out of images; reads an image when it is needed.

    Args:
        images: Folder of the images.
        instances: The annotated instances.
        input_size: Width and height of the crops.
    """

    def __init__(self, images: Path, instances: Instances, input_size: tuple[int, int]) -> None:
        self._images, self._instances, self._size = images, instances, input_size
        boxes = clip_boxes(instances.bbox, instances.image_size)
        self._centers, self._sizes = box_to_region(boxes, input_size)

    def __len__(self) -> int:
        return len(self._instances)

    def plain(self, rows: Array) -> tuple[Array, Array]:
        """Cut the official crops (B, H, W, 3) uint8 RGB; also returns the affines (B, 2, 3) image to crop pixels."""
        affines = [region_affine(self._centers[row], self._sizes[row], self._size) for row in rows]
        crops = [crop_image(self._image(row), a, self._size) for row, a in zip(rows, affines, strict=True)]
        return np.stack(crops), np.stack(affines)

    def random(self, rows: Array, rng: np.random.Generator) -> Views:
        """Draw one augmented view per row."""
        views = [self._random_view(int(row), rng) for row in rows]
        crops, points, weights = (np.stack(column) for column in zip(*views, strict=True))
        return Views(crops, points, weights)

    def _image(self, row: int) -> Array:
        path = self._images / self._instances.file_name[row]
        image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        if image is None:
            raise OSError(f"cannot read the image {path}")
        return image

    def _random_view(self, row: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
        keypoints = self._instances.keypoints[row]
        center, size = self._centers[row], self._sizes[row]
        if rng.random() < HALF_BODY:
            center, size = _half_body(rng, keypoints, center, size)
        rotation = np.clip(rng.normal(0, ROTATION), -2 * ROTATION, 2 * ROTATION) if rng.random() < 0.6 else 0.0
        size = size * np.clip(rng.normal(1, SCALE), 1 - SCALE, 1 + SCALE)
        flip = bool(rng.random() < 0.5)
        affine = region_affine(center, size, self._size, float(rotation), flip=flip)
        points = transform_points(keypoints[:, :2], affine)
        inside = ((points >= 0) & (points <= np.array(self._size) - 1)).all(1)
        weights = (keypoints[:, 2] > 0) & inside
        if flip:
            points, weights = points[COCO.flip_order], weights[COCO.flip_order]
        crop = warp_image(self._image(row), affine, self._size)
        return crop, (points / STRIDE).astype(np.float32), weights.astype(np.float32)


def _half_body(rng: np.random.Generator, keypoints: Array, center: Array, size: Array) -> tuple[Array, Array]:
    """Centre and size of a region around the upper or lower body; unchanged if too few joints are labelled."""
    labelled = keypoints[:, 2] > 0
    half = labelled & (COCO.is_upper if rng.random() < 0.5 else ~COCO.is_upper)
    if labelled.sum() <= 8 or half.sum() < 4:
        return center, size
    points = keypoints[half, :2]
    low, high = points.min(0), points.max(0)
    grow = 1.5 * ((high - low) / size).max()
    return (low + high) / 2, size * np.clip(grow, 0.35, 1.0)


def shuffled_batches(views: InstanceViews, batch: int, count: int, rng: np.random.Generator) -> Iterator[Views]:
    """Yield `count` batches of augmented views over repeated epochs; the next batch is made in the background."""
    with ThreadPoolExecutor(1) as reader:
        rows = _shuffled_rows(len(views), batch, rng)
        ahead = reader.submit(lambda: views.random(next(rows), rng))
        for _ in range(count - 1):
            ready = ahead.result()
            ahead = reader.submit(lambda: views.random(next(rows), rng))
            yield ready
        yield ahead.result()


def _shuffled_rows(length: int, batch: int, rng: np.random.Generator) -> Iterator[Array]:
    """Yield batches of row numbers. Each epoch is a new permutation; a batch may span two epochs."""
    rest = np.empty(0, np.int64)
    while True:
        while len(rest) < batch:
            rest = np.concatenate([rest, rng.permutation(length)])
        yield rest[:batch]
        rest = rest[batch:]
