"""How each student was trained, where that is not the default, and the commands that do it again."""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.recipe import Recipe
from train.report.comparison import TEACHER_KNOBS
from train.report.evidence import Evidence, Trained
from train.report.markup import Markup, element
from train.report.numbers import DASH
from train.report.tables import column_heads, wide

DEFAULTS = {field.name: field.default for field in dataclasses.fields(Recipe)}
WEIGHTS = {"gt_weight": "weight of the labels", "kd_weight": "weight of the teacher"}


def recipes(students: Sequence[Trained], series: Sequence[str]) -> Markup:
    """A column a run: the weights of its loss, and what is not the default in one of them."""
    rows = [
        _row(title, [f"{getattr(student.student.supervision, name):g}" for student in students], "")
        for name, title in WEIGHTS.items()
    ]
    rows += [
        _row(name.replace("_", " "), [_setting(student, name) for student in students], _text(name, default))
        for name, default in DEFAULTS.items()
        if _is_telling(name, students)
    ]
    heads = [*column_heads(students, series), element("th", "default", scope="col", class_="default")]
    head = element("thead", element("tr", element("td"), *heads))
    return wide(element("table", head, element("tbody", *rows)))


def _row(title: str, settings: Sequence[str], default: str) -> Markup:
    cells = [element("td", setting) for setting in settings]
    return element("tr", element("th", title, scope="row"), *cells, element("td", default, class_="default"))


def _is_telling(name: str, students: Sequence[Trained]) -> bool:
    values = [
        student.config["recipe"].get(name) for student in students if student.distilled or name not in TEACHER_KNOBS
    ]
    return name not in WEIGHTS and any(value != DEFAULTS[name] for value in values)


def _setting(student: Trained, name: str) -> str:
    if name in TEACHER_KNOBS and not student.distilled:
        return DASH
    return _text(name, student.config["recipe"].get(name))


def _text(name: str, value: Any) -> str:
    """A setting as the command line takes it; of a file its name alone, which says enough and tells no folders."""
    if value in ("", None):
        return "the teacher's" if name == "input_size" else DASH
    return Path(value).name if name == "pretrained" else str(value)


def commands(evidence: Evidence) -> Markup:
    """What to type to train these students and to make this page again; folders are left to the reader."""
    lines = [_command(student) for student in evidence.students]
    folders = " ".join(shlex.quote(student.folder.name) for student in evidence.students)
    store = shlex.quote(evidence.store.path.name)
    lines.append(f"python -m train report --store {store} --runs {folders} --out report.html")
    return element("pre", element("code", "\n\n".join(lines)), tabindex=0)


def _command(student: Trained) -> str:
    config, command = student.config, "distill" if student.distilled else "baseline"
    store, val_store = (shlex.quote(config[name]["name"]) for name in ("store", "val_store"))
    recipe = {name: value for name, value in config["recipe"].items() if value != DEFAULTS.get(name)}
    flags = [f"--{name.replace('_', '-')} {shlex.quote(_text(name, value))}" for name, value in recipe.items()]
    places = [f"--store {store} --val-store {val_store}", f"--out {shlex.quote(student.folder.name)}"]
    lines = [f"python -m train {command} {places[0]}", *places[1:], *([" ".join(flags)] if flags else [])]
    return " \\\n    ".join(lines)
