"""Distilled against baseline: which is compared with which, and by how much."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdlib.metrics import normalised_distances
from train.report.evidence import Subject, Trained

TEACHER_KNOBS = {"gt_weight", "kd_weight", "kd_schedule", "temperature", "logits", "joints", "views"}
"""Recipe entries that only mean something, or may differ fairly, when there is a teacher."""


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
