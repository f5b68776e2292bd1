"""A trained student from whatever file it is in, as a map from crops to heatmaps."""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from kdlib.device import choose_device
from kdlib.images import normalise_images
from train.checkpoint import load_student
from train.errors import TrainError
from train.export.onnx_session import OnnxStudent


class StudentFile(Protocol):
    """Crops (B, H, W, 3) uint8 RGB to heatmaps (B, K, h, w) float32, see `train.export.deployable`."""

    name: str
    input_size: tuple[int, int]
    joints: int
    loss: str
    """It was trained with ``kl``, and its heatmaps are densities, or with ``mse``, and they are regressed."""

    def __call__(self, crops: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Heatmaps of a batch of crops."""


class CheckpointStudent:
    """A `StudentFile` of a run's checkpoint."""

    def __init__(self, path: Path, device: str) -> None:
        """Load it; `TrainError` if it is no student or there is no such device."""
        try:
            self.device = choose_device(device)
        except ValueError as error:
            raise TrainError(str(error)) from error
        student = load_student(path)
        self.name, self.input_size = student.name, student.input_size
        self.joints, self.supervision = student.model.joints, student.supervision
        self.loss = self.supervision.loss
        self.model = student.model.to(self.device)

    @torch.inference_mode()
    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Heatmaps of a batch of crops."""
        maps = self.model(normalise_images(torch.from_numpy(crops).to(self.device)))
        heatmaps: NDArray[np.float32] = self.supervision.heatmaps(maps).cpu().numpy()
        return heatmaps


def open_student(path: Path, device: str = "auto") -> StudentFile:
    """Open a checkpoint (``.pt``) or an exported student (``.onnx``).

    Raises:
        TrainError: If the file is missing or is neither.
    """
    return OnnxStudent(path, device) if path.suffix == ".onnx" else CheckpointStudent(path, device)
