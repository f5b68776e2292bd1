"""What a report rests on: the teacher and every student, measured on one store."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdcli.progress import show_progress
from kdlib.metrics.keypoints import oks
from kdlib.students.cost import complexity
from kdlib.students.loading import TorchStudent, load_checkpoint
from train.errors import TrainError
from train.evaluate import Predictions, cached_teacher, check_joints, measure, predict, student_loader
from train.recipe import BEFORE
from train.supervision import Supervision

TRAINING = ("train_seconds", "train_instances_per_second")
"""What only the run itself could measure."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network, as measured now."""

    name: str
    metrics: dict[str, Any]
    """As `train.evaluate.measure` gives them, in percent."""
    predictions: Predictions
    oks: NDArray[np.float64]
    """(N,) a person of ``predictions.rows``; NaN for one without labels."""
    cost: dict[str, Any]
    """parameters, multiply_adds, bytes, cpu_ms, train_seconds, train_instances_per_second, as far as known."""


@dataclasses.dataclass(frozen=True)
class Trained(Subject):
    """A student with the run that made it."""

    folder: Path
    config: dict[str, Any]
    history: list[dict[str, Any]]
    reported: dict[str, Any]
    """Its metrics.json; empty where the run was not finished."""
    student: TorchStudent

    @property
    def distilled(self) -> bool:
        """Did a teacher teach it?"""
        return self.supervision.kd_weight > 0

    @property
    def supervision(self) -> Supervision:
        """Its loss."""
        return Supervision(**self.config["supervision"])


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Everything that a page shows."""

    store: Any
    teacher: Subject
    students: list[Trained]
    images: Path | None


def gather(store: Any, runs: list[Path], images: Path | None = None) -> Evidence:
    """Measure the store's teacher and the best checkpoint of each run.

    Raises:
        TrainError: If a folder holds no run, or a student has another number of joints than the store.
    """
    students = [_student(store, run, name, images) for run, name in zip(runs, _names(runs), strict=True)]
    return Evidence(store, _teacher(store), students, images)


def _teacher(store: Any) -> Subject:
    about = store.manifest["provenance"]["teacher"]
    predictions = cached_teacher(store)
    cost = {name: about[name] for name in ("parameters", "multiply_adds") if about.get(name) is not None}
    return Subject("teacher", measure(store, predictions), predictions, _oks(store, predictions), cost)


def _student(store: Any, run: Path, name: str, images: Path | None) -> Trained:
    student = load_checkpoint(run / "best.pt")
    config = _json(run / "config.json")
    config["recipe"] = BEFORE | config["recipe"]
    check_joints(store, config["joints"], str(run))
    loader = student_loader(store, student.input_size, 64, torch.device("cpu"), images)
    with show_progress(f"evaluate {name}", "batches") as progress:
        predictions = predict(student, loader, progress=progress)
    reported = _json(run / "metrics.json") if (run / "metrics.json").exists() else {}
    training = {name: reported.get(name) for name in TRAINING}
    return Trained(
        name=name,
        metrics=measure(store, predictions),
        predictions=predictions,
        oks=_oks(store, predictions),
        cost={**complexity(student.model, student.input_size), **training},
        folder=run,
        config=config,
        history=_history(run / "history.jsonl"),
        reported=reported,
        student=student,
    )


def _oks(store: Any, predictions: Predictions) -> NDArray[np.float64]:
    columns, rows = store.instances, predictions.rows
    return oks(predictions.points, columns["keypoints"][rows], columns["area"][rows])


def _names(runs: list[Path]) -> list[str]:
    """What the runs are called: their kinds; where several are of a kind, their folders."""
    kinds = [str(_json(run / "config.json").get("name", run.name)) for run in runs]
    folders = [run.name if [r.name for r in runs].count(run.name) == 1 else str(Path(*run.parts[-2:])) for run in runs]
    return [kind if kinds.count(kind) == 1 else folder for kind, folder in zip(kinds, folders, strict=True)]


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError as error:
        raise TrainError(f"{path.parent} is no run folder: it has no {path.name}; name folders of --out") from error
    except ValueError as error:
        raise TrainError(f"{path} is not what a run writes: {error}") from error


def _history(path: Path) -> list[dict[str, Any]]:
    """The epochs of a run; empty before the first one ends."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
