"""What a run will cost, measured on a few batches: instances, time, bytes, disk."""

import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kdlib.annotations import Persons
from precompute.run import Job, create_writer, fill

SAMPLE_BATCHES = 3
COLUMN_BYTES = 1024
"""Bytes of an instance's columns, rounded up."""


def dry_run(job: Job, codec: Any, path: Path) -> str:
    """Run a few batches into a temporary store and project the whole run.

    Args:
        job: The whole run.
        codec: Of the store.
        path: Where the store would be; its disk's free space is named.
    """
    count = min(len(job.persons), SAMPLE_BATCHES * job.batch_size)
    small = _first(job, count)
    _measure(_first(job, min(count, job.batch_size)), codec)  # first calls compile and load
    seconds, written = _measure(small, codec)
    per_instance = written / count + COLUMN_BYTES
    total, free = per_instance * len(job.persons), shutil.disk_usage(_existing(path)).free
    return (
        f"{len(job.persons)} instances of {len(set(job.persons.file_name))} images, {job.plan.count} views each: "
        f"{_duration(seconds / count * len(job.persons))} at {count / seconds:.1f} instances/s ({job.teacher.name}, "
        f"{job.teacher.precision} on {job.teacher.device}), {total / 1e9:.2f} GB at {per_instance / 1000:.1f} KB an "
        f"instance; {free / 1e9:.1f} GB are free for {path} (an HDF5 store needs twice its size while it is joined)"
    )


def _measure(job: Job, codec: Any) -> tuple[float, int]:
    """Seconds and bytes of a run into a temporary store."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dry.zarr"
        writer = create_writer(job, path, codec, {}, frames=job.cropper.frames, resume=False, overwrite=False)
        started = time.perf_counter()
        fill(job, writer)
        seconds = time.perf_counter() - started
        return seconds, sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


def _first(job: Job, count: int) -> Job:
    """The job of the first persons only."""
    persons: Persons = job.persons.select(np.arange(count))
    geometry = replace(job.geometry, frame=job.geometry.frame[:count], views=job.geometry.views[:count])
    return replace(
        job, persons=persons, geometry=geometry, cropper=replace(job.cropper, persons=persons, geometry=geometry)
    )


def _existing(path: Path) -> Path:
    return next(folder for folder in (path.resolve(), *path.resolve().parents) if folder.exists())


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
