"""Heads: from a backbone's features to one map a joint.

Every head doubles the resolution of the features of stride 16 until it has that of its maps (`train.stride`): once for
stride 8, twice for 4, three times for 2.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Final, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


WIDTHS: Final = {8: 128, 4: 64, 2: 64}
"""Channels behind the doubling to each stride."""


class Taps(NamedTuple, Generic[T]):
    """Something of the features at each stride, finest first."""

    stride4: T
    stride8: T
    stride16: T


def _initialised(final: nn.Conv2d) -> nn.Conv2d:
    """A last convolution that starts with almost uniform maps, as Simple Baselines' does."""
    nn.init.normal_(final.weight, std=0.001)
    nn.init.zeros_(final.bias)  # type: ignore[arg-type]
    return final


def _norm_relu(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]


def _doubling(inputs: int, outputs: int) -> nn.Module:
    """Twice the resolution with a learnt 4x4 kernel: pixel u comes to lie at 2 u + 1/2."""
    return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False)


def _around(finer: Tensor, doubled: Tensor, first: int) -> Tensor:
    """Of finer features those that lie around the pixels of the doubled ones: from ``first`` on, one more each way."""
    rows, columns = doubled.shape[-2:]
    return crop(finer, first, rows + 1, columns + 1)


class InterpHead(nn.Module):
    """The teaching notebook's head: bilinear upsampling and one 3x3 convolution."""

    def __init__(self, channels: Taps[int], joints: int, stride: int) -> None:
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=16 // stride, mode="bilinear")
        self.final = _initialised(nn.Conv2d(channels.stride16, joints, 3, padding=1))

    def forward(self, features: Taps[Tensor]) -> Tensor:
        """(B, K, H / stride, W / stride)."""
        return self.final(self.upsample(features.stride16))


class DeconvHead(nn.Module):
    """A light head of Simple Baselines (Xiao et al. 2018, arXiv 1804.06208): learnt doublings, a 1x1 kernel."""

    def __init__(self, channels: Taps[int], joints: int, stride: int) -> None:
        super().__init__()
        widths = [channels.stride16, *(width for fine, width in WIDTHS.items() if fine >= stride)]
        doublings: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            doublings += [_doubling(inputs, outputs), *_norm_relu(outputs)]
        self.layers = nn.Sequential(*doublings, _initialised(nn.Conv2d(widths[-1], joints, 1)))

    def forward(self, features: Taps[Tensor]) -> Tensor:
        """(B, K, H / stride, W / stride)."""
        return self.layers(features.stride16)


class PyramidHead(nn.Module):
    """Doublings that take in the finer features on their way, as in feature pyramids (Lin et al., arXiv 1612.03144).

    There are such features for strides 8 and 4; a doubling to stride 2 stands alone. They lie between the pixels of the
    doubled coarse ones; a 2x2 kernel without padding brings them onto the same grid.
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
        self.final = _initialised(nn.Conv2d(WIDTHS[stride], joints, 1))

    def forward(self, features: Taps[Tensor]) -> Tensor:
        """(B, K, H / stride, W / stride)."""
        x = self.double16(self.narrow(features.stride16))
        x = self.merge8(x + self.lateral8(_around(features.stride8, x, 0)))
        if self.stride <= 4:
            x = self.double8(x)
            x = self.merge4(x + self.lateral4(_around(features.stride4, x, 1)))
        if self.stride <= 2:
            x = self.double4(x)
        return self.final(x)


class FusedHead(nn.Module):
    """The doublings of `DeconvHead`, to which the features of their resolution are added at strides 8 and 4.

    Each side of a sum has a batch norm of its own, as where HRNet fuses its branches: SqueezeNet as published has none,
    and from ImageNet weights a fine side would start a hundred times as large as the coarse one and drown it. The fine
    side's norm starts at zero, so the head begins as a `DeconvHead`. Finer features lie between the pixels of the
    doubled ones; the mean of four brings them onto the grid.
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
        self.final = _initialised(nn.Conv2d(WIDTHS[stride], joints, 1))

    def forward(self, features: Taps[Tensor]) -> Tensor:
        """(B, K, H / stride, W / stride)."""
        x = self.norm16(self.double16(features.stride16))
        x = (x + self.lateral8(_around(features.stride8, x, 0))).relu()
        if self.stride <= 4:
            x = self.norm8(self.double8(x))
            x = (x + self.lateral4(_around(features.stride4, x, 1))).relu()
        if self.stride <= 2:
            x = self.norm4(self.double4(x)).relu()
        return self.final(x)


def _lateral(inputs: int, outputs: int) -> nn.Module:
    norm = nn.BatchNorm2d(outputs)
    nn.init.zeros_(norm.weight)
    return nn.Sequential(Between(inputs, 0.5), nn.Conv2d(inputs, outputs, 1, bias=False), norm)


HEADS: Final[dict[str, Callable[[Taps[int], int, int], nn.Module]]] = {
    "fused": FusedHead,
    "pyramid": PyramidHead,
    "deconv": DeconvHead,
    "interp": InterpHead,
}
"""Heads by the name that recipes use; each takes the features' channels, the number of joints, and its maps' stride."""


def crop(x: Tensor, first: int, rows: int, columns: int) -> Tensor:
    """Features ``first``, ``first + 1``, ... of both axes: (B, C, H, W) to (B, C, rows, columns).

    Raises:
        ValueError: If there are fewer.
    """
    right, below = x.shape[-1] - first - columns, x.shape[-2] - first - rows
    if right < 0 or below < 0:
        raise ValueError(f"{rows}x{columns} features from {first} on, of {x.shape[-2]}x{x.shape[-1]}")
    return nn.functional.pad(x, (-first, -right, -first, -below)) if first or right or below else x


class Between(nn.Module):
    """Features a fraction of a step further on both axes, interpolated linearly: (B, C, H, W) to (B, C, H - 1, W - 1).

    Args:
        channels: C.
        fraction: In [0, 1]; one half gives the mean of four neighbours.
    """

    kernel: Tensor

    def __init__(self, channels: int, fraction: float) -> None:
        super().__init__()
        shares = torch.tensor([1 - fraction, fraction])
        kernel = torch.outer(shares, shares).expand(channels, 1, 2, 2).contiguous()
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return nn.functional.conv2d(x, self.kernel, groups=len(self.kernel))
