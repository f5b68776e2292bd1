"""Measurements of exported files: their latency, and their accuracy where a store was given.

They are kept in the run folder under the SHA-256 of the file. A card that is written again therefore holds the same
numbers, although a second measurement of a latency would differ.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from kdcli.files import file_sha256, replacing
from kdcli.progress import say
from kdcli.system import processor_name
from kdcli.words import counted
from kdlib.students.loading import LoadedStudent, OnnxStudent
from train.deploy.agreement import check_agreement, compare, noise_crops
from train.deploy.formats import FORMATS
from train.deploy.network import Deployable
from train.errors import TrainError
from train.show.card.facts import RunFacts
from train.show.card.text import ListedFile
from train.show.card.writing import relative
from train.show.report.evidence import read_json

FILE: Final = "exported.json"
"""Name of the file with the measurements in a run folder."""
REPEATS: Final = 40
"""Forward passes per timing. The fastest counts: other programs on the machine can only slow a pass down."""
KEPT: Final = ("ap", "pck@0.05", "pck@0.1", "store")
"""Entries of a measurement of accuracy that are kept."""
CROPS: Final = 3
"""Crops on which an exported file is compared with the run's checkpoint."""


def time_crops(students: Sequence[LoadedStudent], crop: NDArray[np.uint8], repeats: int) -> NDArray[np.float64]:
    """Time students in turn, so that the load of the machine affects all alike.

    Args:
        students: Students of the same input size.
        crop: (1, H, W, 3) uint8.
        repeats: Forward passes of each student.

    Returns:
        (students, repeats) milliseconds.
    """
    times = np.empty((len(students), repeats))
    for repeat in range(repeats):
        for place, student in enumerate(students):
            started = time.perf_counter()
            student.heatmaps(crop)
            times[place, repeat] = 1000 * (time.perf_counter() - started)
    return times


def _keep(run: Path, entries: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Add measurements, by the SHA-256 of their file, to those in a run folder; the first measurement counts.

    Nothing is written if the folder is not a run folder. If it cannot be written, a line says so.
    """
    path = run / FILE
    kept: dict[str, dict[str, Any]] = read_json(path) if path.exists() else {}
    merged = kept | {sha256: {**entry, **kept.get(sha256, {})} for sha256, entry in entries.items()}
    if merged != kept and (run / "config.json").exists():
        try:
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(merged, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            say(f"the measurements of exported files are not kept: {path} cannot be written: {error.strerror}")
    return merged


def list_checkpoint(run: RunFacts, file: Path, folder: Path) -> ListedFile:
    """Describe a run's checkpoint for a card in a folder; a path that leaves the folder is shortened to the name."""
    name = relative(file, folder)
    shown = file.name if name.startswith("../") else name
    return ListedFile(shown, run.checkpoint.stat().st_size, "checkpoint of PyTorch, float32", "checkpoint")


def list_exported(
    run: RunFacts, files: Sequence[Path], folder: Path, accuracy: Mapping[Path, Mapping[str, Any]] | None = None
) -> list[ListedFile]:
    """Describe exported files of a run for a card in a folder, and measure their latency if it is not known.

    Args:
        run: The run.
        files: Its exported files.
        folder: Folder of the card.
        accuracy: Metrics in percent of some of the files, with the name of their ``store``.

    Raises:
        TrainError: If a file is missing or is not an export of the run's student.
        KdlibError: If an ONNX file cannot be opened.
    """
    students = {file: _open(run, file) for file in files}
    onnx = {file: student for file, student in students.items() if student is not None}
    keys = {file: file_sha256(file) for file in onnx}
    entries = {
        keys[file]: {name: metrics[name] for name in KEPT if metrics.get(name) is not None}
        for file, metrics in (accuracy or {}).items()
    }
    known = _keep(run.folder, entries)
    new = [file for file in onnx if "ms" not in known.get(keys[file], {})]
    if new:
        crop = noise_crops(run.student.input_size, 1)
        times = time_crops([onnx[file] for file in new], crop, REPEATS).min(axis=1).tolist()
        where = (
            f"the fastest of {REPEATS} passes of one crop, with {counted(torch.get_num_threads(), 'thread')} on "
            f"{processor_name()}"
        )
        measured = {keys[file]: {"ms": ms, "where": where} for file, ms in zip(new, times, strict=True)}
        known = _keep(run.folder, {key: {**entries.get(key, {}), **entry} for key, entry in measured.items()})
    return [_listed(file, student, known.get(keys.get(file, ""), {}), folder) for file, student in students.items()]


def _listed(file: Path, student: OnnxStudent | None, known: Mapping[str, Any], folder: Path) -> ListedFile:
    name, nbytes = relative(file, folder), file.stat().st_size
    if student is None:
        return ListedFile(name, nbytes, "archive of `torch.export`, float32", "pt2")
    about = "ONNX, int8" if student.metadata.get("precision") == "int8" else "ONNX, float32"
    plain = student.metadata["input"] == "uint8"
    metrics = {key: known[key] for key in KEPT if key in known}
    return ListedFile(
        name,
        nbytes,
        about if plain else f"{about}, normalised input",
        "onnx" if plain else "normalised",
        known.get("ms"),
        known.get("where", ""),
        metrics,
    )


def _open(run: RunFacts, file: Path) -> OnnxStudent | None:
    """Open an exported file of a run; None for an archive of ``torch.export``."""
    if file.suffix not in FORMATS:
        raise TrainError(f"{file} is not an exported student: its name must end in {' or '.join(FORMATS)}")
    if not file.is_file():
        raise TrainError(f"no exported student at {file}; write it with `python -m train export`")
    if file.suffix != ".onnx":
        _check_is_of(run, file, normalised=_is_normalised_archive(file))
        return None
    student = OnnxStudent(file)
    own = {"run": run.student.name, "student": run.student.backbone, "head": run.student.head}
    found = student.metadata
    differing = [f"{key} {found.get(key)} instead of {value}" for key, value in own.items() if found.get(key) != value]
    if differing:
        raise TrainError(f"{file} is not an export of {run.checkpoint}: {', '.join(differing)}")
    if found.get("precision") != "int8":
        _check_is_of(run, file, normalised=found["input"] == "normalised")
    return student


def _check_is_of(run: RunFacts, file: Path, *, normalised: bool) -> None:
    """Compare a float32 file with the run's checkpoint on a few crops."""
    network = Deployable(run.student, normalised=normalised)
    found = compare(network, FORMATS[file.suffix][1](network, file), noise_crops(run.student.input_size, CROPS))
    try:
        check_agreement(found, file)
    except TrainError as error:
        raise TrainError(f"{file} is not an export of {run.checkpoint}: its heatmaps differ ({found})") from error


def _is_normalised_archive(file: Path) -> bool:
    extra = {"metadata.json": ""}
    try:
        torch.export.load(file, extra_files=extra)
        return bool(json.loads(extra["metadata.json"])["input"] == "normalised")
    except Exception as error:  # torch raises many kinds of exceptions for other files
        raise TrainError(
            f"{file} is not an exported student: it was not written by `python -m train export`"
        ) from error
