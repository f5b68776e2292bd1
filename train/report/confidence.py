"""The chart and the table of how far each network's confidence may be believed."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from train.report.calibration import FEWEST, Bin, calibration_error, ranking_quality, reliability
from train.report.charts import Line, Style, line_chart
from train.report.comparison import joint_hits
from train.report.evidence import Evidence, Subject
from train.report.markup import Markup, element
from train.report.numbers import exact, fixed, whole
from train.report.tables import column_heads, wide

SHARES = (0, 20, 40, 60, 80, 100)


def confidence(evidence: Evidence, series: Sequence[str]) -> Markup:
    """Reliability of each network's joints, its calibration error, and how well its confidence ranks them."""
    subjects = [evidence.teacher, *evidence.students]
    joints = [_labelled_joints(evidence, subject) for subject in subjects]
    bins = [reliability(*of_subject) for of_subject in joints]
    return element(
        "div", _chart(subjects, series, bins), _table(subjects, series, joints, bins), class_="charts unequal"
    )


def _labelled_joints(evidence: Evidence, subject: Subject) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Confidence and rightness of every labelled joint, both (n,)."""
    hits, labelled = joint_hits(evidence.store, subject)
    return subject.predictions.scores[labelled], hits[labelled]


def _chart(subjects: Sequence[Subject], series: Sequence[str], bins: Sequence[list[Bin]]) -> Markup:
    lines = [_line(s.name, c, found) for s, c, found in zip(subjects, series, bins, strict=True)]
    lines.append(Line("as it claims", "ideal", [(0.0, 0.0), (100.0, 100.0)], dashed=True, dots=False))
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
    shown = [b for b in found if b.count >= FEWEST]
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
            "mean gap between confidence and share right (ECE)",
            [100 * calibration_error(b) for b in bins],
        ),
        (
            "Ranking",
            "how often a right joint has more confidence than a wrong one (AUROC)",
            [100 * ranking_quality(*j) for j in joints],
        ),
        ("Mean confidence", "of the labelled joints", [100 * _mean(c) for c, _ in joints]),
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
