"""Estimates the cost of a run from a few batches: instances, time, bytes and disk space."""

import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cache import Codec
from cache.writing.staging import staging_path
from kdcli.words import counted, duration
from precompute.run.job import Job
from precompute.run.store import create_writer, fill

SAMPLE_BATCHES = 3
COLUMN_BYTES = 1024
"""Upper bound of the bytes of an instance's columns."""


@dataclass(frozen=True)
class Cost:
    """Estimated cost of a run."""

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
    """Peak use of the disk. An HDF5 store takes twice its size while its shards are joined."""
    free_bytes: int
    path: str

    @property
    def fits(self) -> bool:
        """Whether the disk has enough free space."""
        return self.disk_bytes <= self.free_bytes

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return {**asdict(self), "fits": self.fits}

    def to_text(self) -> str:
        """A table for the terminal."""
        twice = ", twice the store while HDF5 shards are joined" if self.disk_bytes > self.store_bytes else ""
        enough = "" if self.fits else ": NOT ENOUGH"
        rows = [
            ("instances", f"{self.instances:,} in {self.images:,} images, {self._views()}"),
            ("teacher", f"{self.teacher}, {self.precision} on {self.device}"),
            ("time", f"{duration(self.seconds)} at {self.instances_per_second:.1f} instances/s, one process"),
            ("store", f"{_size(self.store_bytes)}, {self.bytes_per_instance / 1000:.1f} KB per instance"),
            ("disk", f"{_size(self.disk_bytes)} needed{twice}; {_size(self.free_bytes)} free{enough}"),
        ]
        head = f"{self.path}: nothing written, estimated from a few batches"
        return "\n".join([head, *(f"  {name:<10} {text}" for name, text in rows)])

    def _views(self) -> str:
        mirrors = "its mirror" if self.views == 1 else "their mirrors"
        return f"{counted(self.views, 'stored view')} each" + (f", averaged with {mirrors}" if self.flip_test else "")


def dry_run(job: Job, codec: Codec, path: Path) -> Cost:
    """Run a few batches into a temporary store, and extrapolate to the whole run.

    Args:
        job: The whole run.
        codec: Codec of the store.
        path: Path of the store. Its suffix chooses the layout; the free space of its disk is reported.
    """
    count = min(len(job.instances), SAMPLE_BATCHES * job.batch_size)
    small = _first(job, count)
    _measure(_first(job, min(count, job.batch_size)), codec, path.suffix)  # warm-up: the first calls compile and load
    seconds, written = _measure(small, codec, path.suffix)
    per_instance = written / count + COLUMN_BYTES
    total = round(per_instance * len(job.instances))
    return Cost(
        instances=len(job.instances),
        images=len(set(job.instances.file_name)),
        views=job.plan.count,
        flip_test=job.plan.flip_test,
        teacher=job.teacher.name,
        precision=job.teacher.precision,
        device=job.teacher.device,
        seconds=seconds / count * len(job.instances),
        instances_per_second=count / seconds,
        bytes_per_instance=per_instance,
        store_bytes=total,
        disk_bytes=total * (1 if path.suffix == ".zarr" else 2),
        free_bytes=shutil.disk_usage(_nearest_existing(path)).free,
        path=str(path),
    )


def _measure(job: Job, codec: Codec, suffix: str) -> tuple[float, int]:
    """Run into a temporary store; returns the seconds and the bytes of its shards."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"dry{suffix}"
        writer = create_writer(job, path, codec)
        started = time.perf_counter()
        fill(job, writer)
        seconds = time.perf_counter() - started
        shards = (staging_path(path) / "store").rglob("*")
        return seconds, sum(file.stat().st_size for file in shards if file.is_file())


def _first(job: Job, count: int) -> Job:
    """The job with its first instances only."""
    instances = job.instances.select(np.arange(count))
    geometry = replace(job.geometry, frame=job.geometry.frame[:count], views=job.geometry.views[:count])
    cropper = replace(job.cropper, instances=instances, geometry=geometry)
    return replace(job, instances=instances, geometry=geometry, cropper=cropper)


def _nearest_existing(path: Path) -> Path:
    """The path itself or its nearest parent that exists."""
    return next(folder for folder in (path.resolve(), *path.resolve().parents) if folder.exists())


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.2f} MB"
