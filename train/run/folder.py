"""The files of a run folder: taking it, throwing it away, and writing so that a kill never leaves half a file.

``config.json``, ``history.jsonl`` (a line an epoch), ``last.pt`` and ``best.pt`` (best AP on the validation store),
``metrics.json`` (the best student's evaluation) and TensorBoard's event files. The history is part of every checkpoint:
the file is written from it, after it, and again when a run is resumed.
"""

import os
from pathlib import Path
from typing import Any

import torch

from kdlib.students.checkpoint import VERSION
from train.errors import TrainError, not_written
from train.evaluate import to_json

FILES = ("config.json", "history.jsonl", "last.pt", "best.pt", "metrics.json", "evaluation.json")


def refuse_unusable(out: Path) -> None:
    """Raise `TrainError` if no run can be written to a folder, before anything is computed for it.

    It, or the nearest folder above it where there is none yet, is a file, a link to nothing, or closed to the user.
    """
    try:
        place = next(place for place in (out, *out.parents) if place.is_symlink() or place.exists())
    except PermissionError as error:
        raise TrainError(f"--out {out}: you may not look into its folders ({error}); give another folder") from error
    if not place.exists():
        raise TrainError(f"--out {out} cannot be made: {place} is a link to nothing; give another folder")
    if not place.is_dir():
        if place == out:
            raise TrainError(f"--out {out} is a file; give a folder, which is made where there is none")
        raise TrainError(f"--out {out} cannot be made: {place} is a file; give another folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise TrainError(f"--out {out}: you may not write to {place}; give another folder")


def refuse_foreign(out: Path) -> None:
    """Raise `TrainError` if a folder is not empty and holds no run: nothing in it is ours to throw away."""
    if out.exists() and any(out.iterdir()) and not (out / "config.json").exists():
        raise TrainError(f"{out} is not a run folder, --overwrite leaves it alone; give another --out")


def refuse_taken(out: Path) -> None:
    """Raise `TrainError` if a folder holds a run."""
    if (out / "config.json").exists():
        raise TrainError(f"{out} already holds a run; give --resume to go on with it, --overwrite to start anew")


def discard(out: Path) -> None:
    """Delete the files of a run in a folder, and nothing else."""
    for name in FILES:
        (out / name).unlink(missing_ok=True)
    for events in out.glob("events.out.tfevents.*"):
        events.unlink()


def make_folder(out: Path) -> None:
    """Make a run folder where there is none.

    Raises:
        TrainError: If it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainError(f"--out {out} cannot be made: {error.strerror}; give another folder") from error


def write_history(out: Path, history: list[dict[str, Any]]) -> None:
    """Write ``history.jsonl``."""
    write_text(out / "history.jsonl", "".join(to_json(line) + "\n" for line in history))


def write_text(path: Path, text: str) -> None:
    """Write a small file beside its place and rename it.

    Raises:
        TrainError: If it cannot be written; what was there stays.
    """
    beside = path.with_name(path.name + ".tmp")
    try:
        beside.write_text(text)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise not_written(path, path.parent, error) from error


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint so that the path never holds half of one.

    Raises:
        TrainError: If it cannot be written; an older checkpoint at the path is left as it was.
    """
    beside = path.with_name(path.name + ".tmp")
    try:
        with beside.open("wb") as file:
            torch.save({"version": VERSION, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except (OSError, RuntimeError) as error:
        of_disk = _of_disk(error)
        refusal = of_disk and not_written(path, path.parent, of_disk)
        beside.unlink(missing_ok=True)
        if refusal is None:
            raise
        raise refusal from error


def _of_disk(error: BaseException | None) -> OSError | None:
    """The disk's error, in place of which torch may raise one of its own on the way out."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error
