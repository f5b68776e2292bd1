"""The peer of the trainer's loader: the loader of the seed notebook, rewritten from its description.

Per instance it reads the original image, cuts out the clipped box, resizes it to the input size without keeping the
aspect, divides by 255 into a float image (3, H, W), and draws the targets one joint at a time in Python. Its own input
size is 288x384 with Gaussians of sigma 2 on 72x96. A batch is 30 samples, collated by torch.
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kdlib.inputs.annotations import Instances

BATCH_SIZE = 30
SIGMA = 2.0


class NotebookDataset(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Samples (image (3, H, W), targets (17, H / 4, W / 4), mask (17,)), all float32.

    Args:
        images: Folder of the images.
        persons: The instances.
        input_size: Width and height of the input.
    """

    def __init__(self, images: Path, persons: Instances, input_size: tuple[int, int]) -> None:
        self.images, self.persons, self.input_size = images, persons, input_size

    def __len__(self) -> int:
        return len(self.persons)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        image = _read_rgb(self.images / self.persons.file_name[index])
        x0, y0, x1, y1 = self._clipped_box(index, image.shape[:2])
        crop = cv2.resize(image[y0:y1, x0:x1], self.input_size).astype(np.float32) / 255.0
        keypoints = self.persons.keypoints[index]
        scale = np.array(self.input_size) / (x1 - x0, y1 - y0) / 4
        targets, mask = _targets((keypoints[:, :2] - (x0, y0)) * scale, keypoints[:, 2], self.input_size)
        return torch.from_numpy(crop.transpose(2, 0, 1).copy()), torch.from_numpy(targets), torch.from_numpy(mask)

    def _clipped_box(self, index: int, shape: tuple[int, int]) -> tuple[int, int, int, int]:
        x, y, width, height = self.persons.bbox[index]
        x0, y0 = max(0, int(x)), max(0, int(y))
        return x0, y0, max(x0 + 1, min(shape[1], int(x + width))), max(y0 + 1, min(shape[0], int(y + height)))


def _read_rgb(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path))
    if image is None:
        raise FileNotFoundError(f"{path} is missing or not an image")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def _targets(
    points: NDArray[np.float64], visibility: NDArray[np.float32], input_size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw a Gaussian per labelled joint inside the map (K, H, W), and return the mask of those joints (K,)."""
    width, height = input_size[0] // 4, input_size[1] // 4
    targets, mask = np.zeros((len(points), height, width), np.float32), np.zeros(len(points), np.float32)
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    for joint, (x, y) in enumerate(points):
        if visibility[joint] > 0 and 0 <= x < width and 0 <= y < height:
            targets[joint] = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * SIGMA**2))
            mask[joint] = 1.0
    return targets, mask


def notebook_loader(images: Path, persons: Instances, input_size: tuple[int, int]) -> DataLoader[tuple[Tensor, ...]]:
    """Return a loader of the notebook's batches, made in this process."""
    return DataLoader(NotebookDataset(images, persons, input_size), BATCH_SIZE, shuffle=True)
