"""Heads: the part of a student that turns the backbone's features into one map per joint.

Every head doubles the resolution of the features of stride 16 until it has that of the maps: once for stride 8, twice
for stride 4, three times for stride 2. `HEADS` names the heads; docs/extending.md shows how to add one.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Final, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")

WIDTHS: Final = {8: 128, 4: 64, 2: 64}
"""Channels after the doubling to each stride."""


class Taps(NamedTuple, Generic[T]):
    """One value per stride of the backbone's features, finest first: the features, or their channels, for example."""

    stride4: T
    stride8: T
    stride16: T


def crop(x: Tensor, first: int, rows: int, columns: int) -> Tensor:
    """Crop features (B, C, H, W) to (B, C, rows, columns), from index ``first`` on along both axes.

    Raises:
        ValueError: If there are fewer features.
    """
    right, below = x.shape[-1] - first - columns, x.shape[-2] - first - rows
    if right < 0 or below < 0:
        raise ValueError(f"cannot crop {rows}x{columns} features from index {first} of {x.shape[-2]}x{x.shape[-1]}")
    if not (first or right or below):
        return x
    if torch.compiler.is_compiling():  # also while exporting; OpenCV's DNN module refuses to pad by negative numbers
        return x[:, :, first : first + rows, first : first + columns]
    return nn.functional.pad(x, (-first, -right, -first, -below))  # its gradients stay in channels_last memory


class Interpolation(nn.Module):
    """Interpolates features linearly between neighbours on both axes: (B, C, H, W) to (B, C, H - 1, W - 1).

    Args:
        channels: C.
        fraction: Position between two neighbours, in [0, 1]; one half gives the mean of four features.
    """

    kernel: Tensor

    def __init__(self, channels: int, fraction: float) -> None:
        super().__init__()
        shares = torch.tensor([1 - fraction, fraction])
        kernel = torch.outer(shares, shares).expand(channels, 1, 2, 2).contiguous()
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Interpolate features (B, C, H, W)."""
        return nn.functional.conv2d(x, self.kernel, groups=len(self.kernel))


def _initialise_final(final: nn.Conv2d) -> nn.Conv2d:
    """Initialise a head's last convolution so that its maps are almost uniform, as in Simple Baselines."""
    nn.init.normal_(final.weight, std=0.001)
    nn.init.zeros_(final.bias)  # type: ignore[arg-type]
    return final


def _norm_relu(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]


def _doubling(inputs: int, outputs: int) -> nn.Module:
    """A learnt 4x4 kernel that doubles the resolution: pixel u moves to 2 u + 1/2."""
    return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False)


def _crop_around(finer: Tensor, doubled: Tensor, first: int) -> Tensor:
    """The finer features around the pixels of the doubled ones: from index ``first`` on, one more per axis."""
    rows, columns = doubled.shape[-2:]
    return crop(finer, first, rows + 1, columns + 1)


class InterpHead(nn.Module):
    """The head of the original notebook: bilinear upsampling, then one 3x3 convolution."""

    def __init__(self, channels: Taps[int], joints: int, stride: int) -> None:
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=16 // stride, mode="bilinear")
        self.final = _initialise_final(nn.Conv2d(channels.stride16, joints, 3, padding=1))

    def forward(self, features: Taps[Tensor]) -> Tensor:
        """Maps (B, K, H / stride, W / stride)."""
        return self.final(self.upsample(features.stride16))


class DeconvHead(nn.Module):
    """A light version of Simple Baselines' head (Xiao et al. 2018, arXiv 1804.06208): learnt doublings, 1x1 kernel."""

    def __init__(self, channels: Taps[int], joints: int, stride: int) -> None:
        super().__init__()
        widths = [channels.stride16, *(width for fine, width in WIDTHS.items() if fine >= stride)]
        doublings: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            doublings += [_doubling(inputs, outputs), *_norm_relu(outputs)]
        self.layers = nn.Sequential(*doublings, _initialise_final(nn.Conv2d(widths[-1], joints, 1)))

    def forward(self, features: Taps[Tensor]) -> Tensor:
        """Maps (B, K, H / stride, W / stride)."""
        return self.layers(features.stride16)


class PyramidHead(nn.Module):
    """Doublings to which finer features are added, as in feature pyramids (Lin et al., arXiv 1612.03144).

    The backbone has finer features of strides 8 and 4; nothing is added after a doubling to stride 2. Finer features
    lie between the pixels of the doubled ones; a 2x2 kernel without padding moves them onto the same grid.
    """

    def __init__(self, channels: Taps[int], joints: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.narrow = nn.Sequential(nn.Conv2d(channels.stride16, 128, 1, bias=False), *_norm_relu(128))
        self.double16 = _doubling(128, 128)
        self.lateral8 = nn.Conv2d(channels.stride8, 128, 2, bias=False)
        self.merge8 = nn.Sequential(*_norm_relu(128))
        if stride <= 4:
            self.double8 = _doubling(128, 64)
            self.lateral4 = nn.Conv2d(channels.stride4, 64, 2, bias=False)
            self.merge4 = nn.Sequential(*_norm_relu(64), nn.Conv2d(64, 64, 3, padding=1, bias=False), *_norm_relu(64))
        if stride <= 2:
            self.double4 = nn.Sequential(_doubling(64, 64), *_norm_relu(64))
        self.final = _initialise_final(nn.Conv2d(WIDTHS[stride], joints, 1))

    def forward(self, features: Taps[Tensor]) -> Tensor:
        """Maps (B, K, H / stride, W / stride)."""
        x = self.double16(self.narrow(features.stride16))
        x = self.merge8(x + self.lateral8(_crop_around(features.stride8, x, 0)))
        if self.stride <= 4:
            x = self.double8(x)
            x = self.merge4(x + self.lateral4(_crop_around(features.stride4, x, 1)))
        if self.stride <= 2:
            x = self.double4(x)
        return self.final(x)


class FusedHead(nn.Module):
    """The doublings of `DeconvHead`, to which the backbone's features of strides 8 and 4 are added.

    Each summand has its own batch norm, as where HRNet fuses its branches. SqueezeNet was published without norms, and
    with its ImageNet weights the finer features would otherwise start a hundred times as large as the doubled ones. The
    scale of the finer features' norm starts at 0, so the head starts as a `DeconvHead`. Finer features lie between the
    pixels of the doubled ones; the mean of four moves them onto the same grid.
    """

    def __init__(self, channels: Taps[int], joints: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.double16, self.norm16 = _doubling(channels.stride16, 128), nn.BatchNorm2d(128)
        self.lateral8 = _lateral(channels.stride8, 128)
        if stride <= 4:
            self.double8, self.norm8 = _doubling(128, 64), nn.BatchNorm2d(64)
            self.lateral4 = _lateral(channels.stride4, 64)
        if stride <= 2:
            self.double4, self.norm4 = _doubling(64, 64), nn.BatchNorm2d(64)
        self.final = _initialise_final(nn.Conv2d(WIDTHS[stride], joints, 1))

    def forward(self, features: Taps[Tensor]) -> Tensor:
        """Maps (B, K, H / stride, W / stride)."""
        x = self.norm16(self.double16(features.stride16))
        x = (x + self.lateral8(_crop_around(features.stride8, x, 0))).relu()
        if self.stride <= 4:
            x = self.norm8(self.double8(x))
            x = (x + self.lateral4(_crop_around(features.stride4, x, 1))).relu()
        if self.stride <= 2:
            x = self.norm4(self.double4(x)).relu()
        return self.final(x)


def _lateral(inputs: int, outputs: int) -> nn.Module:
    """Finer features on the grid of the doubled ones; they start at 0."""
    norm = nn.BatchNorm2d(outputs)
    nn.init.zeros_(norm.weight)
    return nn.Sequential(Interpolation(inputs, 0.5), nn.Conv2d(inputs, outputs, 1, bias=False), norm)


HEADS: Final[dict[str, Callable[[Taps[int], int, int], nn.Module]]] = {
    "fused": FusedHead,
    "pyramid": PyramidHead,
    "deconv": DeconvHead,
    "interp": InterpHead,
}
"""Heads by the names that recipes use. A head is called with channels of the features, joints K and stride."""
