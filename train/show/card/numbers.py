"""The numbers of a card: metrics of the student, its teacher and a compared student, and intervals of differences."""

from collections.abc import Mapping
from typing import Any

from kdcli.words import counted
from kdlib.metrics.evaluation import sigmas_note
from train.show.card.facts import RunFacts, store_name
from train.show.card.markdown import code, plain, table
from train.show.report.markup import MINUS, fixed, has_value, signed
from train.show.report.tables import ACCURACY, accuracy_rows


def numbers(run: RunFacts, picture: str | None, file: str) -> list[str]:
    """The section with the numbers.

    Args:
        run: The run.
        picture: Name of the picture of the learning curves, if there is one.
        file: A file of the student, for the command that measures it.
    """
    metrics = run.metrics
    store = code(store_name(run, "val_store"))
    curve = "The run has no record of its epochs (history.jsonl), so there is no learning curve."
    if picture:
        text = "Learning curves: AP and PCK on the validation store, and the training loss, per epoch."
        curve = f"![{text}](<{picture}>)"
    if metrics is None:
        command = f"python -m train evaluate --store {store_name(run, 'val_store')} --student {file}"
        absent = f"Not evaluated. This command measures the student: {code(command)}"
        return ["## Numbers", absent, curve]
    return ["## Numbers", _measured(run, metrics, store), _comparison(run, metrics), *_intervals(run), curve]


def _measured(run: RunFacts, metrics: Mapping[str, Any], store: str) -> str:
    epochs = run.config["recipe"].get("epochs")
    count = metrics.get("instances")
    persons = counted(count, "person") if isinstance(count, int) else "the persons"
    decoder = f", decoded with {code(metrics['decoder'])}" if "decoder" in metrics else ""
    text = f"In percent, on {persons} of {store}{decoder}."
    if run.epoch is not None:
        text += f" The checkpoint is of epoch {run.epoch} of {epochs}, which was chosen on these persons."
    if note := sigmas_note(run.student.skeleton):
        text += f" {note}"
    if not run.finished:
        done = run.history[-1].get("epoch", len(run.history)) if run.history else 0
        text += f" **The run is not finished: {done} of {epochs} epochs are recorded.**"
    return text


def _comparison(run: RunFacts, metrics: Mapping[str, Any]) -> str:
    columns: list[tuple[str, Mapping[str, Any]]] = [("this student", metrics)]
    columns += [(_name(pair, place, run), _of_report(run, place)["metrics"]) for pair, place in _others(run)]
    manifest = run.manifests["val_store"]
    teacher = run.numbers["teacher"] if run.numbers else (manifest or {}).get("teacher_metrics")
    if teacher:
        columns.append(("the store's teacher", teacher))
    rows = [
        [f"{row.name} ({row.text})", *(fixed(of.get(row.key)) for _, of in columns)]
        for row in accuracy_rows(metrics)
        if has_value(metrics.get(row.key)) or row.key in ("ap", "pck@0.05")
    ]
    return table(["percent", *(name for name, _ in columns)], rows)


def _others(run: RunFacts) -> list[tuple[Mapping[str, Any], int]]:
    """The pairs of the report that hold this student, with the place of the other student."""
    if run.numbers is None:
        return []
    pairs = run.numbers.get("pairs", [])
    own = [place for place, student in enumerate(run.numbers["students"]) if student["checkpoint_sha256"] == run.sha256]
    return [
        (pair, pair["baseline"] if pair["distilled"] in own else pair["distilled"])
        for pair in pairs
        if pair["distilled"] in own or pair["baseline"] in own
    ]


def _name(pair: Mapping[str, Any], place: int, run: RunFacts) -> str:
    """The name of the other student of a pair, with its role unless the name says it."""
    role, name = ("baseline" if place == pair["baseline"] else "distilled"), _of_report(run, place)["name"]
    return role if name == role else f"{role} {plain(name)}"


def _of_report(run: RunFacts, place: int) -> Mapping[str, Any]:
    assert run.numbers is not None  # noqa: S101 - the pairs come from it
    student: Mapping[str, Any] = run.numbers["students"][place]
    return student


def _intervals(run: RunFacts) -> list[str]:
    """A sentence per pair of the report: distilled minus baseline, with intervals."""
    sentences = []
    for pair, _ in _others(run):
        ours, theirs = (_of_report(run, pair[name]) for name in ("distilled", "baseline"))
        parts = []
        for row in (row for row in ACCURACY if row.key in ("ap", "pck@0.05")):
            ends = pair["intervals"].get(row.key) or ()
            known = f" (95 % interval {' to '.join(map(signed, ends))})" if ends and all(map(has_value, ends)) else ""
            values = (ours["metrics"].get(row.key), theirs["metrics"].get(row.key))
            if all(map(has_value, values)):
                parts.append(f"{signed(values[0] - values[1])} {row.name}{known}")
        if parts:
            unequal = f" The two also differ in {plain(', '.join(pair['unequal']))}." if pair.get("unequal") else ""
            sentences.append(
                f"{plain(ours['name'])} {MINUS} {plain(theirs['name'])}: {', '.join(parts)}. The intervals are of a "
                f"paired bootstrap over the images; they do not include the variation between training seeds.{unequal}"
            )
    return sentences
