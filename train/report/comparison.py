"""Distilled against baseline, and the checks that say whether the comparison holds."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdlib.metrics import normalised_distances
from train.report.evidence import Evidence, Subject, Trained
from train.report.numbers import fixed, has_value

TEACHER_KNOBS = {"gt_weight", "kd_weight", "temperature", "logits", "joints", "views"}
"""Recipe entries that only mean something, or may differ fairly, when there is a teacher."""
DRAWS = 1000
TOLERANCE = 0.05
"""Points by which two measurements of the same thing may differ: half a digit of what the page shows."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """A distilled student and the baseline it is compared with."""

    distilled: Trained
    baseline: Trained

    @property
    def unequal(self) -> list[str]:
        """Recipe entries in which they differ, the teacher's own apart."""
        ours, theirs = self.distilled.config["recipe"], self.baseline.config["recipe"]
        return [name for name in ours if name not in TEACHER_KNOBS and ours[name] != theirs.get(name)]

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


@dataclasses.dataclass(frozen=True)
class Check:
    """Something that was tried while the page was written."""

    passed: bool
    text: str


def checks(evidence: Evidence) -> list[Check]:
    """Everything that can be verified from the store and the runs alone."""
    found = [_check_complete(evidence.store), _check_teacher(evidence)]
    found += [_check_reported(evidence.store, student) for student in evidence.students]
    return found + [_check_fair(pair) for pair in pairs(evidence.students)]


def _check_complete(store: Any) -> Check:
    written = int(np.count_nonzero(store.written))
    state = "complete" if store.complete else "not complete"
    text = f"The store is {state}: {written:,} of {len(store):,} instances, every record read against its checksum."
    return Check(store.complete, text)


def _check_teacher(evidence: Evidence) -> Check:
    stored, now = (evidence.store.manifest["teacher_metrics"] or {}).get("ap"), evidence.teacher.metrics["ap"]
    if not has_value(stored):
        return Check(not has_value(now), "The manifest gives no AP of the teacher to compare with.")
    agree = has_value(now) and abs(stored - now) < TOLERANCE
    verdict = "they agree" if agree else "they do not agree"
    return Check(
        agree,
        f"Teacher's AP: {fixed(stored, 2)} in the manifest, {fixed(now, 2)} decoded from the maps now; {verdict}.",
    )


def _check_reported(store: Any, student: Trained) -> Check:
    if not student.reported:
        return Check(False, f"{student.name}: the run is not finished (no metrics.json); this is its best so far.")
    if student.config["val_store"]["content_sha256"] != store.manifest["content_sha256"]:
        other = student.config["val_store"]["name"]
        return Check(False, f"{student.name}: the run was validated on another store, {other}; measured here anew.")
    stored, now = student.reported.get("ap"), student.metrics["ap"]
    agree = not has_value(now) or (has_value(stored) and abs(now - stored) < TOLERANCE)
    verdict = "they agree" if agree else "they do not agree"
    return Check(
        agree,
        f"{student.name}: AP {fixed(stored, 2)} in its metrics.json, {fixed(now, 2)} from best.pt now; {verdict}.",
    )


def _check_fair(pair: Pair) -> Check:
    names = f"{pair.distilled.name} and {pair.baseline.name}"
    same = pair.distilled.config["store"]["content_sha256"] == pair.baseline.config["store"]["content_sha256"]
    unequal = pair.unequal + ([] if same else ["store"])
    if unequal:
        return Check(False, f"{names} differ in more than the teacher: {', '.join(unequal)}.")
    return Check(True, f"{names}: same store, student, schedule and seed; they differ in the teacher alone.")
