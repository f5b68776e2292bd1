"""Losses between a student's maps and what it should say: spatial-softmax KL with temperature, and MSE.

The temperature and its square in front follow Hinton et al. 2015 (arXiv 1503.02531): softened gradients shrink with
1 / T^2, and the factor gives them back their size: the gradient by a student's logit is T times the difference of the
two softmaxes. Both sides are normalised over all pixels of a map.

Losses and gradients are finite for numbers up to 1e15 of either sign, constant maps and maps of one pixel included.
They are computed in float32, or in float64 where either side's maps are.
"""

import torch
from torch import Tensor

from kdlib.logits import at_least_single, log_softmax


def _weighted_mean(per_joint: Tensor, weight: Tensor) -> Tensor:
    """Mean of (B, K) values with (B, K) weights; 0 where all weights are 0."""
    weight = weight.to(per_joint.dtype)
    total = weight.sum()
    return (per_joint * weight).sum() / torch.where(total > 0, total, torch.ones_like(total))


def spatial_kl(student: Tensor, teacher: Tensor, weight: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) over the pixels, averaged over joints by weight.

    Args:
        student: (B, K, H, W) logits, finite.
        teacher: (B, K, H, W) logits; -inf means probability 0. A map that is -inf everywhere says nothing: its loss
            is 0, and its weight does not count.
        weight: (B, K), at least 0.
        temperature: Positive; 1 leaves the distributions as they are.

    Returns:
        Scalar in nats (times T^2), at least 0 up to rounding.
    """
    log_p = log_softmax(teacher, temperature).flatten(-2).detach()
    # A student's logits are finite: unlike the teacher's, none of its maps lacks support.
    log_q = (at_least_single(student).flatten(-2) / temperature).log_softmax(dim=-1)
    supported = ~torch.isneginf(log_p)
    divergence = (log_p.exp() * (torch.where(supported, log_p, 0.0) - log_q)).sum(dim=-1)
    return temperature**2 * _weighted_mean(divergence, weight * supported.any(dim=-1))


def heatmap_mse(student: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean squared difference of maps (B, K, H, W) over pixels, averaged over joints by weight (B, K); a scalar."""
    difference = at_least_single(student) - at_least_single(target)
    return _weighted_mean(difference.square().mean(dim=(-2, -1)), weight)
