"""The one-time run: images in, a store of heatmaps out.

Reading and cropping, the teacher, and encoding overlap: threads prepare the next crops and encode the last maps while
the teacher works. Batches never cross a shard, so that a resumed run computes what an uninterrupted one would.
"""

import collections
import dataclasses
import math
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import cache
from kdlib.annotations import Persons
from kdlib.evaluation import evaluate_points, teacher_predictions
from kdlib.geometry import compose_affines
from kdlib.heatmaps import flip_average
from precompute.crops import Cropper, Prepared
from precompute.errors import PrecomputeError
from precompute.teacher import Teacher, mirror
from precompute.views import Geometry, ViewPlan

IMAGES_AHEAD = 64
"""Images that are read before the teacher needs them."""


@dataclasses.dataclass(frozen=True)
class Job:
    """Everything one run needs."""

    teacher: Teacher
    persons: Persons
    ground_truth: Persons
    cropper: Cropper
    geometry: Geometry
    plan: ViewPlan
    batch_size: int
    threads: int
    skip_missing: bool = False


def teacher_maps(teacher: Teacher, crops: NDArray[np.uint8], plan: ViewPlan) -> NDArray[np.float32]:
    """Maps of every view, (B, V, K, h, w), of crops (B, V, H, W, 3)."""
    maps = np.stack([teacher(crops[:, v]) for v in range(crops.shape[1])], axis=1)
    if plan.flip_test:
        mirrored = np.stack([teacher(mirror(crops[:, v])) for v in range(crops.shape[1])], axis=1)
        maps = flip_average(maps, mirrored)
    return maps


def create_writer(
    job: Job, path: Path, codec: Any, provenance: dict[str, Any], *, frames: bool, resume: bool, overwrite: bool
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
    )


def fill(job: Job, writer: Any) -> list[str]:
    """Write every shard that is not there yet.

    Returns:
        Why instances were skipped, a line each (with ``skip_missing``).

    Raises:
        PrecomputeError: If an image cannot be read, or the run was interrupted; it can be resumed.
    """
    cv2.setNumThreads(1)  # images are the parallel work
    pending = writer.pending_shards()
    todo = sum(len(writer.shard_range(k)) for k in pending)
    skipped: list[str] = []
    bar = tqdm(total=len(job.persons), initial=len(job.persons) - todo, desc="teacher", unit="inst", disable=None)
    with (
        bar,
        ThreadPoolExecutor(job.threads, "prepare") as readers,
        ThreadPoolExecutor(job.threads, "encode") as coders,
    ):
        try:
            for shard in pending:
                skipped += _fill_shard(job, writer, shard, readers, coders, bar)
        except BaseException:
            readers.shutdown(cancel_futures=True)
            coders.shutdown(cancel_futures=True)
            raise
    return skipped


def _fill_shard(
    job: Job, writer: Any, shard: int, readers: ThreadPoolExecutor, coders: ThreadPoolExecutor, bar: Any
) -> list[str]:
    skipped, encoding = [], collections.deque[Future[None]]()
    with writer.shard(shard) as open_shard:
        prepared = _prepared(job, list(writer.shard_range(shard)), readers)
        for batch in _batches(prepared, job.batch_size):
            usable = [item for item in batch if item.problem is None]
            for item in batch:
                if item.problem is not None:
                    skipped.append(_skip(job, item))
                    open_shard.skip(item.row)
            if usable:
                maps = teacher_maps(job.teacher, np.stack([item.crops for item in usable]), job.plan)
                for item, views in zip(usable, maps, strict=True):
                    encoding.append(coders.submit(open_shard.put, item.row, views, item.frame))
            while len(encoding) > 4 * job.batch_size:
                encoding.popleft().result()
            bar.update(len(batch))
        for future in encoding:
            future.result()
    return skipped


def _skip(job: Job, item: Prepared) -> str:
    line = f"annotation {job.persons.annotation_id[item.row]}: {item.problem}"
    if not job.skip_missing:
        raise PrecomputeError(f"{line}; mend it and go on with --resume, or leave such persons out with --skip-missing")
    return line


def _prepared(job: Job, rows: list[int], readers: ThreadPoolExecutor) -> Iterator[Prepared]:
    """The persons of these rows in order, prepared ahead; persons of one image share its decoding."""
    waiting: collections.deque[Future[list[Prepared]]] = collections.deque()
    for of_image in _by_image(rows, job.persons.file_name):
        waiting.append(readers.submit(job.cropper.prepare, of_image))
        if len(waiting) > IMAGES_AHEAD:
            yield from waiting.popleft().result()
    while waiting:
        yield from waiting.popleft().result()


def _by_image(rows: list[int], names: list[str]) -> Iterator[list[int]]:
    """Runs of neighbouring rows that show the same image."""
    group: list[int] = []
    for row in rows:
        if group and names[row] != names[group[0]]:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _batches(items: Iterator[Prepared], size: int) -> Iterator[list[Prepared]]:
    batch: list[Prepared] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def teacher_metrics(store: Any) -> dict[str, Any]:
    """AP, AR and PCK of the teacher as the finished store gives it back; None stands for what has no value."""
    rows = np.flatnonzero(store.written)
    teacher = store.manifest["provenance"]["teacher"]
    points, scores = teacher_predictions(
        lambda batch: store.heatmaps(rows[batch]),
        compose_affines(store.view_affine[rows], store.frame_affine[rows][:, None]),
        store.view_flip,
        teacher["input_size"][0] / teacher["heatmap_size"][0],
    )
    columns = store.instances
    instances = {name: np.asarray(columns[name])[rows] for name in ("image_id", "bbox", "score", "keypoints")}
    metrics = evaluate_points(instances, store.ground_truth, points, scores)
    metrics.pop("per_joint")
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def finish(writer: Any) -> tuple[Path, dict[str, Any]]:
    """Measure the teacher from the store and publish it; returns its path and the metrics."""
    store = writer.assemble()
    if not store.written.any():
        raise PrecomputeError(f"none of the {len(store)} persons could be used: give the images that were annotated")
    metrics = teacher_metrics(store)
    return writer.publish(metrics), metrics


def warn(line: str) -> None:
    """A line on stderr, above a progress bar if there is one."""
    tqdm.write(line, file=sys.stderr)
