"""Which curves a page shows: learning, the ranking of persons, and the joints."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdlib.skeleton import JOINTS
from train.report.charts import Dot, Line, Style, dot_plot, line_chart
from train.report.comparison import joint_hits
from train.report.evidence import Evidence, Subject, Trained
from train.report.markup import Markup, join
from train.report.numbers import fixed

RANKING_POINTS = 160
"""Points of a ranking's curve: enough for its shape, few enough for a small page."""


def learning_curves(students: Sequence[Trained], series: Sequence[str]) -> Markup:
    """Validation AP and PCK, and the terms of the training loss, over the epochs."""
    named = list(zip(students, series, strict=True))
    charts = [
        line_chart(Style(title, "epoch"), [Line(s.name, c, _history(s, key)) for s, c in named])
        for title, key in (("AP on the validation store", "ap"), ("PCK@0.05 on the validation store", "pck@0.05"))
    ]
    terms = [
        Line(f"{s.name}: {what}", c, _history(s, key), dashed=key == "kd")
        for s, c in named
        for key, what in (("gt", "labels"), ("kd", "teacher"))
        if any(key in epoch for epoch in s.history)
    ]
    charts.append(line_chart(Style("Training loss, weighted terms", "epoch", y_zero=False, digits=3), terms))
    return join(charts)


def _history(student: Trained, key: str) -> list[tuple[float, float]]:
    return [(epoch["epoch"], float(epoch.get(key, "nan"))) for epoch in student.history]


def ranking(subjects: Sequence[Subject], series: Sequence[str], ranked: Subject, places: NDArray[np.int64]) -> Markup:
    """Each network's persons from worst to best OKS; the persons shown below are marked on the ranked one's curve."""
    lines = []
    for subject, name in zip(subjects, series, strict=True):
        scores = np.sort(subject.oks[~np.isnan(subject.oks)])
        marks = _marks(scores, ranked.oks[places]) if subject is ranked else []
        lines.append(Line(subject.name, name, _thinned(scores), marks=marks))
    style = Style(
        "OKS of every person, worst to best", "share of the persons, %", dots=False, width=440.0, height=277.0
    )
    return line_chart(style, lines)


def _thinned(scores: NDArray[np.float64]) -> list[tuple[float, float]]:
    shares = np.linspace(0, 1, min(RANKING_POINTS, len(scores)))
    return [(100 * float(share), float(scores[round(share * (len(scores) - 1))])) for share in shares]


def _marks(scores: NDArray[np.float64], shown: NDArray[np.float64]) -> list[tuple[float, float, str]]:
    """The shown persons at their ranks, with the numbers of their cards."""
    shares = 100 * np.searchsorted(scores, shown) / max(len(scores) - 1, 1)
    return [(float(x), float(y), str(i + 1)) for i, (x, y) in enumerate(zip(shares, shown, strict=True))]


def joints(evidence: Evidence, series: Sequence[str]) -> Markup:
    """PCK@0.05 of each joint, left and right taken together; each side's own on hover."""
    subjects = [evidence.teacher, *evidence.students]
    hits = [joint_hits(evidence.store, subject) for subject in subjects]
    rows = []
    for name, members in _merged_joints().items():
        dots = [
            Dot(c, _share(*found, members), _joint_text(s, members))
            for s, c, found in zip(subjects, series, hits, strict=True)
        ]
        rows.append((name, dots))
    return dot_plot("PCK@0.05 of each joint", rows)


def _merged_joints() -> dict[str, list[int]]:
    """Joint numbers by name without the side: ``{"nose": [0], "eye": [1, 2], ...}``."""
    merged: dict[str, list[int]] = {}
    for k, joint in enumerate(JOINTS):
        merged.setdefault(joint.removeprefix("left_").removeprefix("right_"), []).append(k)
    return merged


def _share(hits: NDArray[np.bool_], labelled: NDArray[np.bool_], members: Sequence[int]) -> float:
    count = int(labelled[:, members].sum())
    return 100 * float(hits[:, members].sum()) / count if count else float("nan")


def _joint_text(subject: Subject, members: Sequence[int]) -> str:
    each: dict[str, Any] = subject.metrics["per_joint"]["pck@0.05"]
    sides = [f"{JOINTS[k].replace('_', ' ')} {fixed(each[JOINTS[k]])}" for k in members]
    return f"{subject.name}: {', '.join(sides)}"
