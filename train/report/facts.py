"""Where the numbers come from: the store's manifest, the recipe of each run, and the commands that repeat it."""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.recipe import Recipe
from train.report.comparison import TEACHER_KNOBS
from train.report.evidence import Evidence, Trained
from train.report.markup import Markup, element, join
from train.report.numbers import DASH, TIMES, fixed, power, size

Fact = tuple[str, Any]
DEFAULTS = {field.name: field.default for field in dataclasses.fields(Recipe)}


def store_facts(evidence: Evidence) -> Markup:
    """The manifest in three groups: teacher, data, bytes."""
    store = evidence.store
    about = store.manifest["provenance"]
    groups = (
        ("Teacher", _teacher_facts(store.manifest)),
        ("Data", _data_facts(store.manifest)),
        ("Bytes", _byte_facts(store)),
        ("Software", list(about.get("software", {}).items())),
    )
    columns = [element("section", element("h3", title), _list(facts), class_="facts") for title, facts in groups]
    return join([element("div", *columns, class_="columns"), element("p", about.get("licence", ""), class_="note")])


def _teacher_facts(manifest: Any) -> list[Fact]:
    teacher, views = manifest["provenance"]["teacher"], manifest["provenance"]["views"]
    flips = ", ".join("mirrored" if flip else "plain" for flip in views.get("flips", []))
    return [
        ("name", teacher["name"]),
        ("weights", _hash(teacher.get("weights_sha256"))),
        ("input", _height_by_width(teacher["input_size"])),
        ("heatmaps", f"{manifest['spec']['joints']} of {_height_by_width(teacher['heatmap_size'])}"),
        ("precision", teacher.get("precision", DASH)),
        ("flip test", "yes, in each stored map" if teacher.get("flip_test") else "no"),
        ("views", f"{manifest['spec']['views']} ({flips})"),
        ("AP when stored", fixed((manifest["teacher_metrics"] or {}).get("ap"), 2)),
    ]


def _data_facts(manifest: Any) -> list[Fact]:
    data, logits = manifest["provenance"]["dataset"], manifest["provenance"]["logits"]
    annotations, boxes = data["annotations"], data.get("boxes")
    rest = {name: value for name, value in data.items() if name not in ("annotations", "boxes")}
    return [
        ("annotations", annotations["name"]),
        ("sha256", _hash(annotations["sha256"])),
        ("boxes", boxes["name"] if boxes else "as annotated"),
        *((name.replace("_", " "), DASH if value is None else value) for name, value in rest.items()),
        ("logits", f"{logits['transform']}, floor {logits['floor']:g}"),
    ]


def _byte_facts(store: Any) -> list[Fact]:
    spec, codec = store.manifest["spec"], store.manifest["spec"]["codec"]
    as_float = 4 * spec["views"] * spec["joints"] * spec["height"] * spec["width"]
    settings = ", ".join(f"{name} {value}" for name, value in codec.items() if name != "name")
    log, soft = store.manifest["codec_error"]["log_t1"], store.manifest["codec_error"]["log_t4"]
    return [
        ("codec", f"{codec['name']} ({settings})"),
        ("its error at T = 1", f"{power(log['mean'])} nats, worst {power(log['worst'])}"),
        ("its error at T = 4", f"{power(soft['mean'])} nats, worst {power(soft['worst'])}"),
        ("an instance", f"{size(_bytes_on_disk(store.path) / max(len(store), 1))} on disk, all told"),
        ("its maps as float32", size(as_float)),
        ("frames", "in the store" if store.has_frames else "left out"),
        ("content", _hash(store.manifest["content_sha256"])),
    ]


def _bytes_on_disk(path: Path) -> int:
    return (
        sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size
    )


def _height_by_width(size_: Sequence[int]) -> str:
    return f"{size_[1]}{TIMES}{size_[0]}"


def _hash(value: str | None) -> Markup | str:
    """The first digits of a hash, all of it on hover and for copying."""
    return element("code", value, title=value, class_="hash") if value else DASH


def _list(facts: Sequence[Fact]) -> Markup:
    return element("dl", *(element("dt", name) + element("dd", value) for name, value in facts))


def recipes(students: Sequence[Trained], series: Sequence[str]) -> Markup:
    """A column a run: what is not default in one of them, or differs between them, and the weights of the loss."""
    shown = [name for name in DEFAULTS if _is_telling(name, students)]
    rows = [
        element(
            "tr",
            element("th", name.replace("_", " "), scope="row"),
            *(element("td", _setting(student, name)) for student in students),
            element("td", _text(name, DEFAULTS[name]), class_="default"),
        )
        for name in shown
    ]
    weights = [
        element(
            "tr",
            element("th", f"weight of the {who}", scope="row"),
            *(element("td", f"{getattr(student.student.supervision, field):g}") for student in students),
            element("td", class_="default"),
        )
        for field, who in (("gt_weight", "labels"), ("kd_weight", "teacher"))
    ]
    titles = [
        element("th", element("span", s.name, class_=f"series {c}"), scope="col")
        for s, c in zip(students, series, strict=True)
    ]
    head = element("tr", element("td"), *titles, element("th", "default", scope="col", class_="default"))
    return element(
        "div", element("table", element("thead", head), element("tbody", *weights, *rows)), class_="scroll", tabindex=0
    )


def _is_telling(name: str, students: Sequence[Trained]) -> bool:
    values = [
        student.config["recipe"].get(name) for student in students if student.distilled or name not in TEACHER_KNOBS
    ]
    weight = name in ("gt_weight", "kd_weight")
    return not weight and any(value != DEFAULTS[name] for value in values)


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
    """What to type to train these students and to make this page again."""
    lines = [_command(student) for student in evidence.students]
    folders = " ".join(shlex.quote(student.folder.name) for student in evidence.students)
    lines.append(
        f"python -m train report --store {shlex.quote(evidence.store.path.name)} --runs {folders} --out report.html"
    )
    return element("pre", element("code", "\n".join(lines)), tabindex=0)


def _command(student: Trained) -> str:
    config = student.config
    recipe = {name: value for name, value in config["recipe"].items() if value != DEFAULTS.get(name)}
    flags = [f"--{name.replace('_', '-')} {shlex.quote(_text(name, value))}" for name, value in recipe.items()]
    store, val_store = (shlex.quote(config[name]["name"]) for name in ("store", "val_store"))
    command = "distill" if student.distilled else "baseline"
    places = f"--store {store} --val-store {val_store} --out {shlex.quote(student.folder.name)}"
    return " ".join([f"python -m train {command} {places}", *flags])
