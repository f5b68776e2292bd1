"""What turns a regressed heatmap into logits, and logits into probabilities, with torch.

HRNet regresses Gaussians of height 1 without an activation, so its map is not a logit: the softmax of a real one has
99.98 % of the entropy of a uniform one, at temperature 4 99.999 %. ``log`` takes the logarithm, whose softmax at
temperature 1 is the map normalised to sum 1, the very normalisation of the ground-truth target; what lies below the
floor is removed (probability 0 at every temperature), because a clamped background would take over at T > 1. ``raw``
takes the map as it is, as the first recipes do.
"""

import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

DEFAULT_FLOOR: Final = 0.003
"""Heatmap value below which a pixel is taken for background."""


def at_least_single(numbers: Tensor) -> Tensor:
    """In float32, or in float64 if that is what they are in: what logarithms and sums over pixels need."""
    return numbers.to(torch.promote_types(numbers.dtype, torch.float32))


def log_logits(maps: Tensor, floor: float = DEFAULT_FLOOR) -> Tensor:
    """Logarithm of the map where it reaches the floor, -inf elsewhere.

    Args:
        maps: (..., H, W) heatmaps of any sign.
        floor: Smallest value that is kept; positive.

    Returns:
        Same shape; float32, or float64 where the maps are.
    """
    maps = at_least_single(maps)
    return torch.where(maps >= floor, maps.clamp_min(floor).log(), -math.inf)


def raw_logits(maps: Tensor, floor: float = DEFAULT_FLOOR) -> Tensor:
    """The map itself, as float32 or float64; the floor does not apply."""
    return at_least_single(maps)


TRANSFORMS: Final[dict[str, Callable[[Tensor, float], Tensor]]] = {"log": log_logits, "raw": raw_logits}
"""Logit transforms by the name that manifests and commands use."""


def gaussian_logits(points: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """Log of a Gaussian around each point: the ground truth in the same form as a teacher's ``log`` logits.

    Args:
        points: (..., K, 2) heatmap pixels.
        size: Width and height of the maps.
        sigma: Standard deviation in heatmap pixels.

    Returns:
        (..., K, H, W) float32, at most 0.
    """
    points = points.float()
    columns = torch.arange(size[0], device=points.device, dtype=torch.float32) - points[..., 0:1]
    rows = torch.arange(size[1], device=points.device, dtype=torch.float32) - points[..., 1:2]
    return (rows.square()[..., :, None] + columns.square()[..., None, :]) * (-0.5 / sigma**2)


def log_softmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probabilities over the pixels of each map, (..., H, W); all -inf where a map has no support."""
    flat = at_least_single(logits).flatten(-2) / temperature
    empty = torch.isneginf(flat.amax(dim=-1, keepdim=True))
    safe = torch.where(empty, torch.zeros_like(flat), flat).log_softmax(dim=-1)
    return torch.where(empty, torch.full_like(safe, -math.inf), safe).view_as(logits)


def density_heatmaps(logits: Tensor, sigma: float, temperature: float = 1.0) -> Tensor:
    """Heatmaps from a student's logits, finite ones: softmax at a temperature times 2 pi sigma^2 T.

    A map that is the label's Gaussian peaks at 1 at every temperature, a sharper one higher (at most 2 pi sigma^2 T,
    all in one pixel), a broader one lower.
    """
    density = (at_least_single(logits).flatten(-2) / temperature).softmax(dim=-1).view_as(logits)
    return density * (2 * math.pi * sigma**2 * temperature)
