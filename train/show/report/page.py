"""Builds the page of a report, its headline and its sections in order, and writes it."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from cache import Store
from kdcli.files import replacing
from kdcli.words import counted
from kdlib.metrics.evaluation import sigmas_note
from kdlib.samples.dataset import store_skeleton
from kdlib.skeletons.skeleton import COCO, Skeleton
from train.errors import TrainError, check_is_not_folder
from train.evaluate import to_json
from train.show import enough_labels
from train.show.report import facts, figures, tables
from train.show.report.charts import STYLE_SHEET
from train.show.report.comparison import NUMBERS, Check, Intervals, Pair, checks, intervals, numbers, pairs
from train.show.report.confidence import MIN_JOINTS, confidence
from train.show.report.evidence import Evidence, Subject, Trained, gather
from train.show.report.markup import MINUS, TIMES, Markup, element, fixed, has_value, signed, whole
from train.show.report.people import WORST, cards, choose, frames, worst_first
from train.stores import argument, training

COLOURS: Final = 6
"""Number of student colours in report.css; further students start again with the first colour."""
POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The page's content security policy: the browser makes no requests."""


def write_report(store: Store, runs: list[Path], out: Path, images: Path | None = None) -> list[str]:
    """Measure the store's teacher and the runs' best students, and write them to one page.

    Args:
        store: Validation store (`cache.open_store`).
        runs: Run folders, in the order in which the page shows them.
        out: HTML file to write; its folder is created if it does not exist.
        images: Folder of the original images, for a store without frames.

    Returns:
        The first lines of the page: its headline and, if it compares students, what they learned from.

    Raises:
        TrainError: If a folder holds no run, a student does not fit the store, or the file cannot be written.
    """
    check_is_not_folder(out, "report.html")
    evidence = gather(store, runs, images)
    paired = pairs(evidence.students)
    ends = intervals(store, paired)
    page = render(evidence, paired, ends)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as temporary:
            temporary.write_text(page, encoding="utf-8")
    except OSError as error:
        reason = f"{out.parent} is a file" if isinstance(error, FileExistsError) else error.strerror
        raise TrainError(f"could not write {out}: {reason}") from error
    return [line for line in (headline(evidence.students, paired, ends), lesson(paired)) if line]


def render(evidence: Evidence, paired: Sequence[Pair], ends: Sequence[Intervals]) -> str:
    """Build the HTML of the page, from the measurements, the pairs of students, and their `intervals`."""
    title = headline(evidence.students, paired, ends)
    style = "".join(file.read_text(encoding="utf-8") for file in (STYLE_SHEET, STYLE_SHEET.with_name("report.css")))
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("link", rel="icon", href="data:,"),
        element("meta", name=NUMBERS, content=to_json(numbers(evidence, paired, ends))),
        element("title", title),
        element("style", Markup(style)),
    )
    body = element("body", element("main", *_sections(evidence, paired, ends, title)))
    return "<!doctype html>\n" + element("html", head, body, lang="en") + "\n"


def headline(students: Sequence[Trained], paired: Sequence[Pair], ends: Sequence[Intervals]) -> str:
    """Build the result in one line: the mean difference of the pairs or, without pairs, the students' metrics.

    For one pair, the line gives the interval of the difference in AP.
    """
    if not paired:
        return "; ".join(
            f"{s.name}: AP {fixed(s.metrics['ap'])}, PCK@0.05 {fixed(s.metrics['pck@0.05'])}" for s in students
        )
    ap, pck = ([pair.difference(name) for pair in paired] for name in ("ap", "pck@0.05"))
    start = f"Distilled {MINUS} baseline: {signed(statistics.mean(ap))} AP"
    end = f", {signed(statistics.mean(pck))} PCK@0.05"
    if len(paired) == 1:
        interval = ends[0]["ap"]
        known = all(map(has_value, interval))
        return start + (f" (95 % interval {' to '.join(map(signed, interval))})" if known else "") + end
    spread = f"{fixed(statistics.stdev(ap))} and {fixed(statistics.stdev(pck))}"
    return f"{start}{end}; means of {len(paired)} pairs, standard deviations {spread}"


def lesson(paired: Sequence[Pair]) -> str:
    """State in one sentence what the students of the pairs learned from; empty if it differs between the pairs."""
    found = {(pair.baseline.learned_from, pair.distilled.learned_from, pair.steps) for pair in paired}
    if len(found) != 1:
        return ""
    ((labels, teacher, steps),) = found
    many = "s" if len(paired) > 1 else ""
    equal = f"; both took {steps:,} steps" if steps else ""
    return f"The baseline{many} learned from {labels}, and the distilled student{many} from {teacher}{equal}."


def _sections(evidence: Evidence, paired: Sequence[Pair], ends: Sequence[Intervals], title: str) -> list[Markup]:
    series = ["teacher", *(f"s{i % COLOURS}" for i in range(len(evidence.students)))]
    ranked = ranked_student(evidence.students)
    places = choose(evidence, ranked)
    table = tables.comparison(evidence, series, paired, ends, torch.get_num_threads())
    return [
        element(
            "header",
            element("h1", title),
            element("p", lesson(paired), class_="lesson") if lesson(paired) else None,
            _introduction(evidence, series),
        ),
        element("section", table, _scope(evidence), id="numbers"),
        _section("Checks", "checks", _checks(checks(evidence)), "These checks were made while this page was written."),
        _learning(evidence, series),
        _differences(evidence, series, ranked, places),
        _confidence(evidence, series),
        *_people(evidence, series, ranked, places),
        _section("The store", "store", facts.store_facts(evidence)),
        *_training_stores(evidence),
        _section(
            "Recipes",
            "recipes",
            facts.recipes(evidence.students, series[1:]),
            "Settings that differ from their default in at least one run, and the weights of the loss.",
        ),
        _section(
            "Commands",
            "commands",
            facts.commands(evidence),
            "These commands train the students and write this page again.",
        ),
        element("details", element("summary", "All numbers"), tables.all_numbers(evidence, series), id="all"),
    ]


def _training_stores(evidence: Evidence) -> list[Markup]:
    """The section on the training stores, if a run had several."""
    table = facts.training_stores(evidence.students)
    lead = (
        "The stores of the runs that were trained on several. Each person of a store is seen as often per epoch as its "
        "weight; a person that is in several stores is counted in one."
    )
    return [] if table is None else [_section("Training stores", "training-stores", table, lead)]


def _learning(evidence: Evidence, series: list[str]) -> Markup:
    teacher = evidence.teacher.metrics
    lead = f"One point per epoch. The teacher has AP {fixed(teacher['ap'])} and PCK@0.05 {fixed(teacher['pck@0.05'])}."
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
    skeleton = store_skeleton(evidence.store)
    combined = "Left and right joints are combined; hover over a dot for each side. " if skeleton.flip_pairs else ""
    if figures.is_grouped(skeleton):
        combined += "Joints that differ only in their number share a row. "
    lead = (
        f"{combined}The numbered persons are shown below. "
        f"In COCO, persons of 32² to 96² pixels are medium, larger ones are large. The labelled persons of this store: "
        f"{figures.size_counts(evidence)}."
    )
    content = element("div", *charts, class_="charts in-twos")
    return _section("Where they differ", "differences", content, lead, _legend(subjects, series))


def _confidence(evidence: Evidence, series: list[str]) -> Markup:
    lead = (
        "The confidence of a joint is the height of its peak; a labelled joint is right if it is within PCK@0.05. On "
        "the dotted line, the share of right joints equals the confidence. Each point represents at least "
        f"{MIN_JOINTS} joints."
    )
    return _section("Confidence", "confidence", confidence(evidence, series), lead)


def _people(evidence: Evidence, series: list[str], ranked: Subject, places: NDArray[np.int64]) -> list[Markup]:
    """The sections of persons spread over the ranking, and of the worst persons."""
    worst = worst_first(evidence, ranked)[:WORST]
    everybody = np.union1d(places, worst)
    shown = cards(evidence, everybody, series)
    skeleton = store_skeleton(evidence.store)
    least = counted(enough_labels(len(skeleton)), "labelled joint")
    order = (
        f"{len(places)} of the persons with at least {least}, evenly spaced over the ranking "
        f"by the OKS of {ranked.name}, from the worst to the best."
    )
    if not len(worst):
        order = f"No person has {least}, so there is no ranking: {len(places)} persons of the store."
    lead = f"{order} Heatmaps show the maximum over the joints, all on the same scale."
    worst_lead = f"The {len(worst)} persons for whom {ranked.name} has the lowest OKS, the worst first."
    width = "one-column" if len(series) > 4 else ""
    across = element("div", *(shown[int(place)] for place in places), class_=f"people numbered {width}")
    failing = element("div", *(shown[int(place)] for place in worst), class_=f"people {width}")
    legend = _limb_legend(skeleton)
    found = [frames(evidence, everybody), _section("People", "people", across, lead, legend)]
    return [*found, _section("The worst", "worst", failing, worst_lead, legend)] if len(worst) else found


def ranked_student(students: Sequence[Trained]) -> Subject:
    """The student whose ranking chooses the persons: the last distilled one, or else the last one."""
    return ([s for s in students if s.distilled] or list(students))[-1]


def _section(title: str, name: str, content: Markup, lead: str = "", legend: Markup | None = None) -> Markup:
    lead_line = element("p", lead, class_="lead") if lead else None
    return element("section", element("h2", title), lead_line, legend, content, id=name)


def _introduction(evidence: Evidence, series: Sequence[str]) -> Markup:
    store, name = evidence.store, evidence.store.manifest["provenance"]["teacher"]["name"]
    sentence = element(
        "p",
        "The teacher ",
        element("b", name),
        f" predicted heatmaps for {whole(int(store.written.sum()))} persons, which are stored in ",
        element("b", store.path.name),
        ". Teacher and students were measured on these persons while this page was written:",
        class_="lede",
    )
    students = [
        element("li", element("span", s.name, class_=f"series {c}"), _about(s))
        for s, c in zip(evidence.students, series[1:], strict=True)
    ]
    return sentence + element("ul", *students, class_="students")


def _about(student: Trained) -> str:
    recipe = student.config["recipe"]
    width, height = student.student.input_size
    network = f"{recipe['student']} with {recipe['head']} head, {height}{TIMES}{width}"
    epochs = counted(recipe["epochs"], "epoch")
    stores = " and ".join(map(argument, training(student.config)))
    return f" {network}, {epochs} of {stores}, learned from {student.learned_from}"


def _scope(evidence: Evidence) -> Markup:
    name, digest = facts.annotations(evidence.store.manifest)
    return element(
        "p",
        "The percentages hold for the persons of ",
        element("b", name),
        " (sha256 ",
        element("code", digest[:12], title=digest),
        ") only. If these are the drawn people of the embedded sample, the numbers show that the software works and "
        "say nothing about photographs. The best student of a row is set in bold. The small range is the 95 % interval "
        "of a paired bootstrap over the images; it does not include the variation between training seeds. A difference "
        "is coloured if its interval does not contain 0.",
        f" {note}" if (note := sigmas_note(store_skeleton(evidence.store))) else None,
        class_="note",
    )


def _checks(found: Sequence[Check]) -> Markup:
    items = [element("li", check.text, class_="passed" if check.passed else "failed") for check in found]
    return element("ul", *items, class_="checks")


def _legend(subjects: Sequence[Subject], series: Sequence[str]) -> Markup:
    keys = [element("span", s.name, class_=f"series {c}") for s, c in zip(subjects, series, strict=True)]
    return element("p", *keys, class_="legend")


def _limb_legend(skeleton: Skeleton) -> Markup:
    """The colours of the sides that the skeleton has."""
    middle = "across both sides, and the nose" if skeleton == COCO else "across both sides, or without a side"
    sides = (("left", "the person's left"), ("right", "the person's right"), ("mid", middle))
    limbs = {skeleton.limb_side(*limb) for limb in skeleton.limbs}
    keys = [
        element("span", text, class_=f"limb-key {side}") for side, text in sides if side in limbs | {*skeleton.sides}
    ]
    return element("p", *keys, element("span", "faint: a joint without a label, which does not count"), class_="legend")
