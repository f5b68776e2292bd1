"""The cost of a network independent of any machine: parameters and multiply-adds."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def parameter_count(model: nn.Module) -> int:
    """Number of values in all parameters."""
    return sum(p.numel() for p in model.parameters())


def multiply_adds(model: nn.Module, input_size: tuple[int, int]) -> int:
    """Multiply-adds for one image of that (width, height): half of torch's FLOPs, without elementwise operators."""
    device = next(model.parameters()).device
    image = torch.zeros(1, 3, input_size[1], input_size[0], device=device)
    training = model.training
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model.eval()(image)
    model.train(training)
    return counter.get_total_flops() // 2
