"""Losses: spatial-softmax KL with temperature and MSE between heatmaps, and the logits that they compare.

HRNet regresses Gaussians of height 1 without an activation, so its map is not a logit: the softmax of a real one has
99.98 % of the entropy of a uniform one, at temperature 4 99.999 %. The transform ``log`` takes the logarithm, whose
softmax at temperature 1 is the map normalised to sum 1, the same normalisation as the ground-truth target's; values
below the floor are removed (probability 0 at every temperature), because a clamped background would dominate at T > 1.
``raw`` takes the map unchanged, as the first recipes do.

The temperature and the factor T^2 follow Hinton et al. 2015 (arXiv 1503.02531): softened gradients shrink with 1 / T^2,
and the factor restores their size: the gradient by a student's logit is T times the difference of the two softmaxes.
Both sides are normalised over all pixels of a map.

Losses and gradients are finite for numbers up to 1e15 of either sign, for constant maps, and for maps of one pixel.
They are computed in float32, or in float64 where either side's maps are float64.

`LOSSES` names the losses that a training run can choose; docs/extending.md adds one.
"""

import math
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

import torch
from torch import Tensor


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


def default_sigma(heatmap_rows: int) -> float:
    """HRNet's Gaussian for maps of that height: 2 for 64 rows, 3 for 96, 1 for 32; never below 1."""
    return max(1.0, heatmap_rows / 32)


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


class Target(NamedTuple):
    """The maps that a loss compares a student's with."""

    logits: Tensor
    """(B, K, H, W); -inf means probability 0."""
    heatmaps: Tensor
    """(B, K, H, W) the same maps as heatmaps, whose peaks are about 1."""
    weight: Tensor
    """(B, K), at least 0."""


class Loss(Protocol):
    """A loss, what the maps of a student trained with it mean, and how they are read."""

    meaning: str
    """One line about the heatmaps for the metadata of exported files; unique among the losses."""
    is_density: bool
    """Are the maps logits, whose softmax is a density over the pixels? Otherwise they are heatmaps themselves."""

    def term(self, maps: Tensor, target: Target, temperature: float) -> Tensor:
        """The loss of a student's maps (B, K, H, W), averaged over joints by weight; a scalar."""

    def heatmaps(self, maps: Tensor, sigma: float, temperature: float) -> Tensor:
        """A student's maps as heatmaps (B, K, H, W), on the scale where the Gaussian of a label peaks at 1."""


class SpatialKL:
    """`spatial_kl`: maps are logits, and the softmax over a map's pixels is the probability of the joint's place."""

    meaning = "density: softmax over the pixels of a map, times 2 pi sigma^2 temperature"
    is_density = True

    def term(self, maps: Tensor, target: Target, temperature: float) -> Tensor:
        """See `spatial_kl`."""
        return spatial_kl(maps, target.logits, target.weight, temperature)

    def heatmaps(self, maps: Tensor, sigma: float, temperature: float) -> Tensor:
        """See `density_heatmaps`."""
        return density_heatmaps(maps, sigma, temperature)


class HeatmapMSE:
    """`heatmap_mse`: maps are heatmaps, as HRNet is trained. The temperature does not apply."""

    meaning = "regressed: Gaussians of height 1, as HRNet puts them out"
    is_density = False

    def term(self, maps: Tensor, target: Target, temperature: float) -> Tensor:
        """See `heatmap_mse`."""
        return heatmap_mse(maps, target.heatmaps, target.weight)

    def heatmaps(self, maps: Tensor, sigma: float, temperature: float) -> Tensor:
        """The maps themselves, in float32."""
        return maps.float()


LOSSES: Final[dict[str, Loss]] = {"kl": SpatialKL(), "mse": HeatmapMSE()}
"""The losses by the name that ``--loss`` and checkpoints use."""
