"""Compares students: pairs of distilled student and baseline, confidence intervals, and checks of the numbers."""

import dataclasses
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cache import Store
from kdcli.files import file_sha256
from kdlib.metrics.keypoints import PCK_THRESHOLDS, normalised_distances
from kdlib.readout import DECODER
from train.errors import TrainError
from train.evaluate import match
from train.show.report.evidence import Evidence, Subject, Trained
from train.show.report.markup import fixed, has_value
from train.stores import training

TEACHER_SETTINGS: Final = {"gt_weight", "kd_weight", "kd_schedule", "temperature", "logits", "joints", "views"}
"""Settings that matter for distilled students only, or may differ from the baseline's in a fair comparison."""
DRAWS: Final = 1000
"""Number of bootstrap samples."""
NUMBERS: Final = "pose-report"
"""Name of the element of the page that holds its `numbers`."""
TOLERANCE: Final = 0.05
"""Largest accepted difference of two measurements of the same value, in points: half of the last digit on the page."""


# --- pairs ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Pair:
    """A distilled student and the baseline that it is compared with."""

    distilled: Trained
    baseline: Trained

    @property
    def unequal(self) -> list[str]:
        """Settings in which the two differ, apart from the teacher's."""
        ours, theirs = self.distilled.config["recipe"], self.baseline.config["recipe"]
        names = [*ours, *(name for name in theirs if name not in ours)]
        return [name for name in names if name not in TEACHER_SETTINGS and ours.get(name) != theirs.get(name)]

    @property
    def steps(self) -> int | None:
        """The steps of both students; None if they are not equal or not known."""
        found = {student.sources.steps if student.sources else None for student in (self.distilled, self.baseline)}
        return found.pop() if len(found) == 1 else None

    def difference(self, metric: str) -> float:
        """Distilled minus baseline, in percentage points."""
        return float(self.distilled.metrics[metric] - self.baseline.metrics[metric])


def pairs(students: list[Trained]) -> list[Pair]:
    """Pair each distilled student with the baseline whose recipe is most similar."""
    baselines = [student for student in students if not student.distilled]
    distilled = [student for student in students if student.distilled]
    return [Pair(d, max(baselines, key=lambda b: _equal_entries(d, b))) for d in distilled if baselines]


def _equal_entries(one: Trained, other: Trained) -> int:
    recipe = other.config["recipe"]
    return sum(recipe.get(name) == value for name, value in one.config["recipe"].items())


def joint_hits(store: Store, subject: Subject, threshold: float = 0.05) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Find the joints that were predicted within the PCK threshold, and those that are labelled; both (N, K)."""
    columns, rows = store.instances, subject.predictions.rows
    distances = normalised_distances(subject.predictions.points, columns["keypoints"][rows], columns["bbox"][rows])
    labelled = ~np.isnan(distances)
    return np.where(labelled, distances, np.inf) <= threshold, labelled


# --- confidence intervals ---------------------------------------------------------------------------------------------


Intervals = dict[str, tuple[float, float]]
"""The ends of an interval, in percentage points, by metric."""


def intervals(store: Store, pairs: Sequence[Pair]) -> list[Intervals]:
    """Compute 95 % intervals of each pair's differences in AP, AP50, AP75 and PCK, by a paired bootstrap over images.

    Images are drawn, not persons or joints, because errors within one image are correlated (Efron & Tibshirani 1993,
    ch. 13).

    Returns:
        For each pair, the ends of the interval by metric: distilled minus baseline, in percentage points. Samples
        without labels are left out; NaN if no sample has labels.
    """
    subjects = {id(subject): subject for pair in pairs for subject in (pair.distilled, pair.baseline)}
    drawn = {key: _bootstrap(store, subject) for key, subject in subjects.items()}
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


def _bootstrap(store: Store, subject: Subject) -> dict[str, NDArray[np.float64]]:
    """Metrics of a network on `DRAWS` samples of the images, (DRAWS,) each; all networks get the same samples."""
    matches = match(store, subject.predictions)
    images = len(matches.image_ids)
    rng = np.random.default_rng(0)
    draws = np.stack([np.bincount(rng.integers(images, size=images), minlength=images) for _ in range(DRAWS)])
    precisions = np.stack([matches.average_precision(counts) for counts in draws])
    values = {"ap": precisions.mean(axis=1), "ap50": precisions[:, 0], "ap75": precisions[:, 5]}
    image = np.searchsorted(matches.image_ids, store.instances["image_id"][subject.predictions.rows])
    for threshold in PCK_THRESHOLDS:
        hits, labelled = joint_hits(store, subject, threshold)
        right, of = (np.bincount(image, joints.sum(axis=1), images) for joints in (hits, labelled))
        with np.errstate(invalid="ignore"):
            values[f"pck@{threshold}"] = 100 * (draws @ right) / (draws @ of)
    return values


# --- numbers for other programs ---------------------------------------------------------------------------------------


def numbers(evidence: Evidence, paired: Sequence[Pair], ends: Sequence[Intervals]) -> dict[str, Any]:
    """The page's numbers as JSON values, for `read_numbers`; a student is identified by the SHA-256 of its best.pt.

    Args:
        evidence: The measurements.
        paired: The pairs of `pairs`.
        ends: Their `intervals`.
    """
    keys = [file_sha256(student.folder / "best.pt") for student in evidence.students]
    places = {id(student): place for place, student in enumerate(evidence.students)}
    return {
        "store": evidence.store.manifest["content_sha256"],
        "teacher": evidence.teacher.metrics,
        "students": [
            {
                "checkpoint_sha256": key,
                "name": student.name,
                "learned_from": student.learned_from,
                "metrics": student.metrics,
            }
            for key, student in zip(keys, evidence.students, strict=True)
        ],
        "pairs": [
            {
                "distilled": places[id(pair.distilled)],
                "baseline": places[id(pair.baseline)],
                "unequal": pair.unequal,
                "intervals": {name: list(of) for name, of in interval.items()},
            }
            for pair, interval in zip(paired, ends, strict=True)
        ],
    }


def read_numbers(path: Path) -> dict[str, Any] | None:
    """Read the `numbers` of a report; None if the file is no report, or one of a version that did not store them.

    Raises:
        TrainError: If the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise TrainError(f"cannot read the report {path}: {error.strerror}") from error
    found = re.search(rf'<meta name="{NUMBERS}" content="([^"]*)">', text)
    try:
        return dict(json.loads(html.unescape(found[1]))) if found else None
    except ValueError:
        return None


# --- checks -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Check:
    """A check made while the page is written."""

    passed: bool
    text: str


def checks(evidence: Evidence) -> list[Check]:
    """Make all checks that the store and the runs allow."""
    found = [_check_complete(evidence.store), _check_teacher(evidence)]
    found += [_check_reported(evidence.store, student) for student in evidence.students]
    return found + [_check_fair(pair) for pair in pairs(evidence.students)]


def _check_complete(store: Store) -> Check:
    written = int(np.count_nonzero(store.written))
    state = "complete" if store.complete else "not complete"
    counts = f"{written:,} of {len(store):,} instances"
    text = f"The store is {state}: it holds {counts}. All records that were read match their checksums."
    return Check(store.complete, text)


def _check_teacher(evidence: Evidence) -> Check:
    stored, now = (evidence.store.manifest["teacher_metrics"] or {}).get("ap"), evidence.teacher.metrics["ap"]
    if not has_value(stored):
        return Check(not has_value(now), "The manifest holds no AP of the teacher for comparison.")
    agree = has_value(now) and abs(stored - now) < TOLERANCE
    verdict = "they agree" if agree else "they do not agree"
    return Check(
        agree,
        f"Teacher's AP: {fixed(stored, 2)} in the manifest, {fixed(now, 2)} decoded from the heatmaps now: {verdict}.",
    )


def _check_reported(store: Store, student: Trained) -> Check:
    if not student.reported:
        return Check(
            False, f"{student.name}: the run is not finished (it has no metrics.json); this is its best student so far."
        )
    if student.config["val_store"]["content_sha256"] != store.manifest["content_sha256"]:
        other = student.config["val_store"]["name"]
        return Check(
            False,
            f"{student.name}: the run was validated on another store, {other}; this page measures it on this store.",
        )
    stored, now = student.reported.get("ap"), student.metrics["ap"]
    decoder = student.reported.get("decoder", "argmax")  # runs made before decision 0015 do not name the decoder
    if decoder != DECODER:
        text = (
            f"AP {fixed(stored, 2)} in metrics.json was decoded with {decoder}, AP {fixed(now, 2)} here with {DECODER}."
        )
        return Check(False, f"{student.name}: {text}")
    agree = not has_value(now) or (has_value(stored) and abs(now - stored) < TOLERANCE)
    verdict = "they agree" if agree else "they do not agree"
    return Check(
        agree,
        f"{student.name}: AP {fixed(stored, 2)} in its metrics.json, {fixed(now, 2)} from best.pt now: {verdict}.",
    )


def _check_fair(pair: Pair) -> Check:
    names = f"{pair.distilled.name} and {pair.baseline.name}"
    ours, theirs = (
        [(of["content_sha256"], of["weight"]) for of in training(student.config)]
        for student in (pair.distilled, pair.baseline)
    )
    unequal = pair.unequal + ([] if ours == theirs else ["store"])
    if unequal:
        return Check(False, f"{names} differ in more than the teacher: {', '.join(unequal)}.")
    text = "same store, student, schedule and seed; they differ only in what they learned from"
    return Check(True, f"{names}: {text}: {pair.distilled.learned_from}, and {pair.baseline.learned_from}.")
