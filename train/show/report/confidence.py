"""The confidence of each network's joints: a reliability chart and a table of calibration."""

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from train.show.report.charts import Line, Style, line_chart
from train.show.report.comparison import joint_hits
from train.show.report.evidence import Evidence, Subject
from train.show.report.markup import Markup, element, exact, fixed, whole
from train.show.report.tables import column_heads, wide

SHARES: Final = (0, 20, 40, 60, 80, 100)
"""Ticks of both axes, in percent."""
BINS: Final = 10
MIN_JOINTS: Final = 20
"""Bins with fewer joints are not shown, because their share of right joints is unreliable."""


# --- measures ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Bin:
    """Joints of similar confidence."""

    confidence: float
    """Mean of its joints, in [0, 1]."""
    right: float
    """Share of its joints that are right, in [0, 1]."""
    count: int


def reliability(confidence: NDArray[np.floating], right: NDArray[np.bool_], bins: int = BINS) -> list[Bin]:
    """Sort joints into bins of equal width over [0, 1]; empty bins are left out.

    Args:
        confidence: (N,), clipped to [0, 1].
        right: (N,).
        bins: Number of bins.
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
    """Compute the mean gap between confidence and share of right joints, per joint (ECE); NaN without joints."""
    count = sum(b.count for b in found)
    return sum(b.count * abs(b.confidence - b.right) for b in found) / count if count else float("nan")


def ranking_quality(confidence: NDArray[np.floating], right: NDArray[np.bool_]) -> float:
    """Compute the probability that a right joint has a higher confidence than a wrong one; ties count half (AUROC).

    NaN if all joints are right, or all are wrong.
    """
    wrong, correct = np.sort(confidence[~right]), confidence[right]
    if not len(wrong) or not len(correct):
        return float("nan")
    below = np.searchsorted(wrong, correct, "left") + np.searchsorted(wrong, correct, "right")
    return float(below.mean() / 2 / len(wrong))


# --- page -------------------------------------------------------------------------------------------------------------


def confidence(evidence: Evidence, series: Sequence[str]) -> Markup:
    """Draw the reliability chart of all networks, and tabulate calibration error and ranking."""
    subjects = [evidence.teacher, *evidence.students]
    joints = [_labelled_joints(evidence, subject) for subject in subjects]
    bins = [reliability(*of_subject) for of_subject in joints]
    return element(
        "div", _chart(subjects, series, bins), _table(subjects, series, joints, bins), class_="charts unequal"
    )


def _labelled_joints(evidence: Evidence, subject: Subject) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Confidence of every labelled joint, and whether it is right; both (n,)."""
    hits, labelled = joint_hits(evidence.store, subject)
    return subject.predictions.scores[labelled], hits[labelled]


def _chart(subjects: Sequence[Subject], series: Sequence[str], bins: Sequence[list[Bin]]) -> Markup:
    lines = [_line(s.name, c, found) for s, c, found in zip(subjects, series, bins, strict=True)]
    lines.append(Line("ideal", "ideal", [(0.0, 0.0), (100.0, 100.0)], dashed=True, dots=False))
    style = Style(
        "Joints within PCK@0.05, %, by confidence",
        "height of the joint's peak, %",
        width=440.0,
        height=300.0,
        x_ticks=SHARES,
        y_ticks=SHARES,
    )
    return line_chart(style, lines)


def _line(name: str, series: str, found: list[Bin]) -> Line:
    shown = [b for b in found if b.count >= MIN_JOINTS]
    points = [(100 * b.confidence, 100 * b.right) for b in shown]
    texts = [
        f"{name}: {whole(b.count)} joints of confidence {fixed(100 * b.confidence)} %, {fixed(100 * b.right)} % right"
        for b in shown
    ]
    return Line(name, series, points, texts=texts)


def _table(
    subjects: Sequence[Subject],
    series: Sequence[str],
    joints: Sequence[tuple[NDArray[np.float32], NDArray[np.bool_]]],
    bins: Sequence[list[Bin]],
) -> Markup:
    rows = [
        (
            "Calibration error",
            "mean gap between confidence and share of right joints (ECE)",
            [100 * calibration_error(b) for b in bins],
        ),
        (
            "Ranking",
            "probability that a right joint has a higher confidence than a wrong one (AUROC)",
            [100 * ranking_quality(*j) for j in joints],
        ),
        (
            "Mean confidence",
            "of the labelled joints; a peak higher than 1 counts as 1",
            [100 * _mean(np.clip(c, 0, 1)) for c, _ in joints],
        ),
        ("Share right", "PCK@0.05", [100 * _mean(r) for _, r in joints]),
    ]
    head = element("thead", element("tr", element("th", "percent", scope="col"), *column_heads(subjects, series)))
    body = [
        element(
            "tr",
            element("th", name, element("small", text), scope="row"),
            *(element("td", exact(v, fixed(v))) for v in values),
        )
        for name, text, values in rows
    ]
    return wide(element("table", head, element("tbody", *body), class_="explained"))


def _mean(values: NDArray[np.generic]) -> float:
    return float(values.mean()) if len(values) else float("nan")
