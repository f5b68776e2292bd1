"""The tables of a report: the metrics and costs of every network side by side."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from kdlib.samples.dataset import store_skeleton
from train.show.report.comparison import Intervals, Pair
from train.show.report.evidence import Evidence, Subject
from train.show.report.markup import (
    MINUS,
    Markup,
    billions,
    duration,
    element,
    exact,
    fixed,
    has_value,
    join,
    millions,
    signed,
    size,
    whole,
)


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the comparison: one quantity."""

    key: str
    name: str
    text: str
    """A short explanation."""
    show: Callable[[Any], str] = fixed
    best: Callable[..., Any] | None = max
    """Chooses the number in bold; None for quantities that depend on the load of the machine."""


ACCURACY: Final = (
    Row("ap", "AP", "COCO keypoint average precision, mean over OKS .50 to .95"),
    Row("ap50", "AP50", "at OKS .50, a loose threshold"),
    Row("ap75", "AP75", "at OKS .75, a strict threshold"),
    Row("ar", "AR", "average recall, mean over OKS .50 to .95"),
    Row("pck@0.05", "PCK@0.05", "joints within 5 % of the box's longer side"),
    Row("pck@0.1", "PCK@0.1", "within 10 %"),
    Row("pck@0.2", "PCK@0.2", "within 20 %"),
)
OF_OTHER_SKELETONS: Final = (
    Row("pckh@0.5", "PCKh@0.5", "joints within half of the length of the head segment"),
    Row("pckh@0.1", "PCKh@0.1", "within a tenth of it"),
    Row("auc", "AUC", "area under PCK over its threshold, 0 to 30 pixels"),
    Row("epe", "EPE, px", "end-point error: mean distance in image pixels", best=min),
    Row("ap_body", "AP body", "of the body's joints alone"),
    Row("ap_foot", "AP feet", "of the feet alone"),
    Row("ap_face", "AP face", "of the face alone"),
    Row("ap_left_hand", "AP left hand", "of the left hand alone"),
    Row("ap_right_hand", "AP right hand", "of the right hand alone"),
)
"""Metrics of skeletons other than COCO's; those that a network has are shown."""
DECODER: Final = Row("decoder", "Decoder", "argmax: as in HRNet's evaluation; dark: sub-pixel", str, None)
"""The method that finds joints in heatmaps."""


def cost_rows(threads: int) -> list[Row]:
    """The rows of a network's costs; ``threads`` is the number of threads with which the latency was measured."""
    latency = f"milliseconds per person on this machine's CPU, {threads} thread{'s' if threads > 1 else ''}"
    return [
        Row("parameters", "Parameters", "number of trainable values", millions, min),
        Row("multiply_adds", "GMACs", "billions of multiply-adds per person", billions, min),
        Row("bytes", "Size", "of the weights in float32", size, min),
        Row("cpu_ms", "Latency", latency, fixed, None),
        Row("train_seconds", "Training time", "without evaluation", duration, None),
        Row("train_instances_per_second", "Training speed", "persons per second", whole, None),
    ]


def accuracy_rows(metrics: Mapping[str, Any]) -> list[Row]:
    """The rows of a network's accuracy: `ACCURACY`, and those of `OF_OTHER_SKELETONS` that its metrics have."""
    return [*ACCURACY, *(row for row in OF_OTHER_SKELETONS if row.key in metrics)]


def comparison(
    evidence: Evidence, series: Sequence[str], pairs: Sequence[Pair], ends: Sequence[Intervals], threads: int
) -> Markup:
    """The main table: one row per quantity; columns of teacher, students, and distilled minus baseline."""
    subjects = [evidence.teacher, *evidence.students]
    gains = [element("th", _pair_title(pair), scope="col", class_="gain") for pair in pairs]
    head = element("thead", element("tr", element("td"), *column_heads(subjects, series), *gains))
    metrics, costs = [s.metrics for s in subjects], [s.cost for s in subjects]
    decoder = _row(DECODER, [{DECODER.key: s.predictions.decoder} for s in subjects], [element("td")] * len(pairs))
    accuracy = [
        _row(row, metrics, [_gain(p, row, i.get(row.key)) for p, i in zip(pairs, ends, strict=True)])
        for row in accuracy_rows(evidence.teacher.metrics)
    ]
    cost = [_row(row, costs, [element("td")] * len(pairs)) for row in cost_rows(threads)]
    return wide(
        element("table", head, element("tbody", *accuracy), element("tbody", decoder, *cost), class_="comparison")
    )


def _pair_title(pair: Pair) -> str:
    return f"{pair.distilled.name} {MINUS} {pair.baseline.name}"


def _row(row: Row, values: Sequence[dict[str, Any]], gains: Sequence[Markup]) -> Markup:
    numbers = [numbers_of.get(row.key) for numbers_of in values]
    best = _best(row, numbers[1:])
    cells = [
        element("td", exact(number, row.show(number)), class_="best" if i > 0 and row.show(number) == best else None)
        for i, number in enumerate(numbers)
    ]
    title = element("th", row.name, element("small", row.text), scope="row")
    return element("tr", title, *cells, *gains)


def _best(row: Row, students: Sequence[Any]) -> str | None:
    """The best student's number as text; None if all students have the same."""
    known = [number for number in students if has_value(number)]
    if row.best is None or len({row.show(number) for number in known}) < 2:
        return None
    return row.show(row.best(known))


def _gain(pair: Pair, row: Row, interval: tuple[float, float] | None) -> Markup:
    """Distilled minus baseline, with the confidence interval if it is known; coloured if the interval excludes 0."""
    difference = pair.difference(row.key)
    text = signed(difference)
    known = interval is not None and all(has_value(end) for end in interval)
    ends = element("small", " to ".join(signed(end) for end in interval or ())) if known else None
    kind = _direction(interval) if interval is not None and known else "level"
    return element("td", exact(difference, text), ends, class_=f"gain {kind}")


def _direction(interval: tuple[float, float]) -> str:
    """CSS class of a difference: ``up`` or ``down``, or ``level`` if its interval contains 0."""
    low, high = interval
    return "up" if low > 0 else "down" if high < 0 else "level"


def all_numbers(evidence: Evidence, series: Sequence[str]) -> Markup:
    """Tables of every metric and of the PCK of every joint, with two digits."""
    subjects = [evidence.teacher, *evidence.students]
    names = [name for name in evidence.teacher.metrics if name not in ("per_joint", "instances", "oks_sigmas")]
    rows = [(_title(name), [s.metrics[name] for s in subjects]) for name in names]
    parts = [_plain_table("", subjects, series, rows)]
    for name in evidence.teacher.metrics["per_joint"]:
        of_joints = [
            (joint.replace("_", " "), [s.metrics["per_joint"][name][joint] for s in subjects])
            for joint in store_skeleton(evidence.store).joints
        ]
        parts.append(_plain_table(_title(name), subjects, series, of_joints))
    return element("div", *parts, class_="columns of-tables")


def _title(metric: str) -> str:
    """``AP MEDIUM`` of ``ap_medium``; PCKh keeps its small letter, and EPE gets its unit."""
    if metric.startswith("pckh"):
        return metric.replace("pckh", "PCKh")
    return "EPE, pixels" if metric == "epe" else metric.upper().replace("_", " ")


def _plain_table(
    caption: str, subjects: Sequence[Subject], series: Sequence[str], rows: Sequence[tuple[str, Sequence[Any]]]
) -> Markup:
    body = join(
        element("tr", element("th", name, scope="row"), *(element("td", exact(v, fixed(v, 2))) for v in values))
        for name, values in rows
    )
    head = element("tr", element("th", caption or "percent", scope="col"), *column_heads(subjects, series))
    return wide(element("table", element("thead", head), element("tbody", body)))


def column_heads(subjects: Sequence[Subject], series: Sequence[str]) -> list[Markup]:
    """Column heads of the networks in their colours."""
    keys = [element("span", s.name, class_=f"series {c}") for s, c in zip(subjects, series, strict=True)]
    return [element("th", key, scope="col") for key in keys]


def wide(table: Markup) -> Markup:
    """Let a table scroll on a narrow page."""
    return element("div", table, class_="scroll", tabindex=0)
