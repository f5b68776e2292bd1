"""The charts of a report: learning curves, ranking of persons, joints, sizes, and PCK by threshold."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kdlib.metrics.keypoints import normalised_distances
from kdlib.samples.dataset import store_skeleton
from kdlib.skeletons.skeleton import Skeleton, split_words, without_side
from train.show.report.charts import NO_LABELS, Dot, Line, Style, dot_plot, line_chart, picture
from train.show.report.comparison import joint_hits
from train.show.report.evidence import Evidence, Subject, Trained
from train.show.report.markup import Markup, fixed, has_value, join, whole

MOST_ROWS: Final = 30
"""Rows of the chart of joints, above which numbered joints share rows."""
MOST_NAMED: Final = 4
"""Joints of a dot that its text lists one by one."""
RANKING_POINTS: Final = 160
"""Points of a ranking's curve; few, to keep the page small."""
SIZES: Final = (("medium", 32**2, 96**2), ("large", 96**2, np.inf))
"""COCO's sizes of persons: name, and range of the area in square image pixels."""
TOLERANCES: Final = np.linspace(0, 0.2, 41)
"""PCK thresholds: fractions of the box's longer side up to 0.2, in steps of 0.005."""


# --- learning ---------------------------------------------------------------------------------------------------------


def learning_curves(students: Sequence[Trained], series: Sequence[str]) -> Markup:
    """Draw validation AP and PCK, and the terms of the training loss, over the epochs."""
    named = list(zip(students, series, strict=True))
    nothing = NO_LABELS if any(student.history for student in students) else "No epochs were recorded."
    charts = [
        line_chart(Style(title, "epoch", nothing=nothing), [Line(s.name, c, epochs(s.history, key)) for s, c in named])
        for title, key in (("AP on the validation store", "ap"), ("PCK@0.05 on the validation store", "pck@0.05"))
    ]
    terms = [
        Line(f"{s.name}: {what}", c, epochs(s.history, key), dashed=key == "kd")
        for s, c in named
        for key, what in (("gt", "labels"), ("kd", "teacher"))
        if any(key in epoch for epoch in s.history)
    ]
    charts.append(
        line_chart(Style("Training loss, weighted terms", "epoch", y_zero=False, digits=3, nothing=nothing), terms)
    )
    return join(charts)


def learning_picture(history: Sequence[dict[str, Any]]) -> str | None:
    """Draw the learning curves of one run as an SVG file of its own, or return None if no epoch was recorded."""
    accuracy = [Line("AP", "s0", epochs(history, "ap")), Line("PCK@0.05", "s1", epochs(history, "pck@0.05"))]
    terms = [Line("labels", "s3", epochs(history, "gt")), Line("teacher", "s4", epochs(history, "kd"))]
    return picture(
        [
            (Style("AP and PCK@0.05 on the validation store, %", "epoch"), accuracy),
            (Style("Training loss, weighted terms", "epoch", y_zero=False, digits=3), terms),
        ]
    )


def epochs(history: Sequence[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """The values of one entry over the epochs that have it, NaN for null; if none has it, NaN for every epoch."""
    having = [line for line in history if key in line] or history  # --evaluate-every leaves epochs without metrics
    values = ((line["epoch"], line.get(key)) for line in having)
    return [(number, float("nan") if value is None else float(value)) for number, value in values]


# --- ranking of persons -----------------------------------------------------------------------------------------------


def ranking(subjects: Sequence[Subject], series: Sequence[str], ranked: Subject, places: NDArray[np.int64]) -> Markup:
    """Draw each network's persons from worst to best OKS.

    Args:
        subjects: The networks.
        series: CSS class of each network.
        ranked: The network whose curve marks the persons that the page shows.
        places: Indices of these persons into ``predictions.rows``.
    """
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
    """The shown persons that have a rank, with the numbers of their cards."""
    shares = 100 * np.searchsorted(scores, shown) / max(len(scores) - 1, 1)
    numbered = enumerate(zip(shares, shown, strict=True), start=1)
    return [(float(x), float(y), str(number)) for number, (x, y) in numbered if not np.isnan(y)]


# --- joints -----------------------------------------------------------------------------------------------------------


def joints(evidence: Evidence, series: Sequence[str]) -> Markup:
    """Draw the PCK@0.05 of each joint, left and right together; hovering shows each side."""
    subjects = [evidence.teacher, *evidence.students]
    hits = [joint_hits(evidence.store, subject) for subject in subjects]
    rows, skeleton = [], store_skeleton(evidence.store)
    for name, members in _merged_joints(skeleton).items():
        dots = [
            Dot(c, _share(*found, members), _joint_text(s, members, skeleton))
            for s, c, found in zip(subjects, series, hits, strict=True)
        ]
        rows.append((name, dots))
    return dot_plot("PCK@0.05 of each joint", rows)


def is_grouped(skeleton: Skeleton) -> bool:
    """Whether joints that are no pair share a row of the chart of joints."""
    return len(_merged_pairs(skeleton)) > MOST_ROWS


def _merged_joints(skeleton: Skeleton) -> dict[str, list[int]]:
    """Joint numbers by the names of the chart's rows, which are at most `MOST_ROWS` for numbered joints.

    Pairs have their name without the side: ``{"nose": [0], "eye": [1, 2], ...}``. In larger skeletons, joints that
    differ in their number only share a row: ``{..., "face": [23, ...], "thumb": [92, ...]}``. If all would share one,
    a row has consecutive joints.
    """
    if not is_grouped(skeleton):
        return _merged_pairs(skeleton)
    by_word: dict[str, list[int]] = {}
    for joint in range(len(skeleton)):
        words = split_words(without_side(skeleton.joints[joint]))
        plain = " ".join(filter(None, (word.rstrip("0123456789") for word in words)))
        by_word.setdefault(plain or "joint", []).append(joint)
    if len(by_word) > 1:
        return by_word
    size = -(-len(skeleton) // MOST_ROWS)
    parts = [list(range(start, min(start + size, len(skeleton)))) for start in range(0, len(skeleton), size)]
    return {f"{skeleton.joints[part[0]]} to {skeleton.joints[part[-1]]}": part for part in parts}


def _merged_pairs(skeleton: Skeleton) -> dict[str, list[int]]:
    pair = {k: min(pair) for pair in skeleton.flip_pairs for k in pair}
    merged: dict[str, list[int]] = {}
    for k in range(len(skeleton)):
        name = without_side(skeleton.joints[pair[k]]) if k in pair else skeleton.joints[k]
        merged.setdefault(name, []).append(k)
    return merged


def _share(hits: NDArray[np.bool_], labelled: NDArray[np.bool_], members: Sequence[int]) -> float:
    count = int(labelled[:, members].sum())
    return 100 * float(hits[:, members].sum()) / count if count else float("nan")


def _joint_text(subject: Subject, members: Sequence[int], skeleton: Skeleton) -> str:
    each: dict[str, Any] = subject.metrics["per_joint"]["pck@0.05"]
    names = [skeleton.joints[k] for k in members]
    known = [name for name in names if has_value(each[name])]
    if len(names) > MOST_NAMED and known:
        low, high = min(known, key=each.__getitem__), max(known, key=each.__getitem__)
        return f"{subject.name}: {len(names)} joints, from {low} {fixed(each[low])} to {high} {fixed(each[high])}"
    sides = [f"{name.replace('_', ' ')} {fixed(each[name])}" for name in names]
    return f"{subject.name}: {', '.join(sides)}"


# --- sizes and visibility ---------------------------------------------------------------------------------------------


def sizes(evidence: Evidence, series: Sequence[str]) -> Markup:
    """Draw AP and AR of medium and large persons, and PCK@0.05 of visible and hidden joints."""
    subjects = [evidence.teacher, *evidence.students]
    rows = [
        (f"{metric.upper()} {size}", _size_dots(evidence, subjects, series, metric, size))
        for metric in ("ap", "ar")
        for size, _, _ in SIZES
    ]
    rows += [
        (f"PCK {kind}", _visibility_dots(evidence, subjects, series, v)) for v, kind in ((2, "visible"), (1, "hidden"))
    ]
    return dot_plot("By size of the person and visibility of the joint", rows)


def size_counts(evidence: Evidence) -> str:
    """Count the labelled persons of each size, for a sentence: ``10 medium and 4 large``."""
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
    """PCK@0.05 of the joints with COCO's visibility 2 (visible) or 1 (labelled, but hidden)."""
    dots = []
    for subject, c in zip(subjects, series, strict=True):
        hits, _ = joint_hits(evidence.store, subject)
        chosen = evidence.store.instances["keypoints"][subject.predictions.rows][..., 2] == visibility
        value = 100 * float(hits[chosen].mean()) if chosen.any() else float("nan")
        dots.append(Dot(c, value, f"{subject.name}: {fixed(value)} % of {whole(int(chosen.sum()))} joints"))
    return dots


# --- PCK by threshold -------------------------------------------------------------------------------------------------


def tolerance_curves(evidence: Evidence, series: Sequence[str]) -> Markup:
    """Draw PCK over its threshold, which distinguishes small errors from large ones."""
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
    if not len(known):
        return []
    within = np.searchsorted(known, TOLERANCES, "right") / len(known)
    return [(100 * float(t), 100 * float(share)) for t, share in zip(TOLERANCES, within, strict=True)]
