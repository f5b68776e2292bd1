"""Batch norm over the whole batch, for batches that several processes share.

If each process used the statistics of its own part, the result of a recipe would depend on the number of processes.
torch's ``SyncBatchNorm`` works on GPUs only; `GlobalBatchNorm2d` works on CPUs.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def share_statistics(model: nn.Module, device: torch.device) -> None:
    """Replace every `nn.BatchNorm2d` in a model by one over the samples of all ranks; parameters and names stay.

    Subclasses, which may do more than normalise, are not replaced: they use the samples of their own rank.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                synced = nn.SyncBatchNorm.convert_sync_batchnorm if device.type == "cuda" else GlobalBatchNorm2d.like
                setattr(module, name, synced(child))


def has_equal_buffers(model: nn.Module) -> bool:
    """Whether ranks that start with equal buffers need not exchange them at every step.

    Batch norms do not read their statistics in training, and those that `share_statistics` replaced have the same ones
    on all ranks. Whole numbers count batches or are constants. Other floating-point buffers may change with the samples
    of a rank, and a network may read them in training.
    """
    of_norms = {
        id(buffer)
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for buffer in module.buffers(recurse=False)
    }
    return all(id(buffer) in of_norms or not buffer.is_floating_point() for buffer in model.buffers())


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the samples of all ranks, whose numbers of samples may differ."""

    @classmethod
    def like(cls, norm: nn.BatchNorm2d) -> "GlobalBatchNorm2d":
        """Build a norm that shares the parameters and buffers of another norm."""
        made = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        made._parameters, made._buffers = norm._parameters, norm._buffers
        return made.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise features (B, C, H, W)."""
        if not self.training:
            return super().forward(x)
        wide = x.float()
        count = _SumOverRanks.apply(wide.new_full((1,), wide.numel() / wide.shape[1]))
        mean = _SumOverRanks.apply(wide.sum((0, 2, 3))) / count
        centred = wide - mean[:, None, None]
        variance = _SumOverRanks.apply(centred.square().sum((0, 2, 3))) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None  # noqa: S101, PT018 - as torch makes it
        momentum = 0.1 if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1


class _SumOverRanks(torch.autograd.Function):
    """A sum over ranks that every rank uses: its gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(_: Any, part: Tensor) -> Tensor:
        whole = part.clone()
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        whole = gradient.clone()
        dist.all_reduce(whole)
        return whole
