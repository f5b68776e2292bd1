"""What a run will cost, measured on a few batches: instances, time, bytes, disk."""

import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cache.writing.staging import staging_path
from kdcli.words import counted, duration
from kdlib.annotations import Persons
from precompute.run.job import Job
from precompute.run.store import create_writer, fill

SAMPLE_BATCHES = 3
COLUMN_BYTES = 1024
"""Bytes of an instance's columns, rounded up."""


@dataclass(frozen=True)
class Cost:
    """What a run will take."""

    instances: int
    images: int
    views: int
    flip_test: bool
    teacher: str
    precision: str
    device: str
    seconds: float
    instances_per_second: float
    bytes_per_instance: float
    store_bytes: int
    disk_bytes: int
    """At the fullest moment: an HDF5 store lies there twice while its shards are joined."""
    free_bytes: int
    path: str

    @property
    def fits(self) -> bool:
        """Is there room?"""
        return self.disk_bytes <= self.free_bytes

    def to_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        return {**asdict(self), "fits": self.fits}

    def page(self) -> str:
        """For people."""
        twice = ", twice the store while HDF5 is joined" if self.disk_bytes > self.store_bytes else ""
        enough = "" if self.fits else ": NOT ENOUGH"
        rows = [
            ("instances", f"{self.instances:,} of {self.images:,} images, {self._views()}"),
            ("teacher", f"{self.teacher}, {self.precision} on {self.device}"),
            ("time", f"{duration(self.seconds)} at {self.instances_per_second:.1f} instances/s, one process"),
            ("store", f"{_size(self.store_bytes)}, {self.bytes_per_instance / 1000:.1f} KB an instance"),
            ("disk", f"{_size(self.disk_bytes)} needed{twice}; {_size(self.free_bytes)} free{enough}"),
        ]
        head = f"{self.path}: nothing written, measured on a few batches"
        return "\n".join([head, *(f"  {name:<10} {text}" for name, text in rows)])

    def _views(self) -> str:
        mirrors = "its mirror" if self.views == 1 else "their mirrors"
        return f"{counted(self.views, 'view')} each" + (f", averaged with {mirrors}" if self.flip_test else "")


def dry_run(job: Job, codec: Any, path: Path) -> Cost:
    """Run a few batches into a temporary store and project the whole run.

    Args:
        job: The whole run.
        codec: Of the store.
        path: Where the store would be; its suffix chooses the form, and its disk's free space is looked up.
    """
    count = min(len(job.persons), SAMPLE_BATCHES * job.batch_size)
    small = _first(job, count)
    _measure(_first(job, min(count, job.batch_size)), codec, path.suffix)  # first calls compile and load
    seconds, written = _measure(small, codec, path.suffix)
    per_instance = written / count + COLUMN_BYTES
    total = round(per_instance * len(job.persons))
    return Cost(
        instances=len(job.persons),
        images=len(set(job.persons.file_name)),
        views=job.plan.count,
        flip_test=job.plan.flip_test,
        teacher=job.teacher.name,
        precision=job.teacher.precision,
        device=job.teacher.device,
        seconds=seconds / count * len(job.persons),
        instances_per_second=count / seconds,
        bytes_per_instance=per_instance,
        store_bytes=total,
        disk_bytes=total * (1 if path.suffix == ".zarr" else 2),
        free_bytes=shutil.disk_usage(_existing(path)).free,
        path=str(path),
    )


def _measure(job: Job, codec: Any, suffix: str) -> tuple[float, int]:
    """Seconds of a run into a temporary store, and the bytes of its shards."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"dry{suffix}"
        writer = create_writer(job, path, codec, {}, frames=job.cropper.frames, resume=False, overwrite=False)
        started = time.perf_counter()
        fill(job, writer)
        seconds = time.perf_counter() - started
        shards = (staging_path(path) / "store").rglob("*")
        return seconds, sum(file.stat().st_size for file in shards if file.is_file())


def _first(job: Job, count: int) -> Job:
    """The job of the first persons only."""
    persons: Persons = job.persons.select(np.arange(count))
    geometry = replace(job.geometry, frame=job.geometry.frame[:count], views=job.geometry.views[:count])
    return replace(
        job, persons=persons, geometry=geometry, cropper=replace(job.cropper, persons=persons, geometry=geometry)
    )


def _existing(path: Path) -> Path:
    return next(folder for folder in (path.resolve(), *path.resolve().parents) if folder.exists())


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.2f} MB"
