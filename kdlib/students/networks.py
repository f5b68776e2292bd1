"""Students: a backbone, SqueezeNet or another one, and a head that turns its features into maps.

SqueezeNet (Iandola et al. 2016, arXiv 1602.07360; torchvision's layers and weights) pads neither its first convolution
nor its pools, so its features do not lie on the heatmap grid (heatmap pixel u at input pixel stride * u).
`SqueezeNetStudent` pads the image so that doublings put the features of stride 16 exactly onto the grid: they lie at
input pixels 16 u + 6 for the two doublings that end at stride 4.
"""

from collections.abc import Callable
from typing import Any, Final

import torchvision
from torch import Tensor, nn

from kdcli.words import did_you_mean
from kdlib.errors import KdlibError
from kdlib.geometry import STRIDE, check_stride
from kdlib.students.alignment import align, target_positions
from kdlib.students.backbones import is_library_name, open_backbone
from kdlib.students.heads import HEADS, Taps
from kdlib.students.norms import add_norms

FEATURE_STRIDE: Final = 16
"""Inputs must be divisible by the stride of the coarsest features."""
_FIRST_FEATURE: Final = {"squeezenet1_1": 15, "squeezenet1_0": 17}
"""Input pixel of SqueezeNet's first feature of stride 16 without padding; 1.0's first kernel lies 2 pixels further."""
_PADDING: Final = 15
"""Pixels of padding per axis with which SqueezeNet has one feature per 16 pixels."""


class Student(nn.Module):
    """A backbone and a head: normalised images (B, 3, H, W) to maps (B, K, H / stride, W / stride)."""

    joints: int
    """Number of maps K."""
    stride: int
    """Input pixels per heatmap pixel."""
    features: nn.Module
    """The backbone."""
    head: nn.Module

    def forward(self, images: Tensor) -> Tensor:
        """The maps of the images; the loss decides whether they are logits or heatmaps."""
        return self.head(self.taps(images))

    def taps(self, images: Tensor) -> Taps[Tensor]:
        """The backbone's features of strides 4, 8 and 16 on the heads' grid."""
        raise NotImplementedError

    def add_norms(self) -> None:
        """Add batch norms to train with, where the backbone was published without any; otherwise do nothing."""


class SqueezeNetStudent(Student):
    """SqueezeNet with a head.

    Args:
        name: ``squeezenet1_1`` or ``squeezenet1_0``.
        head: Key of `kdlib.students.heads.HEADS`.
        joints: Number of maps K.
        input_size: Not used: this student runs on images of every size.
        stride: Stride of the maps.
    """

    def __init__(self, name: str, head: str, joints: int, input_size: tuple[int, int], stride: int = STRIDE) -> None:
        super().__init__()
        self.joints, self.stride, self.padding = joints, stride, padding(name, stride)
        layers: nn.Sequential = torchvision.models.get_model(name, weights=None).features
        layers[1], layers[2] = layers[2], layers[1]  # ReLU after the pool: the same result from a quarter of the values
        self.features = layers
        self.head = HEADS[head](_channels(layers), joints, stride)

    def taps(self, images: Tensor) -> Taps[Tensor]:
        """The features before the second and the third pool, and the last ones."""
        x = nn.functional.pad(images, self.padding)
        before_pools = []
        for layer in self.features.children():
            if isinstance(layer, nn.MaxPool2d):
                before_pools.append(x)
            x = layer(x)
        _, stride4, stride8 = before_pools
        return Taps(stride4, stride8, x)

    def add_norms(self) -> None:
        """Add a batch norm after every convolution of the Fire modules, but not after the first convolution."""
        for layer in self.features.children():
            add_norms(layer)


class BackboneStudent(Student):
    """Any convolutional backbone with a head; its features are aligned with the heads' grid.

    Args:
        name: Name of the backbone, ``timm:NAME`` or ``torchvision:NAME`` for those of `open_backbone`.
        head: Key of `kdlib.students.heads.HEADS`.
        joints: Number of maps K.
        input_size: Width and height of the images in pixels.
        stride: Stride of the maps.
        open_features: Function from the name to the backbone and the channels of its features. The backbone is a module
            that returns its features of strides 4, 8 and 16 as a list.
    """

    def __init__(
        self,
        name: str,
        head: str,
        joints: int,
        input_size: tuple[int, int],
        stride: int = STRIDE,
        open_features: Callable[[str], tuple[nn.Module, Taps[int]]] = open_backbone,
    ) -> None:
        super().__init__()
        self.joints, self.stride = joints, stride
        self.features, channels = open_features(name)
        self.alignment = align(self.features, name, input_size, stride)
        self.shifts = self.alignment.shifts(channels)
        self.head = HEADS[head](channels, joints, stride)

    def taps(self, images: Tensor) -> Taps[Tensor]:
        """The features of the padded images, cropped and interpolated onto the grid."""
        features = list(self.features(self.alignment.pad(images)))
        return self.alignment.apply(features, (images.shape[-1], images.shape[-2]), self.shifts)


def padding(name: str, stride: int) -> tuple[int, int, int, int]:
    """Pixels of padding at left, right, top and bottom that put a SqueezeNet's features onto the heads' grid."""
    before = _FIRST_FEATURE[name] - int(target_positions(stride).stride16)
    return before, _PADDING - before, before, _PADDING - before


def _channels(features: nn.Sequential) -> Taps[int]:
    """Channels of SqueezeNet's features of strides 4, 8 and 16, the outputs of the last Fire module of each stride."""
    fires = [(i, layer) for i, layer in enumerate(features) if hasattr(layer, "expand1x1")]
    pools = [i for i, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]
    ends = [*pools[1:], len(features)]
    lasts: list[Any] = [[fire for i, fire in fires if i < end][-1] for end in ends]
    return Taps(*(fire.expand1x1.out_channels + fire.expand3x3.out_channels for fire in lasts))


STUDENTS: Final[dict[str, Callable[[str, str, int, tuple[int, int], int], Student]]] = {
    "squeezenet1_1": SqueezeNetStudent,
    "squeezenet1_0": SqueezeNetStudent,
}
"""Students by name, beside those of `open_backbone`. They are called with the arguments of `build_student`.

``functools.partial(BackboneStudent, open_features=...)`` makes one of any convolutional backbone.
"""


def build_student(name: str, head: str, joints: int, input_size: tuple[int, int], stride: int = STRIDE) -> Student:
    """Build a student with random weights.

    Args:
        name: Key of `STUDENTS`, ``timm:NAME`` or ``torchvision:NAME``.
        head: Key of `kdlib.students.heads.HEADS`.
        joints: Number of maps K.
        input_size: Width and height of the images in pixels, both divisible by 16.
        stride: Input pixels per heatmap pixel: 2, 4 or 8.

    Raises:
        KdlibError: If the student or the head is unknown, the input size or the stride is not supported, or the
            backbone cannot be a student.
    """
    if name not in STUDENTS and not is_library_name(name):
        there = f"there are {', '.join(STUDENTS)}, timm:NAME and torchvision:NAME"
        raise KdlibError(f"no student is called {name!r}; {did_you_mean(name, STUDENTS, there)}")
    if head not in HEADS:
        there = f"there are {', '.join(HEADS)}"
        raise KdlibError(f"no head is called {head!r}; {did_you_mean(head, HEADS, there)}")
    if any(side <= 0 or side % FEATURE_STRIDE for side in input_size):
        size = f"{input_size[1]}x{input_size[0]} (height x width)"
        raise KdlibError(f"the sides of a student's input must be divisible by {FEATURE_STRIDE}, got {size}")
    check_stride(stride)
    return STUDENTS.get(name, BackboneStudent)(name, head, joints, input_size, stride)
