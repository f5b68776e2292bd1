"""Distilled against baseline: which is compared with which, and by how much."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdlib.metrics.keypoints import PCK_THRESHOLDS, normalised_distances
from kdlib.readout import DECODER
from train.evaluate import match
from train.show.report.evidence import Evidence, Subject, Trained
from train.show.report.markup import fixed, has_value

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


DRAWS = 1000


def intervals(store: Any, pairs: Sequence[Pair]) -> list[dict[str, tuple[float, float]]]:
    """For each pair, 95 % intervals of the differences in AP, AP50, AP75 and PCK, by a paired bootstrap over pictures.

    Pictures are drawn, not persons or joints: what is in one picture succeeds and fails together (Efron & Tibshirani
    1993, ch. 13).

    Returns:
        The lowest and the highest difference by metric, distilled minus baseline in points; NaN without labels.
        Draws without a label say nothing and are left out.
    """
    subjects = {id(subject): subject for pair in pairs for subject in (pair.distilled, pair.baseline)}
    drawn = {key: _drawn(store, subject) for key, subject in subjects.items()}
    return [_ends(drawn[id(pair.distilled)], drawn[id(pair.baseline)]) for pair in pairs]


def _ends(
    ours: dict[str, NDArray[np.float64]], theirs: dict[str, NDArray[np.float64]]
) -> dict[str, tuple[float, float]]:
    ends = {}
    for name, values in ours.items():
        known = (values - theirs[name])[~np.isnan(values)]
        low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
        ends[name] = float(low), float(high)
    return ends


def _drawn(store: Any, subject: Subject) -> dict[str, NDArray[np.float64]]:
    """Metrics of a network on `DRAWS` draws of the pictures, (DRAWS,) each; the draws are everybody's."""
    matches = match(store, subject.predictions)
    pictures = len(matches.image_ids)
    rng = np.random.default_rng(0)
    draws = np.stack([np.bincount(rng.integers(pictures, size=pictures), minlength=pictures) for _ in range(DRAWS)])
    precisions = np.stack([matches.average_precision(counts) for counts in draws])
    values = {"ap": precisions.mean(axis=1), "ap50": precisions[:, 0], "ap75": precisions[:, 5]}
    picture = np.searchsorted(matches.image_ids, store.instances["image_id"][subject.predictions.rows])
    for threshold in PCK_THRESHOLDS:
        hits, labelled = joint_hits(store, subject, threshold)
        right, of = (np.bincount(picture, joints.sum(axis=1), pictures) for joints in (hits, labelled))
        with np.errstate(invalid="ignore"):
            values[f"pck@{threshold}"] = 100 * (draws @ right) / (draws @ of)
    return values


TOLERANCE = 0.05
"""Points by which two measurements of the same thing may differ: half a digit of what the page shows."""


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
    decoder = student.reported.get("decoder", "argmax")  # of runs before 0015
    if decoder != DECODER:
        text = f"AP {fixed(stored, 2)} in metrics.json was read with {decoder}, {fixed(now, 2)} now with {DECODER}."
        return Check(False, f"{student.name}: {text}")
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
