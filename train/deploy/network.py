"""The network of an exported file, and the file's metadata.

Input ``image``: (B, H, W, 3) uint8 RGB; the network normalises it. With ``normalised``: (B, 3, H, W) float32,
(x / 255 - mean) / std, as in torchvision and as a teacher ``onnx:FILE`` expects it.
Output ``heatmaps``: (B, K, H / stride, W / stride) float32; heatmap pixel u lies at input pixel stride * u. On this
scale, the Gaussian of a label peaks at 1. A student's heatmap peaks above 1 where the student is
more certain of the place than that Gaussian, and below 1 where it is less certain.
"""

import json
from typing import Any

import torch
from torch import Tensor, nn

from kdlib.images import COLOUR_ORDER, IMAGENET_MEAN, IMAGENET_STD, normalise_images
from kdlib.losses import LOSSES
from kdlib.machine.version import project_version
from kdlib.skeletons.reading import stated
from kdlib.students.loading import FORMAT, TorchStudent


class Deployable(nn.Module):
    """A student that maps crops to heatmaps, including normalisation and readout.

    Args:
        student: The student; its model is moved to the CPU and to evaluation mode.
        normalised: Whether the caller normalises the crops.
    """

    def __init__(self, student: TorchStudent, *, normalised: bool = False) -> None:
        super().__init__()
        self.model, self.normalised = student.model.cpu().eval(), normalised
        self.readout = student.readout

    def forward(self, image: Tensor) -> Tensor:
        """Compute heatmaps (B, K, H / stride, W / stride) of crops as returned by `inputs`."""
        return self.readout.heatmaps(self.model(image if self.normalised else normalise_images(image)))

    def inputs(self, crops: Tensor) -> Tensor:
        """Convert crops (B, H, W, 3) uint8 RGB to the input of `forward`."""
        return normalise_images(crops).contiguous() if self.normalised else crops


def describe(student: TorchStudent, *, normalised: bool, precision: str = "fp32") -> dict[str, Any]:
    """Build the metadata of an exported student: how to use it, and its origin."""
    width, height = student.input_size
    return {
        "format": FORMAT,
        "student": student.backbone,
        "head": student.head,
        "run": student.name,
        "input_size": f"{height}x{width}",
        "input": "normalised" if normalised else "uint8",
        "colour_order": COLOUR_ORDER,
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "stride": student.model.stride,
        "heatmaps": LOSSES[student.readout.loss].meaning,
        "sigma": student.readout.sigma,
        "temperature": student.readout.temperature,
        "joints": list(student.skeleton.joints),
        **stated(student.skeleton),
        "precision": precision,
        "project": project_version(),
    }


def to_strings(facts: dict[str, Any]) -> dict[str, str]:
    """Convert metadata to what ONNX stores: text stays text, everything else becomes JSON."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}


def sample_crops(student: TorchStudent, crops: int = 2) -> Tensor:
    """Make black crops (B, H, W, 3) uint8 of the student's size, to trace it with."""
    width, height = student.input_size
    return torch.zeros(crops, height, width, 3, dtype=torch.uint8)
