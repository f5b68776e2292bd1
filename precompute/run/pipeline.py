"""Reading and cropping, the teacher, encoding and writing, all at the same time.

Threads prepare the next crops, and encode and write the last maps, while the teacher works; the end of a shard stops
nobody. Batches never cross a shard, so that a resumed run, or one of several processes, computes what an uninterrupted
one would.
"""

import collections
import dataclasses
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from precompute.data.crops import Prepared, stack_crops
from precompute.errors import PrecomputeError
from precompute.run.job import Job
from precompute.teacher.ensemble import teacher_maps

IMAGES_AHEAD = 64
"""Images that are read before the teacher needs them."""
BATCHES_AHEAD = 1
"""Batches that are stacked while the teacher works on another one."""
SHARDS_BEHIND = 1
"""Shards that are being encoded and written while the teacher works on the next one."""


class Pipeline:
    """Threads that read and crop, run the teacher, encode, and write shards, all at the same time, across shards."""

    def __init__(self, job: Job, writer: Any) -> None:
        self.skipped: list[str] = []
        self._job, self._writer = job, writer
        self._readers = ThreadPoolExecutor(job.threads, "prepare")
        self._teacher = ThreadPoolExecutor(1, "teacher")
        self._coders = ThreadPoolExecutor(job.threads, "encode")
        self._committer = ThreadPoolExecutor(1, "write")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for pool in (self._readers, self._teacher, self._coders, self._committer):
            pool.shutdown(cancel_futures=True)

    def run(self, shards: Iterator[int]) -> Iterator[int]:
        """Write these shards; yields numbers of instances that the teacher has seen."""
        running: collections.deque[tuple[Batch, Future[Any]]] = collections.deque()
        commits: collections.deque[Future[None]] = collections.deque()
        for batch in self._batches(shards):
            running.append((batch, self._teacher.submit(self._maps, batch)))
            if len(running) > BATCHES_AHEAD:
                yield self._encode(running.popleft(), commits)
        while running:
            yield self._encode(running.popleft(), commits)
        while commits:
            commits.popleft().result()

    def _batches(self, shards: Iterator[int]) -> Iterator["Batch"]:
        """Batches of prepared persons; none crosses a shard, and images of the next shard are read ahead."""
        waiting: collections.deque[tuple[OpenShard, Future[list[Prepared]]]] = collections.deque()
        reading = self._reading(shards)
        batch: Batch | None = None
        while True:
            while _may_read_on(waiting) and (image := next(reading, None)):
                waiting.append(image)
            if not waiting:
                return
            shard, prepared = waiting.popleft()
            for item in prepared.result():
                batch = batch or Batch(shard, [])
                batch.items.append(item)
                shard.left -= 1
                if len(batch.items) == self._job.batch_size or not shard.left:
                    yield batch
                    batch = None

    def _reading(self, shards: Iterator[int]) -> Iterator[tuple["OpenShard", Future[list[Prepared]]]]:
        """Every image of every shard, being read; persons of one image share its decoding."""
        for number in shards:
            rows = list(self._writer.shard_range(number))
            shard = OpenShard(self._writer.shard(number), len(rows))
            for of_image in _by_image(rows, self._job.persons.file_name):
                shard.unread -= len(of_image)
                yield shard, self._readers.submit(self._job.cropper.prepare, of_image)

    def _maps(self, batch: "Batch") -> NDArray[np.float32] | None:
        usable = batch.usable
        return teacher_maps(self._job.teacher, stack_crops(usable), self._job.plan) if usable else None

    def _encode(self, taught: tuple["Batch", Future[Any]], commits: collections.deque[Future[None]]) -> int:
        """Hand a batch's maps to the coders and, after a shard's last batch, the shard to the disk."""
        batch, maps = taught
        shard, views = batch.shard, maps.result()
        for item in batch.items:
            if item.problem is not None:
                self.skipped.append(_skip(self._job, item))
                shard.writer.skip(item.row)
        for row, item in enumerate(batch.usable):
            shard.encoding.append(self._coders.submit(shard.writer.put, item.row, views[row], item.frame))
        shard.encoded += len(batch.items)
        if shard.encoded == shard.size:
            commits.append(self._committer.submit(shard.commit))
        else:
            shard.wait(4 * self._job.batch_size)
        while len(commits) > SHARDS_BEHIND or (commits and commits[0].done()):
            commits.popleft().result()
        return len(batch.items)


class OpenShard:
    """A shard on its way to the disk."""

    def __init__(self, writer: Any, size: int) -> None:
        self.writer, self.size = writer, size
        self.unread = size
        """Instances whose images are not being read yet."""
        self.left = size
        """Instances that are not in a batch yet."""
        self.encoded = 0
        """Instances that were handed to the coders."""
        self.encoding: collections.deque[Future[None]] = collections.deque()

    def wait(self, most: int) -> None:
        """Wait until at most so many instances are being encoded."""
        while len(self.encoding) > most:
            self.encoding.popleft().result()

    def commit(self) -> None:
        """Write the shard once everything is encoded."""
        with self.writer:
            self.wait(0)


@dataclasses.dataclass(frozen=True)
class Batch:
    """Persons of one shard that the teacher sees together."""

    shard: OpenShard
    items: list[Prepared]

    @property
    def usable(self) -> list[Prepared]:
        """Those with crops."""
        return [item for item in self.items if item.problem is None]


def _may_read_on(waiting: collections.deque[tuple[OpenShard, Future[list[Prepared]]]]) -> bool:
    """Not too many images ahead, and no further than into the next shard: other processes want some, too."""
    if not waiting:
        return True
    first, last = waiting[0][0], waiting[-1][0]
    return len(waiting) <= IMAGES_AHEAD and (first is last or last.unread > 0)


def _skip(job: Job, item: Prepared) -> str:
    line = f"annotation {job.persons.annotation_id[item.row]}: {item.problem}"
    if not job.skip_missing:
        raise PrecomputeError(f"{line}; mend it and go on with --resume, or leave such persons out with --skip-missing")
    return line


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
