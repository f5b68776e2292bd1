"""Students: SqueezeNet's features under a head that turns them into heatmaps.

SqueezeNet (Iandola et al. 2016, arXiv 1602.07360; torchvision's layers and weights) has stride 16 and no padding in its
first convolution and its pools, so its feature u looks at input pixel 16 u + 15. `Student` pads the picture so that the
features lie where the head's four-fold upsampling puts them on the heatmap grid (heatmap pixel u at input pixel 4 u).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
import torchvision
from torch import Tensor, nn

from train.errors import TrainError

STRIDE: Final = 4
"""Input pixels a heatmap pixel, for every student."""
FEATURE_STRIDE: Final = 16
FEATURE_CHANNELS: Final = 512
PADDING: Final = (9, 6, 9, 6)
"""Left, right, top, bottom: feature u then lies at input pixel 16 u + 6, and the head's heatmap pixel 4 u + 1.5 too."""

BACKBONES: Final[dict[str, Callable[..., Any]]] = {
    "squeezenet1_1": torchvision.models.squeezenet1_1,
    "squeezenet1_0": torchvision.models.squeezenet1_0,
}


def _interp_head(joints: int) -> nn.Module:
    """The teaching notebook's head: bilinear upsampling and one 3x3 convolution."""
    return nn.Sequential(
        nn.Upsample(scale_factor=4, mode="bilinear"), nn.Conv2d(FEATURE_CHANNELS, joints, 3, padding=1)
    )


def _upsampler(inputs: int, outputs: int) -> list[nn.Module]:
    """Double the resolution with a learnt 4x4 kernel, as Simple Baselines does (Xiao et al. 2018, arXiv 1804.06208)."""
    return [
        nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


def _deconv_head(joints: int) -> nn.Module:
    """A light Simple Baselines head: two learnt upsamplings (128 and 64 channels) and a 1x1 convolution."""
    return nn.Sequential(*_upsampler(FEATURE_CHANNELS, 128), *_upsampler(128, 64), nn.Conv2d(64, joints, 1))


HEADS: Final[dict[str, Callable[[int], nn.Module]]] = {"deconv": _deconv_head, "interp": _interp_head}


class Student(nn.Module):
    """A backbone and a head: (B, 3, H, W) normalised pictures to (B, K, H / 4, W / 4) maps.

    Args:
        name: Key of `BACKBONES`.
        head: Key of `HEADS`.
        joints: Number of maps K.
    """

    def __init__(self, name: str, head: str, joints: int) -> None:
        super().__init__()
        self.joints = joints
        self.features = BACKBONES[name](weights=None).features
        self.head = HEADS[head](joints)
        final = [module for module in self.head.modules() if isinstance(module, nn.Conv2d)][-1]
        nn.init.normal_(final.weight, std=0.001)
        nn.init.zeros_(final.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """Maps of the pictures; what they mean (logits or heatmaps) is the loss's choice."""
        return self.head(self.features(nn.functional.pad(images, PADDING)))


def build_student(name: str, head: str, joints: int, input_size: tuple[int, int]) -> Student:
    """Make a student with random weights.

    Raises:
        TrainError: If the name, the head or the input size (width, height) is none that students have.
    """
    if name not in BACKBONES:
        raise TrainError(f"no student is called {name!r}; there are {', '.join(BACKBONES)}")
    if head not in HEADS:
        raise TrainError(f"no head is called {head!r}; there are {', '.join(HEADS)}")
    if any(side <= 0 or side % FEATURE_STRIDE for side in input_size):
        raise TrainError(f"students need an input divisible by {FEATURE_STRIDE}, got {input_size[0]}x{input_size[1]}")
    return Student(name, head, joints)


def load_pretrained(student: Student, name: str, source: str) -> str:
    """Start the backbone from ImageNet weights.

    Args:
        student: Changed in place.
        name: Key of `BACKBONES`.
        source: ``none``, ``auto`` (torchvision's download; random weights where that is not to be had) or a file with
            torchvision's state dict.

    Returns:
        One line that says what was done.

    Raises:
        TrainError: If the file is missing or is no such state dict.
    """
    if source == "none":
        return "student starts from random weights"
    if source == "auto":
        return _download(student, name)
    path = Path(source)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        student.features.load_state_dict(
            {k.removeprefix("features."): v.float() for k, v in state.items() if k.startswith("features.")}
        )
    except FileNotFoundError as error:
        raise TrainError(f"no pretrained weights at {path}; give another file, or --pretrained none") from error
    except Exception as error:  # torch raises many kinds here; all of them mean this
        reason = str(error).strip().splitlines()[0]
        raise TrainError(
            f"{path} does not hold ImageNet weights of {name} in torchvision's layout: {reason}"
        ) from error
    return f"student starts from {path.name}"


def _download(student: Student, name: str) -> str:
    weights = torchvision.models.get_model_weights(name).DEFAULT
    try:
        state = weights.get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        return (
            f"ImageNet weights of {name} could not be downloaded from {weights.url} ({error}): the student starts from "
            "random weights; give a file with --pretrained FILE, or --pretrained none to say so"
        )
    student.features.load_state_dict({k.removeprefix("features."): v for k, v in state.items() if "features" in k})
    return f"student starts from torchvision's {weights}"
