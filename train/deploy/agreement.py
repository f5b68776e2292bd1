"""Checks that an exported file computes the heatmaps that PyTorch computes."""

import dataclasses
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from cache import Store
from kdlib.heatmaps import peaks
from kdlib.samples.dataset import StoreDataset
from train.deploy.formats import Heatmaps
from train.deploy.network import Deployable
from train.errors import TrainError

TOLERANCE: Final = 1e-3
"""Largest accepted difference, as a share of the highest heatmap value."""
BATCH_SIZES: Final = (1, 5)
"""Batch sizes, used in turn, to find files that only accept the batch size of the trace."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """The difference between two versions of a network."""

    crops: int
    difference: float
    """Largest difference between two heatmap values."""
    height: float
    """Largest heatmap value."""
    moved: int
    """Number of heatmaps whose maximum lies on another pixel."""
    maps: int
    """Number of heatmaps."""

    def __str__(self) -> str:
        return (
            f"largest difference {self.difference:.1e} at heatmap values up to {self.height:.2f}, "
            f"{self.moved} of {self.maps} maxima moved"
        )


def store_crops(store: Store, input_size: tuple[int, int], count: int, images: Path | None = None) -> NDArray[np.uint8]:
    """Cut plain crops of instances spread evenly over a store.

    Args:
        store: An opened store.
        input_size: Width and height of the crops.
        count: Number of crops; fewer if the store has fewer instances.
        images: Folder of the original images, for a store without frames.

    Returns:
        (n, H, W, 3) uint8 RGB.
    """
    dataset = StoreDataset(store, input_size, views=None, images=images)
    indices = np.unique(np.linspace(0, len(dataset) - 1, count).round().astype(int))
    return np.stack([dataset[int(i)]["image"].numpy() for i in indices])


def noise_crops(input_size: tuple[int, int], count: int) -> NDArray[np.uint8]:
    """Draw crops of noise in cells of 1, 2, 4, 8 and 16 pixels, for use without a store: (count, H, W, 3) uint8."""
    (width, height), rng = input_size, np.random.default_rng(0)
    crops = []
    for i in range(count):
        cells = 2 ** (i % 5)
        coarse = rng.integers(0, 256, (-(-height // cells), -(-width // cells), 3), np.uint8)
        crops.append(coarse.repeat(cells, axis=0).repeat(cells, axis=1)[:height, :width])
    return np.stack(crops)


@torch.inference_mode()
def compare(network: Deployable, exported: Heatmaps, crops: NDArray[np.uint8]) -> Agreement:
    """Compare the heatmaps of a network and of its exported file on crops (N, H, W, 3) uint8 RGB.

    Raises:
        TrainError: If the exported network does not run, or its output has another shape.
    """
    difference, height, moved, start, turn = 0.0, 0.0, 0, 0, 0
    maps = 0
    while start < len(crops):
        batch = crops[start : start + BATCH_SIZES[turn % len(BATCH_SIZES)]]
        wanted = network(network.inputs(torch.from_numpy(batch))).numpy()
        found = _run(exported, batch)
        if found.shape != wanted.shape:
            raise TrainError(
                f"for a batch of {len(batch)}, the exported file returns {found.shape}, but PyTorch {wanted.shape}"
            )
        difference = max(difference, float(np.abs(found - wanted).max()))
        height = max(height, float(wanted.max()))
        moved += int((peaks(found)[0] != peaks(wanted)[0]).any(axis=-1).sum())
        maps += wanted.shape[0] * wanted.shape[1]
        start, turn = start + len(batch), turn + 1
    return Agreement(len(crops), difference, height, moved, maps)


def _run(exported: Heatmaps, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    try:
        return exported(batch)
    except Exception as error:  # onnxruntime's exceptions have no common base but Exception
        reason = str(error).splitlines()[0]
        raise TrainError(f"the exported file does not run on a batch of {len(batch)}: {reason}") from error


def check_agreement(agreement: Agreement, path: Path) -> None:
    """Raise `TrainError` if the difference exceeds the tolerance; ``path`` names the exported file in the message."""
    if not agreement.difference <= TOLERANCE * max(agreement.height, 1.0):
        raise TrainError(
            f"{path} was not kept: it disagrees with PyTorch ({agreement}); this is an error of the exporter of torch "
            f"{torch.__version__} or of the runtime; try --out NAME.pt2, or other versions"
        )
