"""The store's own account of itself: its teacher, its data, its bytes."""

from collections.abc import Sequence
from typing import Any

from train.report.evidence import Evidence
from train.report.markup import Markup, element, join
from train.report.numbers import DASH, TIMES, fixed, power, size

Fact = tuple[str, Any]


def store_facts(evidence: Evidence) -> Markup:
    """The manifest in three groups: teacher, data, bytes."""
    store = evidence.store
    about = store.manifest["provenance"]
    groups = (
        ("Teacher", _teacher_facts(store.manifest)),
        ("Data", _data_facts(store.manifest)),
        ("Bytes", _byte_facts(store)),
    )
    columns = [element("section", element("h3", title), _list(facts), class_="facts") for title, facts in groups]
    software = ", ".join(f"{name} {version}" for name, version in about.get("software", {}).items())
    notes = [element("p", text, class_="note") for text in (f"Made with {software}.", about.get("licence", "")) if text]
    return join([element("div", *columns, class_="columns"), *notes])


def _teacher_facts(manifest: Any) -> list[Fact]:
    teacher, views = manifest["provenance"]["teacher"], manifest["provenance"].get("views", {})
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
    data, logits = manifest["provenance"].get("dataset", {}), manifest["provenance"]["logits"]
    (name, digest), boxes = annotations(manifest), data.get("boxes")
    rest = {key: value for key, value in data.items() if key not in ("annotations", "boxes")}
    return [
        ("annotations", name),
        ("sha256", _hash(digest)),
        ("boxes", boxes["name"] if boxes else "as annotated"),
        *((key.replace("_", " "), _plain(value)) for key, value in rest.items()),
        ("logits", f"{logits['transform']}, floor {logits['floor']:g}"),
    ]


def annotations(manifest: Any) -> tuple[str, str]:
    """Name and sha256 of the file with the labels; dashes where the store does not say."""
    file = manifest["provenance"].get("dataset", {}).get("annotations") or {}
    return file.get("name", DASH), file.get("sha256", DASH)


def _plain(value: Any) -> str:
    """A value of the manifest in words."""
    words = {None: "none", True: "yes", False: "no"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def _byte_facts(store: Any) -> list[Fact]:
    spec, codec = store.manifest["spec"], store.manifest["spec"]["codec"]
    as_float = 4 * spec["views"] * spec["joints"] * spec["height"] * spec["width"]
    settings = ", ".join(f"{name} {value}" for name, value in codec.items() if name != "name")
    log, soft = store.manifest["codec_error"]["log_t1"], store.manifest["codec_error"]["log_t4"]
    return [
        ("codec", f"{codec['name']} ({settings})"),
        ("its error at T = 1", f"{power(log['mean'])} nats, worst {power(log['worst'])}"),
        ("its error at T = 4", f"{power(soft['mean'])} nats, worst {power(soft['worst'])}"),
        ("an instance", f"{size(store.nbytes / max(len(store), 1))} on disk, all told"),
        ("its maps as float32", size(as_float)),
        ("frames", "in the store" if store.has_frames else "left out"),
        ("content", _hash(store.manifest["content_sha256"])),
    ]


def _height_by_width(size_: Sequence[int]) -> str:
    return f"{size_[1]}{TIMES}{size_[0]}"


def _hash(value: str | None) -> Markup | str:
    """The first digits of a hash, all of it on hover and for copying."""
    return element("code", value, title=value, class_="hash") if value else DASH


def _list(facts: Sequence[Fact]) -> Markup:
    return element("dl", *(element("dt", name) + element("dd", value) for name, value in facts))
