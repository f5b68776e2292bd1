"""Students: SqueezeNet's features, or another backbone's, under a head that turns them into heatmaps.

SqueezeNet (Iandola et al. 2016, arXiv 1602.07360; torchvision's layers and weights) pads neither its first convolution
nor its pools, so its features lie off the heatmap grid (heatmap pixel u at input pixel stride * u). `Student` pads the
picture so that features of stride 16 lie where doublings put them exactly onto the grid: at input pixels 16 u + 6 for
the two doublings that end at stride 4.
"""

from collections.abc import Callable
from typing import Any, Final

import torchvision
from torch import Tensor, nn

from kdcli.words import did_you_mean
from kdlib.errors import KdlibError
from kdlib.geometry import STRIDE, check_stride
from kdlib.students.alignment import align, targets
from kdlib.students.backbones import is_library_name, open_backbone
from kdlib.students.heads import HEADS, Taps
from kdlib.students.norms import add_norms

FEATURE_STRIDE: Final = 16


BACKBONES: Final[dict[str, Callable[..., Any]]] = {
    "squeezenet1_1": torchvision.models.squeezenet1_1,
    "squeezenet1_0": torchvision.models.squeezenet1_0,
}


FIRST: Final = {"squeezenet1_1": 15, "squeezenet1_0": 17}
"""Input pixel of the first feature of stride 16 where nothing is padded; 1.0's first kernel looks 2 pixels further."""


PADDED: Final = 15
"""Pixels of padding on both sides together: they make a feature of every 16 pixels."""


class Student(nn.Module):
    """A backbone and a head: (B, 3, H, W) normalised pictures to (B, K, H / stride, W / stride) maps."""

    joints: int
    stride: int
    features: nn.Module
    head: nn.Module

    def forward(self, images: Tensor) -> Tensor:
        """Maps of the pictures; what they mean (logits or heatmaps) is the loss's choice."""
        return self.head(self.taps(images))

    def taps(self, images: Tensor) -> Taps[Tensor]:
        """The backbone's features on the heads' grid."""
        raise NotImplementedError

    def add_norms(self) -> None:
        """Give a SqueezeNet batch norms to train with; other backbones stay as they are."""


class SqueezeNetStudent(Student):
    """SqueezeNet's own features.

    Args:
        name: Key of `BACKBONES`.
        head: Key of `kdlib.students.heads.HEADS`.
        joints: Number of maps K.
        stride: Of the maps.
    """

    def __init__(self, name: str, head: str, joints: int, stride: int = STRIDE) -> None:
        super().__init__()
        self.joints, self.stride, self.padding = joints, stride, padding(name, stride)
        layers: nn.Sequential = BACKBONES[name](weights=None).features
        layers[1], layers[2] = layers[2], layers[1]  # ReLU behind the pool: the same, of a quarter of the numbers
        self.features = layers
        self.head = HEADS[head](_channels(layers), joints, stride)

    def taps(self, images: Tensor) -> Taps[Tensor]:
        """Features before the pools, and the last ones."""
        x = nn.functional.pad(images, self.padding)
        before_pools = []
        for layer in self.features.children():
            if isinstance(layer, nn.MaxPool2d):
                before_pools.append(x)
            x = layer(x)
        _, stride4, stride8 = before_pools
        return Taps(stride4, stride8, x)

    def add_norms(self) -> None:
        """A batch norm behind every convolution of the Fire modules; the first convolution has none."""
        for layer in self.features.children():
            add_norms(layer)


class BackboneStudent(Student):
    """A network of timm or torchvision, its features brought onto the heads' grid.

    Args:
        name: ``timm:NAME`` or ``torchvision:NAME``.
        head: Key of `kdlib.students.heads.HEADS`.
        joints: Number of maps K.
        input_size: Width and height of the pictures.
        stride: Of the maps.
    """

    def __init__(self, name: str, head: str, joints: int, input_size: tuple[int, int], stride: int = STRIDE) -> None:
        super().__init__()
        self.joints, self.stride = joints, stride
        self.features, channels = open_backbone(name)
        self.alignment = align(self.features, name, input_size, stride)
        self.shifts = self.alignment.shifts(channels)
        self.head = HEADS[head](channels, joints, stride)

    def taps(self, images: Tensor) -> Taps[Tensor]:
        """Features of strides 4, 8 and 16, padded, cut and shifted."""
        features = list(self.features(self.alignment.pad(images)))
        return self.alignment.apply(features, (images.shape[-1], images.shape[-2]), self.shifts)


def padding(name: str, stride: int) -> tuple[int, int, int, int]:
    """Pixels to the left, to the right, above and below that bring a SqueezeNet's features onto the heads' grid."""
    before = FIRST[name] - int(targets(stride).stride16)
    return before, PADDED - before, before, PADDED - before


def _channels(features: nn.Sequential) -> Taps[int]:
    """Channels of the features at strides 4, 8 and 16: those of the last Fire before each pool but the first."""
    fires = [(i, layer) for i, layer in enumerate(features) if hasattr(layer, "expand1x1")]
    pools = [i for i, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]
    ends = [*pools[1:], len(features)]
    lasts: list[Any] = [[fire for i, fire in fires if i < end][-1] for end in ends]
    return Taps(*(fire.expand1x1.out_channels + fire.expand3x3.out_channels for fire in lasts))


def build_student(name: str, head: str, joints: int, input_size: tuple[int, int], stride: int = STRIDE) -> Student:
    """Make a student with random weights.

    Raises:
        KdlibError: If the name, the head, the input size (width, height) or the stride of the maps is none that
            students have.
    """
    if name not in BACKBONES and not is_library_name(name):
        there = f"there are {', '.join(BACKBONES)}, timm:NAME and torchvision:NAME"
        raise KdlibError(f"no student is called {name!r}; {did_you_mean(name, BACKBONES, there)}")
    if head not in HEADS:
        there = f"there are {', '.join(HEADS)}"
        raise KdlibError(f"no head is called {head!r}; {did_you_mean(head, HEADS, there)}")
    if any(side <= 0 or side % FEATURE_STRIDE for side in input_size):
        width, height = input_size
        raise KdlibError(f"students need an input divisible by {FEATURE_STRIDE}, got {height}x{width} (height x width)")
    check_stride(stride)
    if is_library_name(name):
        return BackboneStudent(name, head, joints, input_size, stride)
    return SqueezeNetStudent(name, head, joints, stride)
