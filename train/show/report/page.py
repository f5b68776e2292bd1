"""The page itself: what it says first, and the order of everything else."""

import contextlib
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdlib.skeleton import FEWEST_LABELS
from train.errors import TrainError, refuse_folder
from train.show.report import facts, figures, tables
from train.show.report.comparison import Check, Pair, checks, pairs
from train.show.report.confidence import FEWEST, confidence
from train.show.report.evidence import Evidence, Subject, Trained, gather
from train.show.report.markup import MINUS, TIMES, Markup, element, fixed, signed, whole
from train.show.report.people import WORST, cards, choose, frames, worst_first

COLOURS = 6
"""Series colours of students in report.css; further ones begin anew."""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The browser itself refuses every request the page could make."""


def write_report(store: Any, runs: list[Path], out: Path, images: Path | None = None) -> None:
    """Measure the store's teacher and the runs' best students, and show them on one page.

    Args:
        store: Validation store (`cache.open_store`).
        runs: Run folders of `train.run.loop.fit`, in the order to show them.
        out: HTML file to write; its folder is made.
        images: Folder of the original images, for a store without frames.

    Raises:
        TrainError: If a folder is no run, does not fit the store, or the file cannot be written.
    """
    refuse_folder(out, "report.html")
    page = render(gather(store, runs, images))
    beside = out.with_name(out.name + ".tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(page, encoding="utf-8")
        os.replace(beside, out)
    except OSError as error:
        with contextlib.suppress(OSError):  # nor can it be removed where its folder is a file
            beside.unlink()
        reason = f"{out.parent} is a file" if isinstance(error, FileExistsError) else error.strerror
        raise TrainError(f"could not write {out}: {reason}") from error


def render(evidence: Evidence) -> str:
    """The page as text."""
    paired = pairs(evidence.students)
    title = headline(evidence.students, paired)
    style = (Path(__file__).with_name("report.css")).read_text(encoding="utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", Markup(style)),
    )
    body = element("body", element("main", *_sections(evidence, paired, title)))
    return "<!doctype html>\n" + element("html", head, body, lang="en") + "\n"


def headline(students: Sequence[Trained], paired: Sequence[Pair]) -> str:
    """The result in one line: the mean difference where there are pairs, else the students' AP."""
    if not paired:
        return "; ".join(
            f"{s.name}: AP {fixed(s.metrics['ap'])}, PCK@0.05 {fixed(s.metrics['pck@0.05'])}" for s in students
        )
    ap, pck = ([pair.difference(name) for pair in paired] for name in ("ap", "pck@0.05"))
    start = f"Distilled {MINUS} baseline: {signed(statistics.mean(ap))} AP, {signed(statistics.mean(pck))} PCK@0.05"
    if len(paired) == 1:
        return start
    spread = f"{fixed(statistics.stdev(ap))} and {fixed(statistics.stdev(pck))}"
    return f"{start}; means of {len(paired)} pairs, standard deviations {spread}"


def _sections(evidence: Evidence, paired: Sequence[Pair], title: str) -> list[Markup]:
    series = ["teacher", *(f"s{i % COLOURS}" for i in range(len(evidence.students)))]
    ranked = ranked_student(evidence.students)
    places = choose(evidence, ranked)
    table = tables.comparison(evidence, series, paired, torch.get_num_threads())
    return [
        element("header", element("h1", title), _lede(evidence, series)),
        element("section", table, _scope(evidence), id="numbers"),
        _section("Checks", "checks", _checks(checks(evidence)), "Tried while this page was written."),
        _learning(evidence, series),
        _differences(evidence, series, ranked, places),
        _confidence(evidence, series),
        *_people(evidence, series, ranked, places),
        _section("The store", "store", facts.store_facts(evidence)),
        _section("Recipes", "recipes", facts.recipes(evidence.students, series[1:]), "Where they leave the defaults."),
        _section("Again", "again", facts.commands(evidence)),
        element("details", element("summary", "All numbers"), tables.all_numbers(evidence, series), id="all"),
    ]


def _learning(evidence: Evidence, series: list[str]) -> Markup:
    teacher = evidence.teacher.metrics
    lead = f"One point an epoch. The teacher is at AP {fixed(teacher['ap'])} and PCK@0.05 {fixed(teacher['pck@0.05'])}."
    charts = element("div", figures.learning_curves(evidence.students, series[1:]), class_="charts")
    return _section("Learning curves", "curves", charts, lead)


def _differences(evidence: Evidence, series: list[str], ranked: Subject, places: NDArray[np.int64]) -> Markup:
    subjects = [evidence.teacher, *evidence.students]
    charts = [
        figures.joints(evidence, series),
        figures.ranking(subjects, series, ranked, places),
        figures.sizes(evidence, series),
        figures.tolerance_curves(evidence, series),
    ]
    lead = (
        "Left and right joints are taken together; each side's number shows on hover. Numbered persons follow below. "
        f"COCO calls a person of 32² to 96² pixels medium and a bigger one large: "
        f"{figures.size_counts(evidence)}."
    )
    content = element("div", *charts, class_="charts in-twos")
    return _section("Where they differ", "differences", content, lead, _legend(subjects, series))


def _confidence(evidence: Evidence, series: list[str]) -> Markup:
    lead = (
        "Each labelled joint has a confidence, the height of its peak, and is right within PCK@0.05 or not. On the "
        f"dotted line a network is as often right as it claims. Each point holds at least {FEWEST} joints."
    )
    return _section("Confidence", "confidence", confidence(evidence, series), lead)


def _people(evidence: Evidence, series: list[str], ranked: Subject, places: NDArray[np.int64]) -> list[Markup]:
    """Persons over the whole ranking, and the end of it where everything fails."""
    worst = worst_first(evidence, ranked)[:WORST]
    everybody = np.union1d(places, worst)
    shown = cards(evidence, everybody, series)
    lead = (
        f"{len(places)} of the persons with at least {FEWEST_LABELS} labelled joints, evenly spaced over their ranking "
        f"by the OKS of {ranked.name}: the worst first, the best last, none picked by hand. Heatmaps show the maximum "
        "over the joints, all on one scale."
    )
    worst_lead = f"The {len(worst)} of them with the lowest OKS of {ranked.name}, the worst first."
    width = "one-column" if len(series) > 4 else ""
    across = element("div", *(shown[int(place)] for place in places), class_=f"people numbered {width}")
    failing = element("div", *(shown[int(place)] for place in worst), class_=f"people {width}")
    return [
        frames(evidence, everybody),
        _section("People", "people", across, lead, _limb_legend()),
        _section("The worst", "worst", failing, worst_lead, _limb_legend()),
    ]


def ranked_student(students: Sequence[Trained]) -> Subject:
    """Whose ranking chooses the persons: the last distilled student, or the last one where none is."""
    return ([s for s in students if s.distilled] or list(students))[-1]


def _section(title: str, name: str, content: Markup, lead: str = "", legend: Markup | None = None) -> Markup:
    lead_line = element("p", lead, class_="lead") if lead else None
    return element("section", element("h2", title), lead_line, legend, content, id=name)


def _lede(evidence: Evidence, series: Sequence[str]) -> Markup:
    store, name = evidence.store, evidence.store.manifest["provenance"]["teacher"]["name"]
    sentence = element(
        "p",
        "The teacher ",
        element("b", name),
        f" looked once at {whole(int(store.written.sum()))} persons and left its heatmaps in ",
        element("b", store.path.name),
        ". There its students were measured beside it, just now:",
        class_="lede",
    )
    students = [
        element("li", element("span", s.name, class_=f"series {c}"), _about(s))
        for s, c in zip(evidence.students, series[1:], strict=True)
    ]
    return sentence + element("ul", *students, class_="students")


def _about(student: Trained) -> str:
    recipe, supervision = student.config["recipe"], student.supervision
    width, height = student.student.input_size
    network = f"{recipe['student']} with {recipe['head']} head, {height}{TIMES}{width}"
    teachers = "labels" if not student.distilled else "labels and cached heatmaps"
    if supervision.gt_weight == 0:
        teachers = "cached heatmaps alone"
    return f" {network}, {recipe['epochs']} epochs of {student.config['store']['name']}, taught by {teachers}"


def _scope(evidence: Evidence) -> Markup:
    name, digest = facts.annotations(evidence.store.manifest)
    return element(
        "p",
        "Percentages are about the persons of ",
        element("b", name),
        " (sha256 ",
        element("code", digest[:12], title=digest),
        ") and about nobody else: numbers on drawn people tell about the machinery, not about human pose. "
        "The best student of a row is set in bold. The small range is the 95 % interval of a paired bootstrap over the "
        "pictures; another seed would move the numbers, too.",
        class_="note",
    )


def _checks(found: Sequence[Check]) -> Markup:
    items = [element("li", check.text, class_="passed" if check.passed else "failed") for check in found]
    return element("ul", *items, class_="checks")


def _legend(subjects: Sequence[Subject], series: Sequence[str]) -> Markup:
    keys = [element("span", s.name, class_=f"series {c}") for s, c in zip(subjects, series, strict=True)]
    return element("p", *keys, class_="legend")


def _limb_legend() -> Markup:
    sides = (("left", "the person's left"), ("right", "the person's right"), ("mid", "across, and the nose"))
    keys = [element("span", text, class_=f"limb-key {side}") for side, text in sides]
    return element("p", *keys, element("span", "faint: a joint nobody labelled; it does not count"), class_="legend")
