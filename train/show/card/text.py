"""The text of a card: its header for hubs, and its sections in order."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from kdcli.front_matter import front_matter
from kdcli.words import counted
from kdlib.machine.cost import multiply_adds, parameter_count
from kdlib.skeletons.skeleton import split_words
from train.show.card.facts import RunFacts, store_name
from train.show.card.markdown import code, fact_table, plain, table
from train.show.card.numbers import numbers
from train.show.report.facts import Fact, Hash, codec_facts, data_facts, teacher_facts, training_command
from train.show.report.markup import DASH, TIMES, billions, fixed, has_value, millions, size, whole
from train.show.report.tables import accuracy_rows

MARK: Final = "<!-- Written by `python -m train card`; it is replaced when the command runs again. -->"
"""A line that only a card has."""
LIBRARY: Final = "pose-teacher-cache"
UNKNOWN: Final = "unknown"
"""The licence of the header if none was given; hubs know this word."""
SAMPLE_TEACHER: Final = "hrnet_w16_sample"
IF_SAMPLE: Final = (
    "It is not known which persons these are. If they are the drawn people of the embedded sample, the numbers show "
    "that the software works and say nothing about photographs."
)
SAMPLE_WARNING: Final = (
    "**The store of this student was made by the embedded sample's teacher, a small network for people drawn by a "
    "program. Numbers on drawn people show that the software works; they say nothing about human pose in photographs.**"
)


@dataclasses.dataclass(frozen=True)
class ListedFile:
    """A file of the student, for the card's list of files."""

    name: str
    """Its path from the folder of the card."""
    nbytes: int
    about: str
    """What it is, e.g. ``ONNX, float32``."""
    kind: str
    """``checkpoint``, ``onnx`` (uint8 input) or another word; decides which examples the card shows."""
    ms: float | None = None
    """Milliseconds per crop, if measured."""
    where: str = ""
    """What was measured, with how many threads, on which processor."""
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """AP and PCK in percent with the name of their ``store``, if they were measured with this file."""

    def __str__(self) -> str:
        latency = f", {self.ms:.2f} ms per crop" if self.ms is not None else ""
        names = {"ap": "AP", "pck@0.1": "PCK@0.1"}
        numbers = [f", {text} {fixed(self.metrics[key])}" for key, text in names.items() if key in self.metrics]
        return f"{size(self.nbytes)}, {self.about}{latency}{''.join(numbers)}"


@dataclasses.dataclass(frozen=True)
class Card:
    """What a card shows.

    Attributes:
        run: The run.
        files: Files of the student, the one for the examples first.
        picture: Name of the picture of the learning curves in the folder of the card; None if there is none.
        license: Identifier of the student's licence on hubs; None if it is not stated.
        left_out: Files that a release lacks, with the reason.
        release: Whether the card lies in a release folder.
    """

    run: RunFacts
    files: Sequence[ListedFile]
    picture: str | None
    license: str | None = None
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    release: bool = False

    def text(self) -> str:
        """The Markdown text."""
        parts = [
            f"# {plain(_title(self.run))}",
            _introduction(self.run),
            SAMPLE_WARNING if is_sample(self.run) else "",
            *numbers(self.run, self.picture, self.files[0].name),
            *_files(self),
            *_use(self),
            *_input_and_output(self.run),
            *_training(self.run),
            *_stores(self.run),
            *_intended_use(self.run),
            *_limits(self.run),
            *_licences(self),
        ]
        body = "\n\n".join(part for part in parts if part)
        return f"{front_matter(_header(self))}\n{MARK}\n\n{body}\n"


def is_sample(run: RunFacts) -> bool:
    """Whether a store of the run holds the heatmaps of the embedded sample's teacher."""
    known = [manifest for manifest in run.manifests.values() if manifest]
    return any(manifest["provenance"]["teacher"].get("name") == SAMPLE_TEACHER for manifest in known)


# --- names ------------------------------------------------------------------------------------------------------------


def _title(run: RunFacts) -> str:
    return f"Pose student {run.config['recipe']['student']}, {_input(run)}, {_source(run)}"


def _input(run: RunFacts) -> str:
    width, height = run.student.input_size
    return f"{height}{TIMES}{width}"


def _source(run: RunFacts) -> str:
    if not run.distilled:
        return "trained on labels"
    return f"distilled from {' and '.join(run.teachers)}" if run.teachers else "distilled from a teacher's heatmaps"


# --- header -----------------------------------------------------------------------------------------------------------


def _header(card: Card) -> dict[str, Any]:
    """What model hubs read; without numbers that compare nothing: of unfinished runs, drawn people, unknown data."""
    run = card.run
    kinds = {"onnx"} if any(file.kind == "onnx" for file in card.files) else set()
    human = ["human-pose"] if is_human(run) else []
    tags = ["pose-estimation", *human, *sorted(kinds), *(["knowledge-distillation"] if run.distilled else [])]
    header: dict[str, Any] = {
        "license": card.license or UNKNOWN,
        "library_name": LIBRARY,
        "pipeline_tag": "keypoint-detection",
        "tags": [*tags, LIBRARY],
    }
    metrics = run.metrics or {}
    values = [
        {"type": row.key, "name": row.name, "value": round(metrics[row.key], 2)}
        for row in accuracy_rows(metrics)
        if has_value(metrics.get(row.key))
    ]
    if run.finished and values and run.manifests["val_store"] and not is_sample(run):
        dataset = {"type": "coco-keypoints-format", "name": store_name(run, "val_store")}
        task = {"type": "keypoint-detection", "name": f"2D {'human ' if human else ''}pose estimation"}
        result = {"task": task, "dataset": dataset, "metrics": values}
        header["metrics"] = [value["type"] for value in values]
        header["model-index"] = [{"name": _title(run), "results": [result]}]
    return header


# --- sections ---------------------------------------------------------------------------------------------------------


def _introduction(run: RunFacts) -> str:
    names, plural = " and ".join(map(code, run.teachers)), "s" if len(run.teachers) > 1 else ""
    teachers = f"the heatmaps of the teacher{plural} {names}" if names else "a teacher's heatmaps"
    sources = [*(["labels"] if run.labels or not run.distilled else []), *([teachers] if run.distilled else [])]
    model = run.student.model
    return (
        f"A small network for top-down 2D {_pose(run)} in a box, it predicts "
        f"{counted(run.student.joints, 'joint')}. "
        f"It has {millions(parameter_count(model))} parameters and needs "
        f"{billions(multiply_adds(model, run.student.input_size))} billion multiply-adds per person. It was trained on "
        f"{' and '.join(sources)}, with {LIBRARY}."
    )


def is_human(run: RunFacts) -> bool:
    """Whether the joints are those of a person's body: with wrists and ankles, which neither hands nor animals have."""
    words = {word for joint in run.student.skeleton.joints for word in split_words(joint)}
    return {"wrist", "ankle"} <= words


def _pose(run: RunFacts) -> str:
    return (
        "human pose: for a person" if is_human(run) else f"pose of {plain(run.student.skeleton.name)}: for an instance"
    )


def _files(card: Card) -> list[str]:
    measured = any(file.metrics for file in card.files)
    timed = any(file.ms is not None for file in card.files)
    head = ["file", "content", "size", *(["ms per crop"] if timed else []), *(["AP", "PCK@0.1"] if measured else [])]
    rows = []
    for file in card.files:
        row = [code(file.name), file.about, size(file.nbytes), *([fixed(file.ms, 2)] if timed else [])]
        rows.append([*row, *([fixed(file.metrics.get(key)) for key in ("ap", "pck@0.1")] if measured else [])])
    places = sorted({file.where for file in card.files if file.ms is not None})
    notes = [f"Latency: {'; '.join(map(plain, places))}."] if timed else []
    if stores := sorted({str(file.metrics["store"]) for file in card.files if "store" in file.metrics}):
        notes.append(f"AP and PCK@0.1 of the files: in percent, on {', '.join(map(code, stores))}.")
    if not timed and has_value(card.run.cost.get("cpu_ms")):
        notes.append(
            f"Latency of the checkpoint in PyTorch: {fixed(card.run.cost['cpu_ms'])} ms per crop, on the CPU of the "
            "machine that evaluated the run."
        )
    if card.release:
        notes.append("`sha256sum -c SHA256SUMS` checks the files.")
    notes += [f"Left out: {code(name)}. {plain(reason)}." for name, reason in card.left_out.items()]
    return ["## Files", table(head, rows), *notes]


def _use(card: Card) -> list[str]:
    """Examples, which are run from the folder of the card."""
    loadable = [file for file in card.files if file.kind != "pt2"]
    name, joints = loadable[0].name, card.run.student.joints
    folder = " `--student .`, this folder, also works; its checksums are verified first." if card.release else ""
    needs = "pip install '.[export]'" if name.endswith(".onnx") else "pip install ."
    python = f"""\
```python
from kdlib.students import load_student

student = load_student("{name}")
keypoints = student.predict("photo.jpg", boxes=[[48, 20, 180, 400]])  # x, y, width, height in image pixels
keypoints  # (1, {joints}, 3): x and y in image pixels, and the height of the joint's heatmap
```"""
    quoted = shlex.quote(name)
    shell = f"""\
```bash
python -m train predict photo.jpg --student {quoted} --out predictions
python -m train predict images/ --student {quoted} --boxes detections.json --out predictions
```"""
    lead = f"In the folder of this card, with {LIBRARY} (`{needs}` in its repository):"
    note = f"Without boxes, the whole image is one box, which suits an image of one person.{folder}"
    onnx = next((file for file in card.files if file.kind == "onnx"), None)
    return ["## Use", lead, python, shell, note, *(_use_onnx(card.run, onnx) if onnx else [])]


def _use_onnx(run: RunFacts, file: ListedFile) -> list[str]:
    width, height = run.student.input_size
    stride = run.student.model.stride
    return [
        "With onnxruntime and OpenCV alone, for a crop of one person:",
        f"""\
```python
import cv2
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{file.name}")
crop = cv2.cvtColor(cv2.resize(cv2.imread("person.jpg"), ({width}, {height})), cv2.COLOR_BGR2RGB)
(heatmaps,) = session.run(["heatmaps"], {{"image": crop[None]}})
y, x = np.divmod(heatmaps[0].reshape({run.student.joints}, -1).argmax(axis=1), heatmaps.shape[-1])
points = {stride} * np.stack([x, y], axis=1)  # pixels of the resized crop
```""",
    ]


def _input_and_output(run: RunFacts) -> list[str]:
    skeleton = run.student.skeleton
    joints = ", ".join(plain(name.replace("_", " ")) for name in skeleton.joints)
    owner = "person's own" if is_human(run) else "instance's own"
    sides = f" Left and right are the {owner}." if {"left", "right"} & {*skeleton.sides} else ""
    return [
        "## Input and output",
        f"Input: RGB crops of {_input(run)} pixels (height {TIMES} width). `predict` makes them: it extends the box to "
        "this aspect, enlarges it by 25 %, and scales the crop. Output: one heatmap per joint. The height of its peak "
        "serves as confidence; it is not a probability and may exceed 1.",
        f"The joints, in order: {joints}.{sides}",
    ]


def _training(run: RunFacts) -> list[str]:
    config = run.config
    known = all(of.get("name") for of in run.stores.values())
    command = f"```bash\n{training_command(config, run.folder.name, distilled=run.distilled)}\n```" if known else ""
    start = (config.get("resolved") or {}).get("start")
    return [
        "## Training",
        f"Backbone {code(config['recipe']['student'])}, head {code(config['recipe']['head'])}, "
        f"{counted(config['recipe']['epochs'], 'epoch')}." + (f" {plain(_sentence(start))}" if start else ""),
        command,
        f"Checkpoint: sha256 {code(run.sha256)}.",
    ]


def _sentence(text: str) -> str:
    """A line of the run as a sentence; it may name a file, of which the card shows the name only."""
    words = [Path(word).name if "/" in word else word for word in text.split()]
    joined = " ".join(words)
    return joined[:1].upper() + joined[1:] + "."


def _stores(run: RunFacts) -> list[str]:
    parts = ["## Origin of the data"]
    for name, identity in run.stores.items():
        manifest, trained_on = run.manifests[name], name in run.training_stores
        title = "Training store" if trained_on else "Validation store"
        parts.append(f"### {title} {code(identity.get('name', 'unknown'))}")
        if "weight" in identity:
            often = "once" if identity["weight"] == 1 else f"{identity['weight']:g} times"
            parts.append(
                f"Of this store, {counted(identity['instances'], 'person')} were used, each {often} per epoch."
            )
        if manifest is None:
            content = (
                f" Its content_sha256 is {code(identity['content_sha256'])}." if "content_sha256" in identity else ""
            )
            parts.append(
                "The manifest of this store was not available, so its teacher, data set and codec are not stated "
                f"here.{content}"
            )
            continue
        content_fact: Fact = ("content sha256", Hash(manifest["content_sha256"]))
        parts.append(fact_table("teacher", [*teacher_facts(manifest), *_members(manifest)]) if trained_on else "")
        codec = codec_facts(manifest) if trained_on else []
        if trained_on and not run.distilled:
            parts.append("The student was trained on the frames and labels of this store, not on its heatmaps.")
        parts.append(fact_table("data", [*data_facts(manifest), *codec, content_fact]))
    return parts


def _members(manifest: Mapping[str, Any]) -> list[Fact]:
    members = manifest["provenance"]["teacher"].get("members") or []
    return [(f"member {member.get('name', DASH)}", Hash(member.get("weights_sha256", DASH))) for member in members]


def _intended_use(run: RunFacts) -> list[str]:
    of = "persons" if is_human(run) else f"the kind {plain(run.student.skeleton.name)}"
    return [
        "## Intended use",
        f"Keypoints of {of} in photographs and in frames of videos. A detector or an annotator gives the boxes.",
        "The student was not measured for identifying persons, nor for medical, safety or legal decisions. Do not use "
        "it for these purposes without measurements of your own.",
    ]


def _limits(run: RunFacts) -> list[str]:
    metrics, manifest = run.metrics or {}, run.manifests["val_store"]
    boxes = ""
    if manifest:
        boxes = "detected" if manifest["provenance"].get("dataset", {}).get("boxes") else "annotated"
        boxes = f", with {boxes} boxes"
    count = metrics.get("instances")
    covered = f"{whole(count)} persons of " if isinstance(count, int) else ""
    points = [
        f"The evaluation covers {covered}{code(store_name(run, 'val_store'))}{boxes}, and nothing else. The best "
        "epoch was chosen on these persons, too: expect slightly lower numbers on other persons."
        if metrics
        else "The student was not evaluated.",
        SAMPLE_WARNING if is_sample(run) else "" if manifest or not metrics else IF_SAMPLE,
        "It needs a box for each person. It contains no detector and no tracker, and treats each box on its own.",
        f"Every box is scaled to {_input(run)} pixels; details smaller than that are lost.",
        f"It predicts {counted(run.student.joints, 'joint')} in 2D for every box, also those that are hidden or "
        "outside the image; the heights of these are often, but not always, lower.",
        "It repeats systematic errors of its teacher." if run.distilled else "",
        "Accuracy was not measured for separate groups of persons, such as children, or by skin tone or clothing."
        if is_human(run)
        else "",
    ]
    return ["## Limits", "\n".join(f"- {point}" for point in points if point)]


def _licences(card: Card) -> list[str]:
    run = card.run
    own = (
        f"Student: {code(card.license)}."
        if card.license
        else ("Student: not stated. Whoever publishes it decides, within the licences of teacher, images and labels.")
    )
    points = [own]
    for name in run.training_stores:
        manifest = run.manifests[name]
        about = manifest["provenance"] if manifest else {}
        of = f" of {code(store_name(run, name))}" if len(run.training_stores) > 1 else ""
        for part, title in (("teacher", "Teacher"), ("dataset", "Images and labels")):
            stated = _stated(about.get(part) or {})
            unknown = (
                "not stated in the store's manifest"
                if manifest
                else "not known: the store's manifest was not available"
            )
            points.append(f"{title}{of}: {plain(stated) if stated else unknown}.")
        if note := about.get("licence"):
            manifest_name = f"The manifest{of}" if of else "The store's manifest"
            points.append(f"{manifest_name} says: {plain(note)}")
    points.append(
        f"The code of {LIBRARY} has the licence Apache-2.0, which does not cover the weights of this student."
    )
    return ["## Licences", "\n".join(f"- {point}" for point in points)]


def _stated(about: Mapping[str, Any]) -> str:
    """The licences that a part of the manifest states."""
    values = [value for key, value in about.items() if key.lower() in ("licence", "license", "licences", "licenses")]
    listed = [entry for value in values for entry in (value if isinstance(value, list) else [value]) if entry]
    return ", ".join(str(entry.get("name", entry)) if isinstance(entry, Mapping) else str(entry) for entry in listed)
