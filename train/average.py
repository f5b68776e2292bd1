"""A moving average of a student's weights, which is evaluated in its place."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of weights and of batch norm's statistics; ``update_parameters`` moves it.

    The decay is approached as (1 + n) / (10 + n), as TensorFlow's ``ExponentialMovingAverage`` does: a run of few steps
    is not held back by its random start.
    """

    @torch.no_grad()
    def move(
        average: tuple[Tensor, ...] | list[Tensor], current: tuple[Tensor, ...] | list[Tensor], done: Tensor | int
    ) -> None:
        n = float(done)
        share = 1 - min(decay, (1 + n) / (10 + n))
        if average[0].is_floating_point():
            torch._foreach_lerp_(average, current, share)
        else:  # counts of batches
            for mine, theirs in zip(average, current, strict=True):
                mine.copy_(theirs)

    return AveragedModel(model, multi_avg_fn=move, use_buffers=True)
