"""Checks whether a store holds this teacher's heatmaps: recomputes random instances and compares them.

A difference can have three causes. The codec: the manifest states its error. The machine: it may compute other values
in other batches; a control measures this by running the teacher over the same crops again, in other batches. A teacher,
data or preprocessing other than the store's: this is what the check must find.

Divergences are KL in nats between the distributions of log logits at T = 1, over the pixels where both heatmaps are
above the floor: a pixel that is above it on one side only would make the divergence infinite. Square roots of small
divergences add like distances, so codec and machine together explain at most (sqrt(codec) + sqrt(machine))^2.
"""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache import Store
from cache.codec.divergence import divergences
from cache.format.manifest import differences
from kdcli.progress import Progress, no_progress
from kdlib.heatmaps import peaks
from kdlib.samples.dataset import store_skeleton
from precompute.data.crops import Prepared, stack_crops
from precompute.errors import PrecomputeError
from precompute.run.job import Job
from precompute.teacher.ensemble import teacher_maps

MAX_MOVED = 0.05
"""Largest accepted share of joints whose maximum has moved: with bf16, 3.2 % of them move against fp32."""
CONFIDENT = 0.2
"""A heatmap is confident if its maximum is above this value. The maximum of other heatmaps may move."""
ROUNDING = 1e-6
"""Accepted difference of float32 arithmetic between machines in nats: a fortieth of the default codec's error."""
SAMPLE_RATIO = 2.0
"""Accepted ratio of the mean over a sample to the mean over the store."""
BATCH = 16
Maps = NDArray[np.float32]


@dataclass(frozen=True)
class Gap:
    """The difference between two sets of heatmaps, one of them recomputed by the teacher."""

    mean: float
    """Mean divergence in nats over all heatmaps with a value above the floor."""
    worst: float
    """Largest divergence in nats."""
    difference: float
    """Mean |difference| of the values; values below the floor count as 0."""
    moved: int
    """Number of confident heatmaps whose maximum has moved by more than one pixel."""


@dataclass(frozen=True)
class Check:
    """Result of a check."""

    path: str
    teacher: str
    instances: int
    """Instances that were compared."""
    of: int
    """Instances of the store."""
    store: Gap
    control: Gap
    stated: dict[str, float]
    """Mean and worst divergence of the codec in nats, from the manifest."""
    maps: int
    """Heatmaps that could be compared."""
    confident: int
    """Confident heatmaps among all recomputed ones."""
    made_otherwise: list[str]
    """Differences in software, device or precision, which can change the last digits of a heatmap."""

    @property
    def explained(self) -> dict[str, float]:
        """Largest mean and worst divergence in nats that codec and machine explain."""
        allowed = {"mean": SAMPLE_RATIO * self.stated["mean"], "worst": self.stated["worst"]}
        control = {"mean": self.control.mean, "worst": self.control.worst}
        return {kind: (math.sqrt(allowed[kind]) + math.sqrt(control[kind])) ** 2 + ROUNDING for kind in allowed}

    @property
    def verdict(self) -> str:
        """The result in one line."""
        return self._judge()[1]

    @property
    def passed(self) -> bool:
        """Whether the difference is explained."""
        return self._judge()[0]

    def _judge(self) -> tuple[bool, str]:
        if self.maps == 0:
            return False, "nothing to compare: no heatmap of these instances has a value above the floor"
        moved = (self.store.moved - self.control.moved) / max(1, self.confident)
        if moved > MAX_MOVED:
            return False, "different teacher, preprocessing or data"
        if self.store.mean <= self.explained["mean"] and self.store.worst <= self.explained["worst"]:
            return True, "same heatmaps, within the error of the codec"
        if self.made_otherwise:
            return True, f"same teacher, computed differently: {'; '.join(self.made_otherwise)}"
        return False, "the heatmaps differ by more than codec and machine explain"

    def to_json(self) -> dict[str, Any]:
        """All results as JSON values."""
        return {**asdict(self), "explained": self.explained, "passed": self.passed, "verdict": self.verdict}

    def to_text(self) -> str:
        """A table for the terminal."""
        rows = [
            ("", "mean", "worst", "|difference|", "moved maxima"),
            ("recomputed against the store", *_row(self.store)),
            ("recomputed twice (control)", *_row(self.control)),
            ("codec error (manifest)", f"{self.stated['mean']:.1e}", f"{self.stated['worst']:.1e}", "", ""),
            ("explained by codec and machine", *(f"{value:.1e}" for value in self.explained.values()), "", ""),
        ]
        lines = [f"  {r[0]:<31} {r[1]:>8} {r[2]:>8} {r[3]:>13} {r[4]:>13}".rstrip() for r in rows]
        head = f"{self.path}: {self.instances} of {self.of} instances recomputed with {self.teacher}"
        legend = (
            f"  divergences in nats (log logits, T = 1) of {self.maps} heatmaps; "
            f"moved maxima among {self.confident} confident ones"
        )
        return "\n".join([head, *lines, legend, f"  {self.verdict}"])


def _row(gap: Gap) -> tuple[str, str, str, str]:
    return f"{gap.mean:.1e}", f"{gap.worst:.1e}", f"{gap.difference:.1e}", str(gap.moved)


def check(job: Job, store: Store, count: int, progress: Progress = no_progress) -> Check:
    """Compare ``count`` random instances of a store with the teacher's heatmaps of their images.

    Args:
        job: The job with the teacher and the instances.
        store: The store.
        count: Number of instances; all, if the store has fewer.
        progress: Called with (done, total) before each batch.

    Raises:
        PrecomputeError: If the store was made by another teacher or from other instances, an image cannot be used, or
            the teacher computes heatmaps that are not finite.
    """
    _check_same_origin(job, store)
    rows = np.random.default_rng(0).permutation(np.flatnonzero(store.written))[:count]
    against_store, control, confident = _Tally(store.codec.floor), _Tally(store.codec.floor), 0
    for start in range(0, len(rows), BATCH):
        progress(start, len(rows))
        batch = rows[start : start + BATCH]
        recomputed, again = _compute_twice(job, _prepare(job, batch))
        against_store.add(recomputed, store.heatmaps(batch))
        control.add(recomputed, again)
        confident += int((peaks(recomputed)[1] > CONFIDENT).sum())
    stated = store.manifest["codec_error"]["log_t1"]
    return Check(
        path=str(store.path),
        teacher=job.teacher.name,
        instances=len(rows),
        of=len(store),
        store=against_store.gap(),
        control=control.gap(),
        stated={name: stated[name] for name in ("mean", "worst")},
        maps=control.maps,
        confident=confident,
        made_otherwise=_made_otherwise(store.manifest["provenance"], job.provenance),
    )


def _compute_twice(job: Job, prepared: list[Prepared]) -> tuple[Maps, Maps]:
    """Heatmaps (n, V, K, h, w) of instances, and again with the instances in other batches."""
    crops, middle = stack_crops(prepared), (len(prepared) + 1) // 2
    halves = [half for half in (prepared[::-1][:middle], prepared[::-1][middle:]) if half]
    again = [teacher_maps(job.teacher, stack_crops(half), job.plan) for half in halves]
    maps = teacher_maps(job.teacher, crops, job.plan)
    for item, of_instance in zip(prepared, maps, strict=True):
        if not np.isfinite(of_instance).all():
            raise PrecomputeError(
                f"annotation {job.instances.annotation_id[item.row]}: {job.instances.file_name[item.row]}: the "
                f"heatmaps of {job.teacher.name} hold NaN or infinity"
            )
    return maps, np.concatenate(again)[::-1]


def _prepare(job: Job, rows: NDArray[np.intp]) -> list[Prepared]:
    prepared = [job.cropper.prepare([int(row)])[0] for row in rows]
    for item in prepared:
        if item.problem is not None:
            raise PrecomputeError(item.problem)
    return prepared


class _Tally:
    """Accumulates a `Gap`, batch by batch."""

    def __init__(self, floor: float) -> None:
        self._floor = floor
        self._divergences: list[NDArray[np.float64]] = []
        self._differences: list[NDArray[np.float32]] = []
        self._moved = 0

    def add(self, recomputed: Maps, other: Maps) -> None:
        """Compare heatmaps (n, V, K, h, w)."""
        above = [np.where(maps >= np.float32(self._floor), maps, 0) for maps in (recomputed, other)]
        shared = (above[0] > 0) & (above[1] > 0)
        exact, compared = (np.where(shared, maps, 0) for maps in above)
        divergence = np.stack([divergences(*pair, self._floor)[..., 0] for pair in zip(exact, compared, strict=True)])
        self._divergences.append(divergence[np.isfinite(divergence)])
        self._differences.append(np.abs(above[0] - above[1]).mean(axis=(1, 2, 3, 4)))
        points, scores = peaks(recomputed)
        moved = np.abs(points - peaks(other)[0]).max(axis=-1) > 1
        self._moved += int((moved & (scores > CONFIDENT)).sum())

    @property
    def maps(self) -> int:
        """Number of heatmaps with a value above the floor on both sides."""
        return sum(map(len, self._divergences))

    def gap(self) -> Gap:
        """The gap over everything added."""
        divergence, difference = np.concatenate(self._divergences), np.concatenate(self._differences)
        mean, worst = (divergence.mean(), divergence.max()) if divergence.size else (0, 0)
        return Gap(max(0.0, float(mean)), max(0.0, float(worst)), float(difference.mean()), self._moved)


def _made_otherwise(stored: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Differences that change a heatmap's last digits, as `name: then, now`."""
    names = ("torch", "opencv", "libjpeg", "device")
    pairs = {name: (stored.get("software", {}).get(name), now["software"].get(name)) for name in names}
    pairs["precision"] = (stored["teacher"]["precision"], now["teacher"]["precision"])
    return [f"{name} was {then} and is {here} here" for name, (then, here) in pairs.items() if then != here]


def _check_same_origin(job: Job, store: Store) -> None:
    stored, own = store.manifest["provenance"]["teacher"], job.teacher
    if stored["weights_sha256"] != own.weights_sha256:
        raise PrecomputeError(
            f"{store.path} was made by {stored['name']} with weights {stored['weights_sha256'][:12]}..., "
            f"not by {own.name} with {own.weights_sha256[:12]}...; give the teacher that made it"
        )
    difference = store_skeleton(store).difference(own.skeleton)
    if difference is not None:
        raise PrecomputeError(
            f"{store.path} holds other joints than this command has: {difference}; give the annotations, --skeleton "
            "and --joints-from-teacher that it was made with"
        )
    for entry in ("views", "preprocessing"):
        differing = differences(store.manifest["provenance"][entry], json.loads(json.dumps(job.provenance[entry])))
        if differing:
            raise PrecomputeError(
                f"{store.path} was made with other {entry} than this command has (stored -> now): "
                f"{'; '.join(differing)}; give the settings of the store"
            )
    if not np.array_equal(store.instances["annotation_id"], job.instances.annotation_id):
        raise PrecomputeError(
            f"{store.path} holds other instances than these annotations; give the annotation file that it was made from"
        )
