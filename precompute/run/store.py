"""Writes the store of a job: runs the teacher, evaluates it from the finished store, and publishes the store."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import cache
from cache.format.manifest import VOLATILE, differences
from kdcli.files import replacing
from kdcli.progress import say, show_progress
from kdcli.words import percentage
from kdlib.geometry import compose_affines
from kdlib.images import silence_opencv
from kdlib.inputs.notices import Notices
from kdlib.metrics.evaluation import evaluate_points, teacher_predictions
from kdlib.samples.dataset import store_skeleton
from precompute.errors import PrecomputeError
from precompute.run.job import Job
from precompute.run.pipeline import Pipeline
from precompute.run.team import SingleProcess, Team


@dataclasses.dataclass(frozen=True)
class Written:
    """A complete store."""

    path: Path
    metrics: dict[str, Any]
    """AP, AR and PCK of the teacher in percent, measured from the store; None where a metric is undefined."""
    skipped: tuple[str, ...] = ()
    """One line per instance that was left out (only with ``skip_missing``)."""
    is_new: bool = True
    """Whether this run wrote it; False if it was complete before."""

    def to_text(self) -> str:
        """A line for stdout."""
        if not self.is_new:
            return f"{self.path} is complete: nothing to do"
        found = {name: self.metrics[name] for name in ("ap", "pck@0.05", "pck@0.1")}
        numbers = ", ".join(f"{name} {percentage(value)}" for name, value in found.items())
        measured = "none, because no person is labelled" if set(found.values()) == {None} else numbers
        left_out = f", {len(self.skipped)} skipped" if self.skipped else ""
        return (
            f"{self.path}: {self.metrics['instances']} instances{left_out}; teacher metrics from the store: {measured}"
        )


def write_store(
    job: Job, path: Path, codec: cache.Codec, team: SingleProcess | Team, *, resume: bool, overwrite: bool
) -> Written | None:
    """Write the store of a job, or this process's share of its shards.

    Args:
        job: The job.
        path: The store, ending in `.zarr` or `.h5`.
        codec: Codec of the heatmaps.
        team: The processes of the run.
        resume: Continue an unfinished run. A finished store is compared with the job and kept.
        overwrite: Start again, and replace an existing store when the new one is complete.

    Returns:
        The store, in the first process; None in the others.

    Raises:
        PrecomputeError: If the run is interrupted, an image cannot be used, or a finished store differs.
        StoreError: If the store cannot be created, resumed or written.
    """
    if resume and not overwrite and path.exists() and not cache.awaits_repair(path):
        store = cache.open_store(path)
        check_same_store(job, store, codec)
        if team.rank != 0:
            return None
        if not annotations_beside(path).exists():
            _write_annotations(job, path)
        return Written(Path(str(store.path)), store.manifest["teacher_metrics"], is_new=False)
    writer = team.begin(lambda join: create_writer(job, path, codec, resume=resume, overwrite=overwrite, join=join))
    try:
        skipped = fill(job, writer, team, show=team.rank == 0)
    except KeyboardInterrupt:
        left = len(writer.pending_shards())
        raise PrecomputeError(
            f"interrupted with {left} of {writer.spec.shards} shards left; run the same command with --resume to "
            "continue"
        ) from None

    def publish(skipped: list[str]) -> Written:
        for line in skipped:
            say(f"skipped {line}")
        path, metrics = finish(writer, job.notices, skipped, job.threads)
        _write_annotations(job, path)
        for line in job.notices.lines():
            say(f"noticed: {line}")
        return Written(path, metrics, tuple(skipped))

    return team.finish(skipped, publish)


def annotations_beside(path: Path) -> Path:
    """Where the annotations of a store are in COCO's format, if they were converted from another one."""
    return path.with_name(f"{path.name}.annotations.json")


def _write_annotations(job: Job, path: Path) -> None:
    if job.annotations is not None:
        target = annotations_beside(path)
        with replacing(target) as temporary:
            temporary.write_bytes(job.annotations)
        say(f"annotations in COCO's format: {target}")


def check_same_store(job: Job, store: cache.Store, codec: cache.Codec) -> None:
    """Compare a finished store with the one that a job would write.

    Raises:
        PrecomputeError: If the job would write a different store. The message names the entries that differ.
    """
    stored = {**store.manifest["provenance"], "codec": store.spec.codec.to_json(), "frames": store.has_frames}
    wanted = {**json.loads(json.dumps(job.provenance)), "codec": codec.to_json(), "frames": job.cropper.frames}
    differing = sorted(differences(stored, wanted, ignore=VOLATILE))
    if differing:
        raise PrecomputeError(
            f"{store.path} is complete, but this command would write a different store (stored -> now): "
            f"{'; '.join(differing)}. "
            "Give another --store, or replace it with --overwrite instead of --resume"
        )


def create_writer(
    job: Job, path: Path, codec: cache.Codec, *, resume: bool = False, overwrite: bool = False, join: bool = False
) -> cache.Writer:
    """Create the writer of a job's store; `cache.create_store` describes the arguments and errors."""
    width, height = job.teacher.heatmap_size
    spec = cache.StoreSpec(
        instances=len(job.instances),
        views=job.plan.count,
        joints=job.teacher.joints,
        height=height,
        width=width,
        codec=codec,
        frames=job.cropper.frames,
    )
    truth = job.ground_truth.columns()
    names = ("annotation_id", "image_id", "bbox", "area", "iscrowd", "keypoints")
    return cache.create_store(
        path,
        spec,
        job.provenance,
        job.instances.columns(),
        {name: truth[name] for name in names},
        job.geometry.frame,
        job.geometry.views,
        job.plan.flips,
        resume=resume,
        overwrite=overwrite,
        join=join,
    )


def fill(job: Job, writer: cache.Writer, team: SingleProcess | Team | None = None, *, show: bool = False) -> list[str]:
    """Write the missing shards, or this process's share of them.

    Args:
        job: The job.
        writer: Writer of its store.
        team: The processes that share the shards; None for this process alone.
        show: Show the progress of all processes on stderr.

    Returns:
        One line per skipped instance with the reason (only with ``skip_missing``).

    Raises:
        PrecomputeError: If an image cannot be read. The run can be resumed.
    """
    silence_opencv()
    cv2.setNumThreads(1)  # images are processed in parallel instead
    team = team or SingleProcess()
    total = len(job.instances)
    begun = total - sum(len(writer.shard_range(shard)) for shard in team.pending(writer))
    with show_progress("teacher", "instances", begun, shown=show) as progress, Pipeline(job, writer) as pipeline:
        progress(begun, total)
        for done in pipeline.run(team.shards(writer)):
            progress(begun + team.advance(done), total)
    return pipeline.skipped


def finish(
    writer: cache.Writer, notices: Notices | None = None, skipped: Sequence[str] = (), threads: int | None = None
) -> tuple[Path, dict[str, Any]]:
    """Evaluate the teacher from the assembled store, and publish the store; returns its path and the metrics.

    Args:
        writer: A writer that has written all shards.
        notices: What the run changed or left out. The persons that the store does not hold are added.
        skipped: One line per skipped instance.
        threads: Threads that read and decode heatmaps; None takes one per core.

    Raises:
        PrecomputeError: If every instance was skipped; the message gives the first reason.
    """
    notices = Notices() if notices is None else notices
    store = writer.assemble()
    if not store.written.any():
        reason = f", e.g. {skipped[0]}" if skipped else ""
        raise PrecomputeError(
            f"none of the {len(store)} instances could be used{reason}; correct the images or teacher"
        )
    metrics = teacher_metrics(store, threads)
    if writer.replaces not in (None, store.manifest["content_sha256"]):
        say(
            "the rebuilt shards differ from the original ones: they were computed on another device, in another "
            "precision or with other libraries, or other parts of the store were damaged too. Content hash now: "
            f"{store.manifest['content_sha256']}, originally: {writer.replaces}"
        )
    unread = store.instances["annotation_id"][~store.written]
    kind = f"{store_skeleton(store).instances} left out because their image cannot be read"
    notices.add_all(kind, [f"annotation {i}" for i in unread])
    return writer.publish(metrics, noticed=notices.to_json()), metrics


def teacher_metrics(store: cache.Store, threads: int | None = None) -> dict[str, Any]:
    """Compute the metrics of the teacher from the stored heatmaps, see `evaluate_points`; None where one is undefined.

    Args:
        store: A store with at least one written instance.
        threads: Threads that read and decode heatmaps; None takes one per core.
    """
    rows, skeleton = np.flatnonzero(store.written), store_skeleton(store)
    teacher = store.manifest["provenance"]["teacher"]
    affines = compose_affines(store.view_affine[rows], store.frame_affine[rows][:, None])
    stride = teacher["input_size"][0] / teacher["heatmap_size"][0]
    with show_progress("evaluate", "instances", transient=True) as progress:
        points, scores = teacher_predictions(
            lambda batch, views: store.heatmaps(rows[batch], views),
            affines,
            store.view_flip,
            stride,
            skeleton=skeleton,
            threads=threads,
            progress=progress,
        )
    columns = store.instances
    instances = {name: np.asarray(columns[name])[rows] for name in ("image_id", "bbox", "score", "keypoints")}
    aspect = (teacher["input_size"][0], teacher["input_size"][1])
    metrics = evaluate_points(store.ground_truth, instances, points, scores, skeleton=skeleton, aspect=aspect)
    metrics.pop("per_joint")
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in metrics.items()
    }
