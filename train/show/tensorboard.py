"""TensorBoard's view of a run; it must not outlive the checkpoints, nor a full disk bring a traceback.

Without TensorBoard a run says so once and writes no events: the same numbers are in its history.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from kdcli.progress import say
from kdlib.geometry import STRIDE
from kdlib.heatmaps import DECODERS, decode_argmax
from kdlib.readout import DECODER
from kdlib.samples.dataset import StoreDataset, as_tensors
from kdlib.skeleton import FEWEST_LABELS, LIMBS
from kdlib.students.loading import TorchStudent
from train.errors import not_written
from train.show.drawing import COLOURS, SIDES, heat_pixels, limb_side

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Board:
    """Scalars and pictures of one run.

    Args:
        out: Run folder; None keeps nothing.
        step: Steps done: what an earlier process wrote beyond them is hidden.
    """

    def __init__(self, out: Path | None, step: int) -> None:
        self._out, self._step = out, step
        self._opened: SummaryWriter | None = None

    @property
    def _writer(self) -> "SummaryWriter | None":
        """TensorBoard's writer, from the first use on: importing it must not delay the first step."""
        if self._opened is None and self._out is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                say("TensorBoard is not installed, no events are written for it: pip install -e '.[tensorboard]'")
                self._out = None
                return None
            self._opened = SummaryWriter(str(self._out), purge_step=self._step + 1 if self._step else None)
        return self._opened

    def add(self, group: str, values: dict[str, Any], step: int) -> None:
        """Note some numbers of a step."""
        with self._space():
            if self._writer is not None:
                for name, value in values.items():
                    self._writer.add_scalar(f"{group}/{name}", value, step)

    def show(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Keep a picture (H, W, 3) RGB of a step."""
        with self._space():
            if self._writer is not None:
                self._writer.add_image(name, picture, step, dataformats="HWC")

    def flush(self) -> None:
        """Bring what was noted to disk."""
        with self._space():
            if self._opened is not None:
                self._opened.flush()

    def close(self) -> None:
        """Close the file; the run's end must not fail for it."""
        if self._opened is not None:
            with contextlib.suppress(OSError):
                self._opened.close()

    @contextlib.contextmanager
    def _space(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            assert self._out is not None  # noqa: S101 - nothing is written without a folder
            raise not_written(f"TensorBoard's events in {self._out}", self._out, error) from error


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

    def draw(self, student: TorchStudent) -> NDArray[np.uint8]:
        """One picture (H, W, 3) uint8 RGB: a column per person, rows as `ROWS`; its model stays in evaluation mode."""
        heatmaps = student.heatmaps(self._images)
        everything = np.ones(self._teacher.shape[:2], bool)
        rows = [
            self._skeletons(*self._labels),
            self._skeletons(decode_argmax(self._teacher)[0], everything),
            self._skeletons(DECODERS[DECODER](heatmaps)[0], everything),
            self._heat(self._teacher),
            self._heat(heatmaps),
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
