"""Reads images, runs the teacher, encodes heatmaps and writes shards, all at the same time.

While the teacher runs, threads prepare the next crops, and encode and write the previous heatmaps. The pipeline does
not stop at the end of a shard. All instances of a batch belong to one shard, so that a resumed run, or a run of several
processes, computes the same values as an uninterrupted one.
"""

import collections
import dataclasses
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cache import StoreFormatError, Writer
from cache.writing.shard import ShardWriter
from kdcli.memory import is_out_of_memory
from precompute.data.crops import Crops, Prepared, stack_crops
from precompute.errors import PrecomputeError
from precompute.run.job import Job
from precompute.teacher.ensemble import launch_maps
from precompute.teacher.passes import Pending

IMAGES_AHEAD = 64
"""Images that are read before the teacher needs them, or two per instance of a batch if these are more."""
BATCHES_AHEAD = 2
"""Batches that are stacked, copied to a GPU or waiting there while the teacher runs on another one."""
SHARDS_BEHIND = 1
"""Shards that are encoded and written while the teacher runs on the next one."""


class Pipeline:
    """Runs the teacher over the instances of shards and writes the shards to a store, in threads."""

    def __init__(self, job: Job, writer: Writer) -> None:
        self.skipped: list[str] = []
        """One line per skipped instance."""
        self._job, self._writer = job, writer
        self._readers = ThreadPoolExecutor(job.threads, "prepare")
        self._stacker = ThreadPoolExecutor(1, "stack")
        self._teacher = ThreadPoolExecutor(1, "teacher")
        self._encoders = ThreadPoolExecutor(job.threads, "encode")
        self._committer = ThreadPoolExecutor(1, "write")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for pool in (self._readers, self._stacker, self._teacher, self._encoders, self._committer):
            pool.shutdown(cancel_futures=True)

    def run(self, shards: Iterator[int]) -> Iterator[int]:
        """Write shards. Yields the number of instances of each batch after its heatmaps are computed."""
        running: collections.deque[tuple[Batch, Future[Pending | None]]] = collections.deque()
        commits: collections.deque[Future[None]] = collections.deque()
        for batch in self._batches(shards):
            stacked = self._stacker.submit(self._stack, batch)
            running.append((batch, self._teacher.submit(self._launch, stacked)))
            if len(running) > BATCHES_AHEAD:
                yield self._encode(*running.popleft(), commits)
        while running:
            yield self._encode(*running.popleft(), commits)
        while commits:
            commits.popleft().result()

    def _batches(self, shards: Iterator[int]) -> Iterator["Batch"]:
        """Yield batches of prepared instances, each of one shard; images of the next shard are read ahead."""
        waiting: collections.deque[tuple[OpenShard, Future[list[Prepared]]]] = collections.deque()
        reading = self._read_images(shards)
        batch: Batch | None = None
        ahead = max(IMAGES_AHEAD, 2 * self._job.batch_size)
        while True:
            while _may_read_ahead(waiting, ahead) and (image := next(reading, None)):
                waiting.append(image)
            if not waiting:
                return
            shard, prepared = waiting.popleft()
            for item in prepared.result():
                batch = batch or Batch(shard, [])
                batch.items.append(item)
                shard.unbatched -= 1
                if len(batch.items) == self._job.batch_size or not shard.unbatched:
                    yield batch
                    batch = None

    def _read_images(self, shards: Iterator[int]) -> Iterator[tuple["OpenShard", Future[list[Prepared]]]]:
        """Start reading every image of every shard; an image is decoded once for all its instances."""
        for number in shards:
            rows = list(self._writer.shard_range(number))
            shard = OpenShard(self._writer.shard(number), len(rows))
            for same_image in _group_by_image(rows, self._job.instances.file_name):
                shard.unread -= len(same_image)
                yield shard, self._readers.submit(self._job.cropper.prepare, same_image)

    def _stack(self, batch: "Batch") -> Crops | None:
        """The crops of a batch in one array; None if no instance has crops."""
        pinned = self._job.teacher.device.startswith("cuda")
        return stack_crops(batch.usable, pinned=pinned) if batch.usable else None

    def _launch(self, stacked: "Future[Crops | None]") -> Pending | None:
        crops = stacked.result()
        return None if crops is None else launch_maps(self._job.teacher, crops, self._job.plan)

    def _heatmaps(self, launched: Future[Pending | None]) -> NDArray[np.float32] | None:
        """Wait for the heatmaps (B, V, K, h, w) of a batch; None if no instance of it has crops."""
        try:
            wait = launched.result()
            return None if wait is None else wait()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise PrecomputeError(
                f"the memory of {self._job.teacher.device} is too small for batches of {self._job.batch_size} "
                "instances; continue with --resume and a smaller --batch-size"
            ) from error

    def _encode(
        self, batch: "Batch", launched: Future[Pending | None], commits: collections.deque[Future[None]]
    ) -> int:
        """Submit a batch's heatmaps for encoding and, after a shard's last batch, the shard for writing."""
        shard, heatmaps = batch.shard, self._heatmaps(launched)
        for item in batch.items:
            if item.problem is not None:
                self._skip(shard, item)
        if heatmaps is not None:
            for maps, item in zip(heatmaps, batch.usable, strict=True):
                shard.encoding.append(self._encoders.submit(self._put, shard, item, maps))
        shard.submitted += len(batch.items)
        if shard.submitted == shard.size:
            commits.append(self._committer.submit(shard.commit))
        else:
            shard.wait(4 * self._job.batch_size)
        while len(commits) > SHARDS_BEHIND or (commits and commits[0].done()):
            commits.popleft().result()
        return len(batch.items)

    def _put(self, shard: "OpenShard", item: Prepared, maps: NDArray[np.float32]) -> None:
        """Encode the heatmaps (V, K, h, w) of an instance; skip it if the codec cannot hold a value, such as NaN."""
        try:
            shard.writer.put(item.row, maps, item.frame)
        except StoreFormatError as error:
            file, teacher = self._job.instances.file_name[item.row], self._job.teacher.name
            problem = f"{file}: the heatmaps of {teacher} cannot be stored: {error.__cause__ or error}"
            remedy = "give another teacher, --precision or --codec"
            self._skip(shard, dataclasses.replace(item, problem=problem), remedy)

    def _skip(self, shard: "OpenShard", item: Prepared, remedy: str = "correct it and continue with --resume") -> None:
        """Leave out an instance, or end the run, which tells the user the remedy."""
        line = f"annotation {self._job.instances.annotation_id[item.row]}: {item.problem}"
        if not self._job.skip_missing:
            raise PrecomputeError(f"{line}; {remedy}, or leave out such instances with --skip-missing")
        self.skipped.append(line)
        shard.writer.skip(item.row)


class OpenShard:
    """A shard in the pipeline."""

    def __init__(self, writer: ShardWriter, size: int) -> None:
        self.writer, self.size = writer, size
        self.unread = size
        """Instances whose images are not being read yet."""
        self.unbatched = size
        """Instances that are not in a batch yet."""
        self.submitted = 0
        """Instances submitted for encoding."""
        self.encoding: collections.deque[Future[None]] = collections.deque()

    def wait(self, most: int) -> None:
        """Wait until at most `most` instances are being encoded."""
        while len(self.encoding) > most:
            self.encoding.popleft().result()

    def commit(self) -> None:
        """Write the shard when all its instances are encoded."""
        with self.writer:
            self.wait(0)


@dataclasses.dataclass(frozen=True)
class Batch:
    """Instances of one shard that go through the teacher together."""

    shard: OpenShard
    items: list[Prepared]

    @property
    def usable(self) -> list[Prepared]:
        """The instances with crops."""
        return [item for item in self.items if item.problem is None]


def _may_read_ahead(waiting: collections.deque[tuple[OpenShard, Future[list[Prepared]]]], ahead: int) -> bool:
    """Whether to read another image: limits reading ahead, so that later shards are left for other processes."""
    if not waiting:
        return True
    first, last = waiting[0][0], waiting[-1][0]
    return len(waiting) <= ahead and (first is last or last.unread > 0)


def _group_by_image(rows: list[int], names: list[str]) -> Iterator[list[int]]:
    """Yield groups of consecutive rows that belong to the same image."""
    group: list[int] = []
    for row in rows:
        if group and names[row] != names[group[0]]:
            yield group
            group = []
        group.append(row)
    if group:
        yield group
