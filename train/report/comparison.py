"""Distilled against baseline: which is compared with which, by how much, and how sure that is."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdlib.metrics import normalised_distances
from train.report.evidence import Subject, Trained

TEACHER_KNOBS = {"gt_weight", "kd_weight", "kd_schedule", "temperature", "logits", "joints", "views"}
"""Recipe entries that only mean something, or may differ fairly, when there is a teacher."""
DRAWS = 1000


@dataclasses.dataclass(frozen=True)
class Pair:
    """A distilled student and the baseline it is compared with."""

    distilled: Trained
    baseline: Trained

    @property
    def unequal(self) -> list[str]:
        """Recipe entries in which they differ, the teacher's own apart."""
        ours, theirs = self.distilled.config["recipe"], self.baseline.config["recipe"]
        names = [*ours, *(name for name in theirs if name not in ours)]
        return [name for name in names if name not in TEACHER_KNOBS and ours.get(name) != theirs.get(name)]

    def difference(self, metric: str) -> float:
        """Distilled minus baseline, in points."""
        return float(self.distilled.metrics[metric] - self.baseline.metrics[metric])


def pairs(students: list[Trained]) -> list[Pair]:
    """Each distilled student with the baseline whose recipe is most like its own."""
    baselines = [student for student in students if not student.distilled]
    distilled = [student for student in students if student.distilled]
    return [Pair(d, max(baselines, key=lambda b: _equal_entries(d, b))) for d in distilled if baselines]


def _equal_entries(one: Trained, other: Trained) -> int:
    recipe = other.config["recipe"]
    return sum(recipe.get(name) == value for name, value in one.config["recipe"].items())


def joint_hits(store: Any, subject: Subject, threshold: float = 0.05) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which joints were predicted within the PCK threshold, and which are labelled; both (N, K)."""
    columns, rows = store.instances, subject.predictions.rows
    distances = normalised_distances(subject.predictions.points, columns["keypoints"][rows], columns["bbox"][rows])
    labelled = ~np.isnan(distances)
    return np.where(labelled, distances, np.inf) <= threshold, labelled


def pck_interval(store: Any, pair: Pair, threshold: float = 0.05) -> tuple[float, float]:
    """95 % interval of the difference in PCK by a paired bootstrap over persons; NaN where nothing is labelled.

    Persons are drawn, not joints: the joints of one person succeed and fail together (Efron & Tibshirani 1993, ch. 13).
    """
    ours, labelled = joint_hits(store, pair.distilled, threshold)
    theirs, _ = joint_hits(store, pair.baseline, threshold)
    gains, counts = ours.sum(axis=1) - theirs.sum(axis=1), labelled.sum(axis=1)
    if not counts.any():
        return float("nan"), float("nan")
    rng, persons = np.random.default_rng(0), len(counts)
    draws = (rng.integers(persons, size=persons) for _ in range(DRAWS))
    shares = [100 * gains[draw].sum() / max(counts[draw].sum(), 1) for draw in draws]
    low, high = np.percentile(shares, [2.5, 97.5])
    return float(low), float(high)
