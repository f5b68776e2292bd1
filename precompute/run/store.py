"""The one-time run: images in, a store of heatmaps out."""

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import cache
from kdcli.progress import progress, say
from kdlib.geometry import compose_affines
from kdlib.metrics.evaluation import evaluate_points, teacher_predictions
from precompute.errors import PrecomputeError
from precompute.run.job import Job
from precompute.run.pipeline import Pipeline
from precompute.run.team import Alone, Team


def create_writer(
    job: Job,
    path: Path,
    codec: Any,
    provenance: dict[str, Any],
    *,
    frames: bool,
    resume: bool,
    overwrite: bool,
    join: bool = False,
) -> Any:
    """Open the store for writing; see `cache.create_store` for what it refuses."""
    width, height = job.teacher.heatmap_size
    spec = cache.StoreSpec(
        instances=len(job.persons),
        views=job.plan.count,
        joints=job.teacher.joints,
        height=height,
        width=width,
        codec=codec,
        frames=frames,
    )
    truth = job.ground_truth.columns()
    names = ("annotation_id", "image_id", "bbox", "area", "iscrowd", "keypoints")
    return cache.create_store(
        path,
        spec,
        provenance,
        job.persons.columns(),
        {name: truth[name] for name in names},
        job.geometry.frame,
        job.geometry.views,
        job.plan.flips,
        resume=resume,
        overwrite=overwrite,
        join=join,
    )


def fill(job: Job, writer: Any, team: Alone | Team | None = None, *, show: bool = False) -> list[str]:
    """Write the shards that are not there yet, or those that fall to this process of a `precompute.run.team`.

    Args:
        job: What to write.
        writer: Of the store.
        team: The processes that share the shards; this one alone where not given.
        show: Say on stderr how far all of them are.

    Returns:
        Why instances were skipped, a line each (with ``skip_missing``).

    Raises:
        PrecomputeError: If an image cannot be read, or the run was interrupted; it can be resumed.
    """
    cv2.setNumThreads(1)  # images are the parallel work
    team = team or Alone()
    total = len(job.persons)
    begun = total - sum(len(writer.shard_range(shard)) for shard in writer.pending_shards())
    with progress("teacher", "instances", begun, shown=show) as tell, Pipeline(job, writer) as pipeline:
        tell(begun, total)
        for done in pipeline.run(team.shards(writer)):
            tell(begun + team.advance(done), total)
    return pipeline.skipped


def teacher_metrics(store: Any) -> dict[str, Any]:
    """AP, AR and PCK of the teacher as the finished store gives it back; None stands for what has no value."""
    rows = np.flatnonzero(store.written)
    teacher = store.manifest["provenance"]["teacher"]
    affines = compose_affines(store.view_affine[rows], store.frame_affine[rows][:, None])
    stride = teacher["input_size"][0] / teacher["heatmap_size"][0]
    with progress("read back", "instances", passing=True) as tell:

        def heatmaps(batch: NDArray[np.int64]) -> NDArray[np.floating]:
            tell(int(batch[0]), len(rows))
            maps: NDArray[np.floating] = store.heatmaps(rows[batch])
            return maps

        points, scores = teacher_predictions(heatmaps, affines, store.view_flip, stride)
    columns = store.instances
    instances = {name: np.asarray(columns[name])[rows] for name in ("image_id", "bbox", "score", "keypoints")}
    metrics = evaluate_points(store.ground_truth, instances, points, scores)
    metrics.pop("per_joint")
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def finish(writer: Any) -> tuple[Path, dict[str, Any]]:
    """Measure the teacher from the store and publish it; returns its path and the metrics."""
    store = writer.assemble()
    if not store.written.any():
        raise PrecomputeError(f"none of the {len(store)} persons could be used: give the images that were annotated")
    metrics = teacher_metrics(store)
    if writer.replaces not in (None, store.manifest["content_sha256"]):
        say(
            "the rebuilt shards are not what they were: another device, precision or library made them (or the "
            f"store was damaged in more than its shards): content {store.manifest['content_sha256']}, once it was "
            f"{writer.replaces}"
        )
    return writer.publish(metrics), metrics
