"""Moving features onto another grid: a part of them, or values between them.

Both could be written with slices and `nn.AvgPool2d`. On a CPU their gradients are slow, and a slice's gradient forgets
that features lie channels last, which slows down every operation behind it.
"""

import torch
from torch import Tensor, nn


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
