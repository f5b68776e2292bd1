"""Shows a run in TensorBoard: scalars, and pictures of a few persons of the validation store.

When a run is resumed, events after its checkpoint are hidden. If the disk is full, the run ends with one line. Without
TensorBoard, the run prints one line and writes no events; ``history.jsonl`` holds the same numbers.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from cache import Store
from kdcli.packages import describe_import_error
from kdcli.progress import say
from kdlib.geometry import STRIDE
from kdlib.heatmaps import DECODERS, decode_argmax
from kdlib.readout import DECODER
from kdlib.samples.dataset import StoreDataset, as_tensors
from kdlib.skeletons.skeleton import Skeleton
from kdlib.students.loading import TorchStudent
from train.errors import not_written
from train.show import enough_labels
from train.show.drawing import heat_pixels, paint_skeleton

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

PERSONS: Final = 6
TILE_HEIGHT: Final = 224
"""Height of a person's picture in pixels."""
GAP: Final = 4
"""Pixels between pictures."""
MARGIN: Final = 84
"""Pixels on the left, for the names of the rows."""
ROWS: Final = ("labels", "teacher", "student", "teacher", "student")
"""Three rows of skeletons, two of heatmaps."""
THICKNESS: Final = 2
"""Thickness of a limb in pixels."""
DIMMED: Final = 0.35
"""Brightness of the image under heatmaps, as a share."""


class Board:
    """Writes TensorBoard's events of one run.

    Args:
        out: Run folder; None writes nothing.
        step: Steps done; events of later steps, written before the run was resumed, are hidden.

    Raises:
        TrainError: From `add`, `write`, `show` and `flush`, if the events cannot be written.
    """

    def __init__(self, out: Path | None, step: int) -> None:
        self._out, self._step = out, step
        self._opened: SummaryWriter | None = None

    @property
    def _writer(self) -> "SummaryWriter | None":
        """TensorBoard's writer, opened at the first use, because importing it would delay the first step."""
        if self._opened is None and self._out is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except Exception as error:  # a broken installation, e.g. beside another protobuf, raises anything
                reason = None if isinstance(error, ModuleNotFoundError) else describe_import_error(error)
                say(
                    f"{reason}; no events are written for TensorBoard"
                    if reason
                    else "TensorBoard is not installed; no events are written for it. To install it: "
                    "pip install -e '.[tensorboard]'"
                )
                self._out = None
                return None
            self._opened = SummaryWriter(str(self._out), purge_step=self._step + 1 if self._step else None)
        return self._opened

    def add(self, group: str, values: dict[str, Any], step: int) -> None:
        """Add scalars of a step, named ``group/name``."""
        with self._translate_errors():
            if self._writer is not None:
                for name, value in values.items():
                    self._writer.add_scalar(f"{group}/{name}", value, step)

    def write(self, name: str, text: str, step: int) -> None:
        """Add a text of a step, in Markdown."""
        with self._translate_errors():
            if self._writer is not None:
                self._writer.add_text(name, text, step)

    def show(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        """Add an image (H, W, 3) RGB of a step."""
        with self._translate_errors():
            if self._writer is not None:
                self._writer.add_image(name, image, step, dataformats="HWC")

    def flush(self) -> None:
        """Write all events to disk."""
        with self._translate_errors():
            if self._opened is not None:
                self._opened.flush()

    def close(self) -> None:
        """Close the file; an error is ignored, so that it does not hide how the run ended."""
        if self._opened is not None:
            with contextlib.suppress(OSError):
                self._opened.close()

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Turn an error of the disk into a `TrainError`."""
        try:
            yield
        except OSError as error:
            assert self._out is not None  # noqa: S101 - nothing is written without a folder
            raise not_written(f"TensorBoard's events in {self._out}", self._out, error) from error


class Pictures:
    """Draws the same few persons of a validation store in every epoch.

    Args:
        store: Validation store.
        input_size: Width and height of the student's input.
        images: Folder of the original images, for a store without frames.
        count: Number of persons; fewer if fewer have enough labels.
        stride: Input pixels per pixel of the student's maps.
    """

    def __init__(
        self,
        store: Store,
        input_size: tuple[int, int],
        images: Path | None = None,
        count: int = PERSONS,
        stride: int = STRIDE,
    ) -> None:
        dataset = StoreDataset(store, input_size, stride=stride, views="average", images=images)
        rows = _spaced_rows(store.instances["keypoints"], dataset.rows, count)
        batch = dataset.empty_batch(len(rows))
        dataset.fill(batch, np.arange(len(rows)), rows, epoch=0)
        tensors = as_tensors(batch)
        self._skeleton, self._images = dataset.skeleton, tensors["image"]
        self._labels = tensors["keypoints"].numpy(), tensors["labelled"].numpy() > 0
        self._teacher = tensors["heatmaps"].numpy()
        self._scale, self._stride = TILE_HEIGHT / input_size[1], stride
        self._tiles = [self._enlarge(image) for image in self._images.numpy()]

    def draw(self, student: TorchStudent) -> NDArray[np.uint8]:
        """Draw a grid with one column per person and the rows `ROWS`; leaves the student in evaluation mode.

        Returns:
            (H, W, 3) uint8 RGB.
        """
        heatmaps = student.heatmaps(self._images)
        everything = np.ones(self._teacher.shape[:2], bool)
        rows = [
            self._skeletons(*self._labels),
            self._skeletons(decode_argmax(self._teacher)[0], everything),
            self._skeletons(DECODERS[DECODER](heatmaps)[0], everything),
            self._heat(self._teacher),
            self._heat(heatmaps),
        ]
        return np.concatenate([_named_row(name, tiles) for name, tiles in zip(ROWS, rows, strict=True)])

    def _enlarge(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        size = (round(image.shape[1] * self._scale), TILE_HEIGHT)
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8)

    def _skeletons(self, points: NDArray[np.float32], drawn: NDArray[np.bool_]) -> list[NDArray[np.uint8]]:
        """Draw the joints that ``drawn`` (B, K) marks on copies of the tiles; points are (B, K, 2) heatmap pixels."""
        on_tiles = (points * self._stride + 0.5) * self._scale - 0.5
        tiles = [tile.copy() for tile in self._tiles]
        for tile, of_person, joints in zip(tiles, on_tiles, drawn, strict=True):
            paint_skeleton(tile, of_person, joints, THICKNESS, self._skeleton)
        return tiles

    def _heat(self, heatmaps: NDArray[np.float32]) -> list[NDArray[np.uint8]]:
        """Draw heatmaps (B, K, H, W) over dimmed tiles."""
        pairs = zip(self._tiles, heatmaps, strict=True)
        return [_draw_heat(tile, of_person, self._scale, self._stride, self._skeleton) for tile, of_person in pairs]


def _spaced_rows(keypoints: NDArray[np.floating], rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Rows evenly spaced over those with enough labels, or over all rows if no row has enough."""
    labelled = (keypoints[rows][..., 2] > 0).sum(axis=1) >= enough_labels(keypoints.shape[1])
    eligible = rows[labelled] if labelled.any() else rows
    return eligible[np.unique(np.linspace(0, len(eligible) - 1, count).round().astype(np.int64))]


def _draw_heat(
    tile: NDArray[np.uint8], heatmaps: NDArray[np.float32], scale: float, stride: int, skeleton: Skeleton
) -> NDArray[np.uint8]:
    """Draw heatmaps (K, H, W) over a dimmed tile.

    Heatmap pixel u lies at input pixel stride * u; a plain resize would shift it by (stride - 1) / 2 pixels.
    """
    factor = stride * scale
    affine = np.array([[factor, 0, 0.5 * scale - 0.5], [0, factor, 0.5 * scale - 0.5]])
    heat = heat_pixels(heatmaps, skeleton)
    layer = cv2.warpAffine(heat, affine, tile.shape[1::-1], flags=cv2.INTER_LINEAR).astype(np.float32)
    opacity = layer[..., 3:] / 255
    mixed = DIMMED * tile * (1 - opacity) + layer[..., :3] * opacity
    return np.asarray(mixed.round().clip(0, 255), np.uint8)


def _named_row(name: str, tiles: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Put tiles side by side, with the name of the row on the left."""
    head = np.zeros((TILE_HEIGHT, MARGIN, 3), np.uint8)
    cv2.putText(head, name, (6, TILE_HEIGHT // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (230, 230, 225), 1, cv2.LINE_AA)
    row = np.concatenate([head, *(np.pad(tile, ((0, 0), (0, GAP), (0, 0))) for tile in tiles)], axis=1)
    return np.pad(row, ((0, GAP), (0, 0), (0, 0)))
