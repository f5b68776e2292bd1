"""What can be verified from the store and the runs alone, while a page is written."""

import dataclasses
from typing import Any

import numpy as np

from train.decoding import DECODER
from train.report.comparison import Pair, pairs
from train.report.evidence import Evidence, Trained
from train.report.numbers import fixed, has_value

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
