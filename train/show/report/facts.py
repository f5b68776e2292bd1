"""The facts of a report: the store's manifest, the recipes of the runs, and the commands that reproduce them."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cache import Store
from kdlib.metrics.evaluation import describe_sigmas
from kdlib.skeletons.reading import ENTRY, skeleton_of
from train.recipe import Recipe
from train.show.report.comparison import TEACHER_SETTINGS
from train.show.report.evidence import Evidence, Trained
from train.show.report.markup import DASH, TIMES, Markup, element, fixed, join, power, size
from train.show.report.tables import column_heads, wide
from train.stores import argument, recorded, training

Fact = tuple[str, Any]
"""Name and value."""
DEFAULTS: Final = {field.name: field.default for field in dataclasses.fields(Recipe)}
WEIGHTS: Final = {"gt_weight": "weight of the labels", "kd_weight": "weight of the teacher"}
"""Settings that are always shown, with their titles."""


# --- the store --------------------------------------------------------------------------------------------------------


def store_facts(evidence: Evidence) -> Markup:
    """Show the manifest in three groups: teacher, data, bytes."""
    store = evidence.store
    about = store.manifest["provenance"]
    groups = (
        ("Teacher", teacher_facts(store.manifest)),
        ("Data", data_facts(store.manifest)),
        ("Bytes", _byte_facts(store)),
    )
    columns = [element("section", element("h3", title), _list(facts), class_="facts") for title, facts in groups]
    software = ", ".join(f"{name} {version}" for name, version in about.get("software", {}).items())
    notes = [element("p", text, class_="note") for text in (f"Software: {software}.", about.get("licence", "")) if text]
    return join([element("div", *columns, class_="columns"), *notes])


class Hash(str):
    """A hash, which a page may shorten."""

    __slots__ = ()


def teacher_facts(manifest: Mapping[str, Any]) -> list[Fact]:
    """Describe the teacher of a store, from its manifest."""
    teacher, views = manifest["provenance"]["teacher"], manifest["provenance"].get("views", {})
    flips = ", ".join("mirrored" if flip else "plain" for flip in views.get("flips", []))
    return [
        ("name", teacher["name"]),
        ("weights", _hash(teacher.get("weights_sha256"))),
        ("input", _height_by_width(teacher["input_size"])),
        ("heatmaps", f"{manifest['spec']['joints']} of {_height_by_width(teacher['heatmap_size'])}"),
        *_skeleton_facts(manifest),
        ("precision", teacher.get("precision", DASH)),
        ("flip test", "yes, in each stored heatmap" if teacher.get("flip_test") else "no"),
        ("stored views", f"{manifest['spec']['views']} ({flips})"),
        ("AP when stored", fixed((manifest["teacher_metrics"] or {}).get("ap"), 2)),
    ]


def _skeleton_facts(manifest: Mapping[str, Any]) -> list[Fact]:
    """The skeleton and its sigmas; nothing for COCO's, which manifests do not state."""
    if ENTRY not in manifest["provenance"]:
        return []
    skeleton = skeleton_of(manifest["provenance"], manifest["spec"]["joints"], "manifest")
    return [("skeleton", skeleton.name), ("OKS sigmas", describe_sigmas(skeleton))]


def data_facts(manifest: Mapping[str, Any]) -> list[Fact]:
    """Describe the data of a store, from its manifest."""
    data, logits = manifest["provenance"].get("dataset", {}), manifest["provenance"]["logits"]
    (name, digest), boxes = annotations(manifest), data.get("boxes")
    rest = {key: value for key, value in data.items() if key not in ("annotations", "boxes")}
    return [
        ("annotations", name),
        ("sha256", _hash(digest)),
        ("boxes", boxes["name"] if boxes else "annotated boxes"),
        *((key.replace("_", " "), _plain(value)) for key, value in rest.items()),
        ("logits", f"{logits['transform']}, floor {logits['floor']:g}"),
    ]


def annotations(manifest: Mapping[str, Any]) -> tuple[str, str]:
    """Name and SHA-256 of the file with the labels; dashes if the manifest does not hold them."""
    file = manifest["provenance"].get("dataset", {}).get("annotations") or {}
    return file.get("name", DASH), file.get("sha256", DASH)


def _plain(value: Any) -> str:
    """A value of the manifest as text."""
    words = {None: "none", True: "yes", False: "no"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def codec_facts(manifest: Mapping[str, Any]) -> list[Fact]:
    """Describe the codec of a store and its measured error, from its manifest."""
    codec = manifest["spec"]["codec"]
    settings = ", ".join(f"{name} {value}" for name, value in codec.items() if name != "name")
    log, soft = manifest["codec_error"]["log_t1"], manifest["codec_error"]["log_t4"]
    return [
        ("codec", f"{codec['name']} ({settings})"),
        ("codec error at T = 1", f"{power(log['mean'])} nats, worst {power(log['worst'])}"),
        ("codec error at T = 4", f"{power(soft['mean'])} nats, worst {power(soft['worst'])}"),
    ]


def _byte_facts(store: Store) -> list[Fact]:
    spec = store.manifest["spec"]
    as_float = 4 * spec["views"] * spec["joints"] * spec["height"] * spec["width"]
    return [
        *codec_facts(store.manifest),
        ("per instance", f"{size(store.nbytes / max(len(store), 1))} on disk, all data included"),
        ("heatmaps as float32", size(as_float)),
        ("frames", "in the store" if store.has_frames else "not stored"),
        ("content", _hash(store.manifest["content_sha256"])),
    ]


def _height_by_width(size_: Sequence[int]) -> str:
    return f"{size_[1]}{TIMES}{size_[0]}"


def _hash(value: str | None) -> str:
    return Hash(value) if value else DASH


def _list(facts: Sequence[Fact]) -> Markup:
    return element("dl", *(element("dt", name) + element("dd", _shown(value)) for name, value in facts))


def _shown(value: Any) -> Any:
    """Of a hash, the page shows the first digits; hovering shows all of it, and copying copies all of it."""
    return element("code", value, title=value, class_="hash") if isinstance(value, Hash) else value


# --- training stores --------------------------------------------------------------------------------------------------


def training_stores(students: Sequence[Trained]) -> Markup | None:
    """Tabulate the training stores of the runs that had several; None if there is no such run."""
    rows = [row for student in students for row in _training_rows(student)]
    if not rows:
        return None
    names = ("run", "store", "persons", "weight", "teacher", "teacher's weights", "annotations", "codec", "content")
    head = element("thead", element("tr", *(element("th", name, scope="col") for name in names)))
    return wide(element("table", head, element("tbody", *rows)))


def _training_rows(student: Trained) -> list[Markup]:
    """A row per training store of a run; none if it had one store."""
    manifests = recorded(student.config.get("manifests") or {})
    rows = []
    for name, of in recorded(student.config).items():
        if of is None or "weight" not in of:
            continue
        manifest = manifests.get(name)
        facts = {**dict(teacher_facts(manifest)), **dict(codec_facts(manifest))} if manifest else {}
        cells = [
            f"{of['instances']:,}",
            f"{of['weight']:g}",
            facts.get("name", DASH),
            facts.get("weights", DASH),
            annotations(manifest)[0] if manifest else DASH,
            facts.get("codec", DASH),
            _hash(of["content_sha256"]),
        ]
        heads = element("th", student.name, scope="row"), element("td", of["name"])
        rows.append(element("tr", *heads, *(element("td", _shown(cell)) for cell in cells)))
    return rows


# --- recipes ----------------------------------------------------------------------------------------------------------


def recipes(students: Sequence[Trained], series: Sequence[str]) -> Markup:
    """Tabulate the weights of the losses, and the settings that differ from the default in some run."""
    rows = [
        _row(title, [f"{getattr(student.supervision, name):g}" for student in students], "")
        for name, title in WEIGHTS.items()
    ]
    rows += [
        _row(name.replace("_", " "), [_setting(student, name) for student in students], _text(name, default))
        for name, default in DEFAULTS.items()
        if _is_shown(name, students)
    ]
    heads = [*column_heads(students, series), element("th", "default", scope="col", class_="default")]
    head = element("thead", element("tr", element("td"), *heads))
    return wide(element("table", head, element("tbody", *rows)))


def _row(title: str, settings: Sequence[str], default: str) -> Markup:
    cells = [element("td", setting) for setting in settings]
    return element("tr", element("th", title, scope="row"), *cells, element("td", default, class_="default"))


def _is_shown(name: str, students: Sequence[Trained]) -> bool:
    values = [
        student.config["recipe"].get(name) for student in students if student.distilled or name not in TEACHER_SETTINGS
    ]
    return name not in WEIGHTS and any(value != DEFAULTS[name] for value in values)


def _setting(student: Trained, name: str) -> str:
    if name in TEACHER_SETTINGS and not student.distilled:
        return DASH
    return _text(name, student.config["recipe"].get(name))


def _text(name: str, value: Any) -> str:
    """A setting as the command line takes it; for a file only its name, so that no folder of this machine is shown."""
    if value in ("", None):
        return "the teacher's" if name == "input_size" else DASH
    return Path(value).name if name == "pretrained" else str(value)


# --- commands ---------------------------------------------------------------------------------------------------------


def commands(evidence: Evidence) -> Markup:
    """Show the commands that train these students and write this page again; paths are shortened to names."""
    lines = [
        training_command(student.config, student.folder.name, distilled=student.distilled)
        for student in evidence.students
    ]
    folders = " ".join(shlex.quote(student.folder.name) for student in evidence.students)
    store = shlex.quote(evidence.store.path.name)
    lines.append(f"python -m train report --store {store} --runs {folders} --out report.html")
    return element("pre", element("code", "\n\n".join(lines)), tabindex=0)


def training_command(config: Mapping[str, Any], folder: str, *, distilled: bool) -> str:
    """The command that trains a student again, with the settings that differ from their default.

    Args:
        config: The configuration in the run's checkpoint.
        folder: Name of the run folder.
        distilled: Whether the student was trained on a teacher.
    """
    stores = " ".join(f"--store {shlex.quote(argument(of))}" for of in training(config))
    val_store = shlex.quote(config["val_store"]["name"])
    recipe = {name: value for name, value in config["recipe"].items() if value != DEFAULTS.get(name)}
    flags = [f"--{name.replace('_', '-')} {shlex.quote(_text(name, value))}" for name, value in recipe.items()]
    places = [f"{stores} --val-store {val_store}", f"--out {shlex.quote(folder)}"]
    command = "distill" if distilled else "baseline"
    lines = [f"python -m train {command} {places[0]}", *places[1:], *([" ".join(flags)] if flags else [])]
    return " \\\n    ".join(lines)
