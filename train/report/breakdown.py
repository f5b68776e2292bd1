"""Where accuracy is lost: small persons, hidden joints, and how the share of right joints grows with the tolerance."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kdlib.metrics import normalised_distances
from train.report.charts import Dot, Line, Style, dot_plot, line_chart
from train.report.comparison import joint_hits
from train.report.evidence import Evidence, Subject
from train.report.markup import Markup
from train.report.numbers import fixed, whole

SIZES = (("medium", 32**2, 96**2), ("large", 96**2, np.inf))
"""COCO's kinds of persons with keypoints: square image pixels, from and to."""
TOLERANCES = np.linspace(0, 0.2, 41)
"""Fractions of the box's longer side: up to PCK@0.2, in steps of half a percent."""


def sizes(evidence: Evidence, series: Sequence[str]) -> Markup:
    """AP and AR of medium and large persons, and PCK@0.05 of visible and hidden joints."""
    subjects = [evidence.teacher, *evidence.students]
    rows = [
        (f"{metric.upper()} {size}", _size_dots(evidence, subjects, series, metric, size))
        for metric in ("ap", "ar")
        for size, _, _ in SIZES
    ]
    rows += [
        (f"PCK {kind}", _visibility_dots(evidence, subjects, series, v)) for v, kind in ((2, "seen"), (1, "hidden"))
    ]
    return dot_plot("By size, and by seen or hidden joints", rows)


def size_counts(evidence: Evidence) -> str:
    """How many labelled persons each size has, as a sentence's end."""
    rows = evidence.teacher.predictions.rows
    area = np.asarray(evidence.store.instances["area"])[rows]
    labelled = (evidence.store.instances["keypoints"][rows][..., 2] > 0).any(axis=1)
    counts = [(name, int((labelled & (area > low) & (area <= high)).sum())) for name, low, high in SIZES]
    return " and ".join(f"{whole(count)} {name}" for name, count in counts)


def _size_dots(
    evidence: Evidence, subjects: Sequence[Subject], series: Sequence[str], metric: str, size: str
) -> list[Dot]:
    values = [subject.metrics[f"{metric}_{size}"] for subject in subjects]
    return [
        Dot(c, value, f"{subject.name}: {metric.upper()} {fixed(value)} of {size} persons")
        for subject, c, value in zip(subjects, series, values, strict=True)
    ]


def _visibility_dots(
    evidence: Evidence, subjects: Sequence[Subject], series: Sequence[str], visibility: int
) -> list[Dot]:
    """PCK@0.05 of the joints with COCO's visibility 2 (seen) or 1 (labelled, but hidden)."""
    dots = []
    for subject, c in zip(subjects, series, strict=True):
        hits, _ = joint_hits(evidence.store, subject)
        chosen = evidence.store.instances["keypoints"][subject.predictions.rows][..., 2] == visibility
        value = 100 * float(hits[chosen].mean()) if chosen.any() else float("nan")
        dots.append(Dot(c, value, f"{subject.name}: {fixed(value)} % of {whole(int(chosen.sum()))} joints"))
    return dots


def tolerance_curves(evidence: Evidence, series: Sequence[str]) -> Markup:
    """PCK over its threshold: a network that is nearly right rises late, one that is lost never does."""
    lines = [
        Line(subject.name, c, _shares(evidence, subject))
        for subject, c in zip([evidence.teacher, *evidence.students], series, strict=True)
    ]
    style = Style(
        "PCK over its threshold, %",
        "distance in % of the box's longer side",
        dots=False,
        width=440.0,
        height=277.0,
        x_ticks=(0, 5, 10, 15, 20),
        y_ticks=(0, 20, 40, 60, 80, 100),
    )
    return line_chart(style, lines)


def _shares(evidence: Evidence, subject: Subject) -> list[tuple[float, float]]:
    columns, rows = evidence.store.instances, subject.predictions.rows
    distances = normalised_distances(subject.predictions.points, columns["keypoints"][rows], columns["bbox"][rows])
    known: NDArray[np.float64] = np.sort(distances[~np.isnan(distances)])
    within = np.searchsorted(known, TOLERANCES, "right") / max(len(known), 1)
    return [(100 * float(t), 100 * float(share)) for t, share in zip(TOLERANCES, within, strict=True)]
