"""Measures the teacher and every student on one store, for a report."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from cache import Store
from kdcli.progress import show_progress
from kdlib.metrics.keypoints import oks
from kdlib.samples.dataset import store_skeleton
from kdlib.students.checkpoint import LEGACY_DEFAULTS
from kdlib.students.cost import complexity
from kdlib.students.loading import TorchStudent, load_checkpoint
from train.errors import TrainError
from train.evaluate import Predictions, cached_teacher, check_joints, measure, predict, student_loader
from train.sources import Sources
from train.supervision import Supervision

TRAINING: Final = ("train_seconds", "train_instances_per_second")
"""Entries of ``metrics.json`` that only the run can measure."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network and its measurements."""

    name: str
    metrics: dict[str, Any]
    """Metrics in percent, from `train.evaluate.measure`."""
    predictions: Predictions
    oks: NDArray[np.float64]
    """(N,) OKS of ``predictions.rows``; NaN for a person without labels."""
    cost: dict[str, Any]
    """parameters, multiply_adds, bytes, cpu_ms, train_seconds, train_instances_per_second; the known ones only."""


@dataclasses.dataclass(frozen=True)
class Trained(Subject):
    """A student and its run."""

    folder: Path
    config: dict[str, Any]
    history: list[dict[str, Any]]
    reported: dict[str, Any]
    """Content of ``metrics.json``; empty if the run is not finished."""
    student: TorchStudent

    @property
    def distilled(self) -> bool:
        """Whether the student was trained on a teacher."""
        return self.supervision.kd_weight > 0

    @property
    def supervision(self) -> Supervision:
        """The loss of the run."""
        return Supervision(**self.config["supervision"])

    @property
    def sources(self) -> Sources | None:
        """The persons that the student learned from; None for a run of an earlier version."""
        return Sources.from_config(self.config)

    @property
    def learned_from(self) -> str:
        """What the student learned from, in words, e.g. ``the labels of 150 of 2,017 persons``."""
        if self.sources is not None:
            return self.sources.describe(self.supervision)
        if not self.distilled:
            return "the labels"
        return "the labels and the teacher's heatmaps" if self.supervision.gt_weight else "the teacher's heatmaps"


@dataclasses.dataclass(frozen=True)
class Evidence:
    """All measurements that a page shows."""

    store: Store
    teacher: Subject
    students: list[Trained]
    images: Path | None


def gather(store: Store, runs: list[Path], images: Path | None = None) -> Evidence:
    """Measure the store's teacher and the best checkpoint of each run.

    Args:
        store: Validation store.
        runs: Run folders.
        images: Folder of the original images, for a store without frames.

    Raises:
        TrainError: If a folder holds no run, or a student has another number of joints than the store.
    """
    students = [_student(store, run, name, images) for run, name in zip(runs, _names(runs), strict=True)]
    return Evidence(store, _teacher(store), students, images)


def _teacher(store: Store) -> Subject:
    about = store.manifest["provenance"]["teacher"]
    predictions = cached_teacher(store)
    cost = {name: about[name] for name in ("parameters", "multiply_adds") if about.get(name) is not None}
    return Subject("teacher", measure(store, predictions), predictions, _oks(store, predictions), cost)


def _student(store: Store, run: Path, name: str, images: Path | None) -> Trained:
    student = load_checkpoint(run / "best.pt")
    config = read_json(run / "config.json")
    config["recipe"] = LEGACY_DEFAULTS | config["recipe"]
    check_joints(store, student.skeleton, str(run))
    loader = student_loader(store, student.input_size, 64, torch.device("cpu"), images)
    with show_progress(f"evaluate {name}", "batches") as progress:
        predictions = predict(student, loader, progress=progress)
    reported = read_json(run / "metrics.json") if (run / "metrics.json").exists() else {}
    training = {name: reported.get(name) for name in TRAINING}
    return Trained(
        name=name,
        metrics=measure(store, predictions),
        predictions=predictions,
        oks=_oks(store, predictions),
        cost={**complexity(student.model, student.input_size), **training},
        folder=run,
        config=config,
        history=read_history(run / "history.jsonl"),
        reported=reported,
        student=student,
    )


def _oks(store: Store, predictions: Predictions) -> NDArray[np.float64]:
    columns, rows = store.instances, predictions.rows
    return oks(predictions.points, columns["keypoints"][rows], columns["area"][rows], store_skeleton(store))


def _names(runs: list[Path]) -> list[str]:
    """Names of the runs: baseline or distilled; if several runs share a name, the names of their folders."""
    kinds = [str(read_json(run / "config.json").get("name", run.name)) for run in runs]
    folders = [run.name if [r.name for r in runs].count(run.name) == 1 else str(Path(*run.parts[-2:])) for run in runs]
    return [kind if kinds.count(kind) == 1 else folder for kind, folder in zip(kinds, folders, strict=True)]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that a run wrote.

    Raises:
        TrainError: If the file is missing or is not a JSON object.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise TrainError(f"{path.parent} is not a run folder: it has no {path.name}") from error
    except (ValueError, TypeError) as error:
        raise TrainError(f"{path} is not a file that a run wrote: {error}") from error


def read_history(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's history; empty before its first epoch ends; `TrainError` if the file is damaged."""
    if not path.exists():
        return []
    try:
        return [dict(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (ValueError, TypeError) as error:
        raise TrainError(f"{path} is not a file that a run wrote: {error}") from error
