"""Losses between heatmaps, and the logits that they compare.

HRNet is trained to regress Gaussians of height 1 without an activation, so its heatmap is not a logit: the softmax of a
real heatmap has 99.98 % of the entropy of a uniform distribution, and 99.999 % at temperature 4. The transform ``log``
takes the logarithm of the heatmap. The softmax of this logarithm at temperature 1 is the heatmap normalised to sum 1,
as for the labels' target. Values below the floor get probability 0 at every temperature, because at T > 1 a background
of small values would dominate. The transform ``raw`` takes the heatmap unchanged, as early recipes did.

Temperature and the factor T^2 follow Hinton et al. 2015 (arXiv 1503.02531): the gradients of softened distributions
shrink with 1 / T^2, and the factor restores their size. The gradient with respect to a student's logit is T times the
difference of the two softmaxes. Both distributions are over all pixels of a map.

Losses and gradients are finite for values up to 1e15 of either sign, for constant maps, and for maps of one pixel. They
are computed in float32, or in float64 if either input is float64.

`LOSSES` names the losses that a training run can choose; docs/extending.md shows how to add one.
"""

import functools
import math
from collections.abc import Callable
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

DEFAULT_FLOOR: Final = 0.003
"""Heatmap value below which a pixel counts as background."""
_SMALLEST_TOTAL: Final = 1e-20
"""Sum of weights below which a mean is 0, far below that of one joint that counts."""
_LOWEST: Final = -1e30
"""Stands for a logit of -inf: far below every logit, and finite."""


def at_least_float32(values: Tensor) -> Tensor:
    """The values in float32, or in float64 where they are float64: logarithms and sums over pixels need it."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def log_logits(maps: Tensor, floor: float = DEFAULT_FLOOR) -> Tensor:
    """Logarithm of a heatmap where it is at least the floor, -inf elsewhere.

    Args:
        maps: (..., H, W) heatmaps; values may be negative.
        floor: Smallest value that is kept; positive.

    Returns:
        Same shape; float32, or float64 where the maps are float64.
    """
    maps = at_least_float32(maps)
    return keep_from(maps, floor).log()


def keep_from(values: Tensor, floor: float) -> Tensor:
    """The float32 or float64 values that are at least a positive floor; 0 instead of the others."""
    as_compared = np.float64(floor) if values.dtype == torch.float64 else np.float32(floor)
    return torch.nn.functional.threshold(values, float(np.nextafter(as_compared, as_compared.dtype.type(0))), 0.0)


def raw_logits(maps: Tensor, floor: float = DEFAULT_FLOOR) -> Tensor:
    """The heatmap unchanged, as float32 or float64. The floor is ignored."""
    return at_least_float32(maps)


TRANSFORMS: Final[dict[str, Callable[[Tensor, float], Tensor]]] = {"log": log_logits, "raw": raw_logits}
"""Functions that make logits from heatmaps, by the names that manifests and commands use."""


def gaussian_logits(points: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """Logarithm of a Gaussian of height 1 around each point: the labels as logits, like a teacher's ``log`` logits.

    Args:
        points: (..., K, 2) x, y in heatmap pixels.
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
    """Sigma of HRNet's Gaussian for maps with that many rows: rows / 32, at least 1, in heatmap pixels."""
    return max(1.0, heatmap_rows / 32)


def log_softmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probabilities (..., H, W) over the pixels of each map; -inf everywhere for a map that is -inf everywhere."""
    flat = at_least_float32(logits).flatten(-2) / temperature
    empty = torch.isneginf(flat.amax(dim=-1, keepdim=True))
    safe = torch.where(empty, torch.zeros_like(flat), flat).log_softmax(dim=-1)
    return torch.where(empty, torch.full_like(safe, -math.inf), safe).view_as(logits)


def density_heatmaps(logits: Tensor, sigma: float, temperature: float = 1.0) -> Tensor:
    """Heatmaps from a student's logits: their softmax at a temperature, times 2 pi sigma^2 T.

    On this scale the Gaussian of a label peaks at 1 at every temperature. A sharper map peaks higher, at most at
    2 pi sigma^2 T with all probability in one pixel, and a broader map peaks lower.

    Args:
        logits: (..., H, W), finite.
        sigma: Standard deviation of the labels' Gaussians in heatmap pixels.
        temperature: Positive.

    Returns:
        Same shape; float32, or float64 where the logits are float64.
    """
    density = (at_least_float32(logits).flatten(-2) / temperature).softmax(dim=-1).view_as(logits)
    return density * (2 * math.pi * sigma**2 * temperature)


def _weighted_mean(per_joint: Tensor, weight: Tensor) -> Tensor:
    """Mean of (B, K) values with (B, K) weights; 0 where all weights are 0."""
    weight = weight.to(per_joint.dtype)
    return (per_joint * weight).sum() / weight.sum().clamp_min(_SMALLEST_TOTAL)


def spatial_kl(student: Tensor, teacher: Tensor, weight: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) over the pixels of a map, averaged over joints by weight.

    Args:
        student: (B, K, H, W) logits, finite.
        teacher: (B, K, H, W) logits; -inf means probability 0. A map that is -inf everywhere is ignored.
        weight: (B, K), at least 0.
        temperature: Positive; 1 leaves the distributions unchanged.

    Returns:
        Scalar in nats (times T^2), at least 0 up to rounding; 0 if no map has weight.
    """
    # A GPU starts every operation separately, so these are few. The probability of _LOWEST is exactly 0, and so is its
    # product with a finite number, where that with -inf would be NaN.
    scaled = (at_least_float32(teacher.detach()).flatten(-2) / temperature).clamp_min(_LOWEST)
    log_p = scaled.log_softmax(dim=-1)
    log_q = (at_least_float32(student).flatten(-2) / temperature).log_softmax(dim=-1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(dim=-1)
    return temperature**2 * _weighted_mean(divergence, weight * (scaled.amax(dim=-1) > _LOWEST))


def heatmap_mse(student: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean squared difference of heatmaps over pixels, averaged over joints by weight.

    Args:
        student: (B, K, H, W).
        target: (B, K, H, W).
        weight: (B, K), at least 0.

    Returns:
        Scalar; 0 where all weights are 0.
    """
    difference = at_least_float32(student) - at_least_float32(target)
    return _weighted_mean(difference.square().mean(dim=(-2, -1)), weight)


class Target:
    """The maps that a loss compares a student's maps with. Each form of them is computed when a loss first uses it.

    Args:
        logits: (B, K, H, W); -inf means probability 0.
        heatmaps: (B, K, H, W) the same maps as heatmaps, whose peaks are about 1.
        weight: (B, K), at least 0.
    """

    def __init__(
        self, logits: Tensor | Callable[[], Tensor], heatmaps: Tensor | Callable[[], Tensor], weight: Tensor
    ) -> None:
        self._logits, self._heatmaps, self.weight = logits, heatmaps, weight

    @functools.cached_property
    def logits(self) -> Tensor:
        """(B, K, H, W); -inf means probability 0."""
        return self._logits() if callable(self._logits) else self._logits

    @functools.cached_property
    def heatmaps(self) -> Tensor:
        """(B, K, H, W) the same maps as heatmaps, whose peaks are about 1."""
        return self._heatmaps() if callable(self._heatmaps) else self._heatmaps


class Loss(Protocol):
    """A loss, and how the maps of a student that is trained with it are read."""

    meaning: str
    """One line about the maps for the metadata of exported files; unique among the losses."""
    is_density: bool
    """Whether the maps are logits, whose softmax over the pixels is a density; otherwise they are heatmaps."""

    def term(self, maps: Tensor, target: Target, temperature: float) -> Tensor:
        """The loss of a student's maps (B, K, H, W), averaged over joints by weight; a scalar."""

    def heatmaps(self, maps: Tensor, sigma: float, temperature: float) -> Tensor:
        """A student's maps as heatmaps (B, K, H, W), on the scale where the Gaussian of a label peaks at 1."""


class SpatialKL:
    """`spatial_kl`. The maps are logits: their softmax over the pixels is the probability of the joint's position."""

    meaning = "density: softmax over the pixels of a map, times 2 pi sigma^2 temperature"
    is_density = True

    def term(self, maps: Tensor, target: Target, temperature: float) -> Tensor:
        """`spatial_kl` of the maps and the target's logits."""
        return spatial_kl(maps, target.logits, target.weight, temperature)

    def heatmaps(self, maps: Tensor, sigma: float, temperature: float) -> Tensor:
        """`density_heatmaps` of the maps."""
        return density_heatmaps(maps, sigma, temperature)


class HeatmapMSE:
    """`heatmap_mse`. The maps are heatmaps, as HRNet's are; the temperature is ignored."""

    meaning = "regressed: Gaussians of height 1, as HRNet puts them out"
    is_density = False

    def term(self, maps: Tensor, target: Target, temperature: float) -> Tensor:
        """`heatmap_mse` of the maps and the target's heatmaps."""
        return heatmap_mse(maps, target.heatmaps, target.weight)

    def heatmaps(self, maps: Tensor, sigma: float, temperature: float) -> Tensor:
        """The maps unchanged, in float32."""
        return maps.float()


LOSSES: Final[dict[str, Loss]] = {"kl": SpatialKL(), "mse": HeatmapMSE()}
"""The losses by the names that ``--loss`` and checkpoints use."""
