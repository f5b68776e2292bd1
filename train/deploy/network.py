"""What an exported file computes, and what it says of itself.

Input ``image``: (B, H, W, 3) uint8 RGB, as an image library gives it; normalisation is inside. Or, ``normalised``:
(B, 3, H, W) float32, (x / 255 - mean) / std, as torchvision has it and as a teacher ``onnx:FILE`` is fed.
Output ``heatmaps``: (B, K, H / stride, W / stride) float32; heatmap pixel u lies at input pixel stride * u. A label's
Gaussian would peak at 1; a student's map peaks higher where it is surer of the place than that, and lower where it is
less sure.
"""

import json
from typing import Any

import torch
from torch import Tensor, nn

from kdlib.images import COLOUR_ORDER, IMAGENET_MEAN, IMAGENET_STD, normalise_images
from kdlib.losses import LOSSES
from kdlib.machine.version import project_version
from kdlib.skeleton import JOINTS
from kdlib.students.loading import FORMAT, TorchStudent


class Deployable(nn.Module):
    """A student between its crops and its heatmaps, with everything a user would otherwise have to know."""

    def __init__(self, student: TorchStudent, *, normalised: bool = False) -> None:
        super().__init__()
        self.model, self.normalised = student.model.cpu().eval(), normalised
        self.readout = student.readout

    def forward(self, image: Tensor) -> Tensor:
        """Heatmaps of the crops."""
        return self.readout.heatmaps(self.model(image if self.normalised else normalise_images(image)))

    def inputs(self, crops: Tensor) -> Tensor:
        """Crops (B, H, W, 3) uint8 RGB in the form that `forward` takes."""
        return normalise_images(crops).contiguous() if self.normalised else crops


def describe(student: TorchStudent, *, normalised: bool, precision: str = "fp32") -> dict[str, Any]:
    """The metadata of an exported student: what a program needs to use it, and where it comes from."""
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
        "joints": list(JOINTS) if student.model.joints == len(JOINTS) else student.model.joints,
        "precision": precision,
        "project": project_version(),
    }


def to_strings(facts: dict[str, Any]) -> dict[str, str]:
    """Metadata as ONNX keeps it: text for text, JSON for the rest."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}


def sample_crops(student: TorchStudent, crops: int = 2) -> Tensor:
    """Black crops of the student's size, to trace it with."""
    width, height = student.input_size
    return torch.zeros(crops, height, width, 3, dtype=torch.uint8)
