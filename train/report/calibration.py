"""May a network's confidence be believed? The height of a joint's peak against how often the joint is right.

A joint is right within PCK@0.05 of its label. Confidence is the peak's height, cut to [0, 1]. Reliability and the
expected calibration error follow Guo et al., ICML 2017 (arXiv 1706.04599).
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

BINS = 10
FEWEST = 20
"""A bin with fewer joints is not shown: its share is noise."""


@dataclasses.dataclass(frozen=True)
class Bin:
    """Joints of about equal confidence."""

    confidence: float
    """Mean of its joints, in [0, 1]."""
    right: float
    """Share of its joints that are right, in [0, 1]."""
    count: int


def reliability(confidence: NDArray[np.floating], right: NDArray[np.bool_], bins: int = BINS) -> list[Bin]:
    """Joints in bins of equal width over [0, 1]; empty bins are left out.

    Args:
        confidence: (N,), cut to [0, 1].
        right: (N,).
        bins: How many.
    """
    confidence = np.clip(np.asarray(confidence, np.float64), 0, 1)
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    groups = [place == k for k in range(bins)]
    return [
        Bin(float(confidence[group].mean()), float(right[group].mean()), int(group.sum()))
        for group in groups
        if group.any()
    ]


def calibration_error(found: list[Bin]) -> float:
    """Mean distance between confidence and share of right joints, weighted by joints (ECE); NaN for no joints."""
    count = sum(b.count for b in found)
    return sum(b.count * abs(b.confidence - b.right) for b in found) / count if count else float("nan")


def ranking_quality(confidence: NDArray[np.floating], right: NDArray[np.bool_]) -> float:
    """Probability that a right joint has the higher confidence than a wrong one, ties counted half (AUROC).

    NaN where all joints are right or all are wrong.
    """
    wrongs, rights = np.sort(confidence[~right]), confidence[right]
    if not len(wrongs) or not len(rights):
        return float("nan")
    below = np.searchsorted(wrongs, rights, "left") + np.searchsorted(wrongs, rights, "right")
    return float(below.mean() / 2 / len(wrongs))
