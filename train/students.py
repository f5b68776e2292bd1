"""Students: SqueezeNet's features under a head that turns them into heatmaps.

SqueezeNet (Iandola et al. 2016, arXiv 1602.07360; torchvision's layers and weights) pads neither its first convolution
nor its pools, so its features lie off the heatmap grid (heatmap pixel u at input pixel 4 u). `Student` pads the
picture so that features of stride 16 lie at input pixels 16 u + 6, where two doublings put them exactly onto the grid.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
import torchvision
from torch import Tensor, nn

from train.errors import TrainError
from train.heads import HEADS, Taps

STRIDE: Final = 4
"""Input pixels a heatmap pixel, for every student."""
FEATURE_STRIDE: Final = 16

BACKBONES: Final[dict[str, Callable[..., Any]]] = {
    "squeezenet1_1": torchvision.models.squeezenet1_1,
    "squeezenet1_0": torchvision.models.squeezenet1_0,
}
PADDING: Final = {"squeezenet1_1": (9, 6, 9, 6), "squeezenet1_0": (11, 4, 11, 4)}
"""Left, right, top, bottom: 15 in all make a feature of every 16 pixels; 1.0's first kernel looks 2 pixels further."""


class Student(nn.Module):
    """A backbone and a head: (B, 3, H, W) normalised pictures to (B, K, H / 4, W / 4) maps.

    Args:
        name: Key of `BACKBONES`.
        head: Key of `train.heads.HEADS`.
        joints: Number of maps K.
    """

    def __init__(self, name: str, head: str, joints: int) -> None:
        super().__init__()
        self.joints, self.padding = joints, PADDING[name]
        self.features = BACKBONES[name](weights=None).features
        self.head = HEADS[head](_channels(self.features), joints)

    def forward(self, images: Tensor) -> Tensor:
        """Maps of the pictures; what they mean (logits or heatmaps) is the loss's choice."""
        x = nn.functional.pad(images, self.padding)
        before_pools = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                before_pools.append(x)
            x = layer(x)
        _, stride4, stride8 = before_pools
        return self.head(Taps(stride4, stride8, x))


def _channels(features: nn.Sequential) -> Taps[int]:
    """Channels of the features at strides 4, 8 and 16: those of the last Fire before each pool but the first."""
    fires = [(i, layer) for i, layer in enumerate(features) if hasattr(layer, "expand1x1")]
    pools = [i for i, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]
    ends = [*pools[1:], len(features)]
    lasts: list[Any] = [[fire for i, fire in fires if i < end][-1] for end in ends]
    return Taps(*(fire.expand1x1.out_channels + fire.expand3x3.out_channels for fire in lasts))


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
        width, height = input_size
        raise TrainError(f"students need an input divisible by {FEATURE_STRIDE}, got {height}x{width} (height x width)")
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
        _fill(student, torch.load(path, map_location="cpu", weights_only=True))
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
        _fill(student, weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:  # RuntimeError: the download has another hash
        return (
            f"ImageNet weights of {name} could not be downloaded from {weights.url} ({error}): the student starts from "
            "random weights; give a file with --pretrained FILE, or --pretrained none to say so"
        )
    return f"student starts from torchvision's {weights}"


def _fill(student: Student, state: dict[str, Tensor]) -> None:
    prefix = "features."
    features = {key.removeprefix(prefix): value.float() for key, value in state.items() if key.startswith(prefix)}
    student.features.load_state_dict(features)
