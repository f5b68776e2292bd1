"""A few persons as TensorBoard shows them each epoch: labels, teacher and student, as skeletons and as heatmaps.

    pictures = Pictures(val_store, input_size, images)
    writer.add_image("val/people", pictures.draw(model, supervision), step, dataformats="HWC")

The persons are the same in every epoch, evenly spaced over the store, and the teacher's row is drawn from its stored
maps in the student's own view.
"""

from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from kdlib.heatmaps import DECODERS, decode_argmax
from kdlib.images import normalise_images
from kdlib.skeleton import LIMBS
from train.dataset import StoreDataset, as_tensors
from train.decoding import DECODER
from train.fewest_labels import FEWEST_LABELS
from train.report.overlays import COLOURS, SIDES, heat_pixels, limb_side
from train.stride import STRIDE
from train.students import Student
from train.supervision import Supervision

PERSONS: Final = 6
TILE_HEIGHT: Final = 224
"""Pixels of a person's picture."""
GAP: Final = 4
MARGIN: Final = 84
"""Pixels to the left, for the rows' names."""
ROWS: Final = ("labels", "teacher", "student", "teacher", "student")
SHADE: Final = 0.35
"""What is left of a picture's light under heatmaps."""


class Pictures:
    """The same few persons of a validation store, ready to be drawn again each epoch.

    Args:
        store: Validation store.
        input_size: Width and height of the student's input.
        images: Folder of the original images, for a store without frames.
        count: How many persons; fewer where there are not as many with enough labels.
        stride: Input pixels a pixel of the student's maps.
    """

    def __init__(
        self,
        store: Any,
        input_size: tuple[int, int],
        images: Path | None = None,
        count: int = PERSONS,
        stride: int = STRIDE,
    ) -> None:
        dataset = StoreDataset(store, input_size, stride=stride, views="average", images=images)
        rows = _spaced(store.instances["keypoints"], dataset.rows, count)
        batch = dataset.empty_batch(len(rows))
        dataset.fill(batch, np.arange(len(rows)), rows, epoch=0)
        tensors = as_tensors(batch)
        self._images = tensors["image"]
        self._labels = tensors["keypoints"].numpy(), tensors["labelled"].numpy() > 0
        self._teacher = tensors["heatmaps"].numpy()
        self._scale, self._stride = TILE_HEIGHT / input_size[1], stride
        self._tiles = [self._enlarged(image) for image in self._images.numpy()]

    @torch.inference_mode()
    def draw(self, model: Student, supervision: Supervision) -> NDArray[np.uint8]:
        """One picture (H, W, 3) uint8 RGB: a column a person, rows as `ROWS`; leaves the model in evaluation mode.

        Args:
            model: The student, on any device.
            supervision: Tells what its maps mean.
        """
        device = next(model.parameters()).device
        said = model.eval()(normalise_images(self._images.to(device)))
        student = supervision.heatmaps(said).cpu().numpy()
        everything = np.ones(self._teacher.shape[:2], bool)
        rows = [
            self._skeletons(*self._labels),
            self._skeletons(decode_argmax(self._teacher)[0], everything),
            self._skeletons(DECODERS[DECODER](student)[0], everything),
            self._heat(self._teacher),
            self._heat(student),
        ]
        return np.concatenate([_named(name, tiles) for name, tiles in zip(ROWS, rows, strict=True)])

    def _enlarged(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        size = (round(image.shape[1] * self._scale), TILE_HEIGHT)
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8)

    def _skeletons(self, points: NDArray[np.float32], drawn: NDArray[np.bool_]) -> list[NDArray[np.uint8]]:
        """Points (B, K, 2) in heatmap pixels over the pictures; joints and limbs where ``drawn`` (B, K)."""
        at = (points * self._stride + 0.5) * self._scale - 0.5
        return [_skeleton(tile.copy(), *one) for tile, *one in zip(self._tiles, at, drawn, strict=True)]

    def _heat(self, heatmaps: NDArray[np.float32]) -> list[NDArray[np.uint8]]:
        """Maps (B, K, H, W) over the darkened pictures."""
        pairs = zip(self._tiles, heatmaps, strict=True)
        return [_under_heat(tile, maps, self._scale, self._stride) for tile, maps in pairs]


def _spaced(keypoints: NDArray[np.floating], rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Rows evenly spaced over those with enough labels; over all where there are none."""
    labelled = (keypoints[rows][..., 2] > 0).sum(axis=1) >= FEWEST_LABELS
    eligible = rows[labelled] if labelled.any() else rows
    return eligible[np.unique(np.linspace(0, len(eligible) - 1, count).round().astype(np.int64))]


def _skeleton(tile: NDArray[np.uint8], points: NDArray[np.floating], drawn: NDArray[np.bool_]) -> NDArray[np.uint8]:
    ends = np.round(np.clip(points, -1e4, 1e4) * 16).astype(int).tolist()  # OpenCV takes sixteenths of a pixel
    for a, b in LIMBS:
        if drawn[a] and drawn[b]:
            cv2.line(tile, ends[a], ends[b], COLOURS[limb_side(a, b)], 2, cv2.LINE_AA, 4)
    for k in np.flatnonzero(drawn):
        cv2.circle(tile, ends[k], 3 * 16, COLOURS[SIDES[k]], -1, cv2.LINE_AA, 4)
    return tile


def _under_heat(tile: NDArray[np.uint8], heatmaps: NDArray[np.float32], scale: float, stride: int) -> NDArray[np.uint8]:
    """Heatmap pixel u lies at input pixel stride * u, which a plain resize would move by (stride - 1) / 2 pixels."""
    factor = stride * scale
    affine = np.array([[factor, 0, 0.5 * scale - 0.5], [0, factor, 0.5 * scale - 0.5]])
    layer = cv2.warpAffine(heat_pixels(heatmaps), affine, tile.shape[1::-1], flags=cv2.INTER_LINEAR).astype(np.float32)
    opacity = layer[..., 3:] / 255
    mixed = SHADE * tile * (1 - opacity) + layer[..., :3] * opacity
    return np.asarray(mixed.round().clip(0, 255), np.uint8)


def _named(name: str, tiles: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Tiles side by side, the row's name before them."""
    head = np.zeros((TILE_HEIGHT, MARGIN, 3), np.uint8)
    cv2.putText(head, name, (6, TILE_HEIGHT // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (230, 230, 225), 1, cv2.LINE_AA)
    row = np.concatenate([head, *(np.pad(tile, ((0, 0), (0, GAP), (0, 0))) for tile in tiles)], axis=1)
    return np.pad(row, ((0, GAP), (0, 0), (0, 0)))
