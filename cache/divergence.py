"""How far the maps of two stores lie apart, and how much of it their codecs explain.

With small errors KL is half a squared distance, so that square roots of divergences add like distances: maps that were
the same before two codecs changed them by a and b nats lie at most (sqrt(a) + sqrt(b))^2 apart.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.codec import ERROR_KINDS, divergences
from cache.store import Store

HIGHER_ORDERS = 1.05  # what KL is not, half a squared distance
ROUNDING = 1e-9  # nats of float32 arithmetic


class MapTally:
    """Adds up how far maps lie apart; the reference is the store whose codec states the smaller error."""

    def __init__(self, a: Store, b: Store) -> None:
        self.reference, self.other = sorted((a, b), key=lambda s: s.manifest["codec_error"]["log_t1"]["mean"])
        self.changed = 0  # instances
        self.largest = self.total = 0.0  # of |difference|
        self._sum, self._worst = np.zeros(len(ERROR_KINDS)), np.zeros(len(ERROR_KINDS))
        unchanged = int((a.written & b.written).sum()) * a.spec.views * a.spec.joints
        self._maps = np.full(len(ERROR_KINDS), unchanged)  # until `add` knows better

    def add(self, found: tuple[float, float, npt.NDArray[np.float64]]) -> None:
        """Add what `measure` found of one instance."""
        largest, mean, divergence = found
        self.changed += largest > 0
        self.largest = max(self.largest, largest)
        self.total += mean
        known = np.nan_to_num(divergence, nan=0, posinf=np.inf).reshape(-1, len(ERROR_KINDS))
        self._maps -= np.isnan(divergence).sum(axis=(0, 1))
        self._sum += known.sum(axis=0)
        self._worst = np.maximum(self._worst, known.max(axis=0))

    def measure(self, index: int) -> tuple[float, float, npt.NDArray[np.float64]]:
        """Largest and mean |difference| of an instance's maps, and their divergences (V, K, kinds)."""
        exact, other = (store.heatmaps([index])[0] for store in (self.reference, self.other))
        gap = np.abs(exact - other)
        floor = max(self.reference.codec.floor, self.other.codec.floor)
        return float(gap.max()), float(gap.mean()), divergences(exact, other, floor)

    def divergence(self) -> dict[str, dict[str, float]]:
        """Mean and worst of each kind over all written maps, in nats; inf: the maps vanish at different pixels."""
        means = (self._sum / np.maximum(1, self._maps)).tolist()
        return {
            kind: {"mean": mean, "worst": float(worst)}
            for kind, mean, worst in zip(ERROR_KINDS, means, self._worst, strict=True)
        }

    def explained(self) -> dict[str, dict[str, float]]:
        """The most that the codecs explain of each entry of `divergence`."""
        return {kind: {entry: self._together(kind, entry) for entry in ("mean", "worst")} for kind in ERROR_KINDS}

    def _together(self, kind: str, entry: str) -> float:
        errors = (store.manifest["codec_error"][kind][entry] for store in (self.reference, self.other))
        return sum(math.sqrt(max(0.0, error)) for error in errors) ** 2

    def is_explained(self) -> bool:
        """Is every divergence one that the codecs' errors explain?"""
        explained = self.explained()
        return self.reference.codec.floor == self.other.codec.floor and all(
            found[entry] <= HIGHER_ORDERS * explained[kind][entry] + ROUNDING
            for kind, found in self.divergence().items()
            for entry in found
        )


def as_json(divergence: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The same with null for what is infinite."""
    return {
        kind: {entry: value if math.isfinite(value) else None for entry, value in entries.items()}
        for kind, entries in divergence.items()
    }
