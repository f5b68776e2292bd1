"""Is the store what this teacher says? Random instances go through the teacher again and are compared.

A difference can have three causes, and each has its own yardstick: the codec, whose error the manifest states; the
machine, which need not compute the same twice, measured by a control that runs the teacher over the same crops in other
batches; and a teacher, data or preprocessing that are not the store's, which are what the check is for.

Divergences are KL in nats between the distributions of log logits at T = 1, over the pixels that both maps have above
the floor: a pixel that noise carries across the floor would make it infinite. Square roots of small divergences add
like distances, so what codec and machine explain together is (sqrt(codec) + sqrt(machine))^2.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.codec.divergence import divergences
from kdcli.progress import Tell, silently
from kdlib.heatmaps import peaks
from precompute.data.crops import Prepared, stack_crops
from precompute.errors import PrecomputeError
from precompute.run.job import Job
from precompute.teacher.ensemble import teacher_maps

MOST_MOVED = 0.05
"""Share of joints whose maximum may lie elsewhere: a bf16 teacher moves 3.2 % of them against fp32."""
CONFIDENT = 0.2
"""Maps whose maximum is below this say nothing, and their maximum may move."""
ROUNDING = 1e-6
"""Nats that float32 arithmetic may differ by between machines: a fortieth of the default codec's error."""
SAMPLED = 2.0
"""How far the mean over a sample may lie above the mean over the store."""
BATCH = 16
Maps = NDArray[np.float32]


@dataclass(frozen=True)
class Gap:
    """How far maps are from those of the teacher's first pass."""

    mean: float
    """Divergence in nats, over all maps with a value above the floor."""
    worst: float
    difference: float
    """Mean |difference| of the values, those below the floor taken as 0."""
    moved: int
    """Confident maps whose maximum lies more than a pixel away."""


@dataclass(frozen=True)
class Check:
    """What was found."""

    path: str
    teacher: str
    instances: int
    of: int
    store: Gap
    control: Gap
    stated: dict[str, float]
    """Mean and worst divergence of the codec, as the manifest states them."""
    maps: int
    """Maps that could be compared."""
    confident: int
    """Those whose maximum is high enough to have a place."""
    made_otherwise: list[str]
    """What decides a map's last digits and is not the same here as where the store was made."""

    @property
    def explained(self) -> dict[str, float]:
        """The most that codec and machine explain, in nats: of the mean and of the worst map."""
        allowed = {"mean": SAMPLED * self.stated["mean"], "worst": self.stated["worst"]}
        control = {"mean": self.control.mean, "worst": self.control.worst}
        return {kind: (math.sqrt(allowed[kind]) + math.sqrt(control[kind])) ** 2 + ROUNDING for kind in allowed}

    @property
    def verdict(self) -> str:
        """One line."""
        if self.maps == 0:
            return "nothing to compare: no map of these instances has a value above the floor"
        moved = (self.store.moved - self.control.moved) / max(1, self.confident)
        if moved > MOST_MOVED:
            return "this is not the same teacher, preprocessing or data"
        if self.store.mean <= self.explained["mean"] and self.store.worst <= self.explained["worst"]:
            return "what the teacher says, as exactly as the codec states"
        if self.made_otherwise:
            return f"the same teacher, computed otherwise: {'; '.join(self.made_otherwise)}"
        return "more than the codec and this machine explain: the maps are not the teacher's of these images"

    @property
    def passed(self) -> bool:
        """Is the difference explained?"""
        return self.verdict.startswith(("what", "the same"))

    def to_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        return {**asdict(self), "explained": self.explained, "passed": self.passed, "verdict": self.verdict}

    def page(self) -> str:
        """A small table for people."""
        rows = [
            ("", "mean", "worst", "|difference|", "maxima moved"),
            ("teacher now against the store", *_row(self.store)),
            ("teacher now against itself", *_row(self.control)),
            ("stated by the codec", f"{self.stated['mean']:.1e}", f"{self.stated['worst']:.1e}", "", ""),
            ("explained by codec and machine", *(f"{value:.1e}" for value in self.explained.values()), "", ""),
        ]
        lines = [f"  {r[0]:<31} {r[1]:>8} {r[2]:>8} {r[3]:>13} {r[4]:>13}".rstrip() for r in rows]
        head = f"{self.path}: {self.instances} of {self.of} instances through {self.teacher} again"
        legend = (
            f"  divergences in nats (log logits, T = 1) of {self.maps} maps; maxima of {self.confident} confident ones"
        )
        return "\n".join([head, *lines, legend, f"  {self.verdict}"])


def _row(gap: Gap) -> tuple[str, str, str, str]:
    return f"{gap.mean:.1e}", f"{gap.worst:.1e}", f"{gap.difference:.1e}", str(gap.moved)


def check(job: Job, store: Any, provenance: dict[str, Any], count: int, tell: Tell = silently) -> Check:
    """Compare ``count`` random instances of a store with the teacher's maps of their images.

    `tell` hears of each batch.

    Raises:
        PrecomputeError: If the store was made by another teacher or from other persons, or an image is unusable.
    """
    _refuse_other(job, store, provenance)
    rows = np.random.default_rng(0).permutation(np.flatnonzero(store.written))[:count]
    against_store, control, confident = _Tally(store.codec.floor), _Tally(store.codec.floor), 0
    for start in range(0, len(rows), BATCH):
        tell(start, len(rows))
        batch = rows[start : start + BATCH]
        fresh, again = _twice(job, _prepared(job, batch))
        against_store.add(fresh, store.heatmaps(batch))
        control.add(fresh, again)
        confident += int((peaks(fresh)[1] > CONFIDENT).sum())
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
        made_otherwise=_made_otherwise(store.manifest["provenance"], provenance),
    )


def _twice(job: Job, persons: list[Prepared]) -> tuple[Maps, Maps]:
    """The teacher's maps of persons, (n, V, K, h, w), and once more with the persons in other batches."""
    crops, middle = stack_crops(persons), (len(persons) + 1) // 2
    halves = [half for half in (persons[::-1][:middle], persons[::-1][middle:]) if half]
    again = [teacher_maps(job.teacher, stack_crops(half), job.plan) for half in halves]
    return teacher_maps(job.teacher, crops, job.plan), np.concatenate(again)[::-1]


def _prepared(job: Job, rows: NDArray[np.intp]) -> list[Prepared]:
    prepared = [job.cropper.prepare([int(row)])[0] for row in rows]
    for item in prepared:
        if item.problem is not None:
            raise PrecomputeError(item.problem)
    return prepared


class _Tally:
    """Adds up a `Gap`, batch by batch."""

    def __init__(self, floor: float) -> None:
        self._floor = floor
        self._divergences: list[NDArray[np.float64]] = []
        self._differences: list[NDArray[np.float32]] = []
        self._moved = 0

    def add(self, fresh: Maps, other: Maps) -> None:
        """Compare maps (n, V, K, h, w)."""
        above = [np.where(maps >= np.float32(self._floor), maps, 0) for maps in (fresh, other)]
        shared = (above[0] > 0) & (above[1] > 0)
        exact, seen = (np.where(shared, maps, 0) for maps in above)
        divergence = np.stack([divergences(*pair, self._floor)[..., 0] for pair in zip(exact, seen, strict=True)])
        self._divergences.append(divergence[np.isfinite(divergence)])
        self._differences.append(np.abs(above[0] - above[1]).mean(axis=(1, 2, 3, 4)))
        points, scores = peaks(fresh)
        moved = np.abs(points - peaks(other)[0]).max(axis=-1) > 1
        self._moved += int((moved & (scores > CONFIDENT)).sum())

    @property
    def maps(self) -> int:
        """Maps with a value above the floor on both sides."""
        return sum(map(len, self._divergences))

    def gap(self) -> Gap:
        """Over everything added."""
        divergence, difference = np.concatenate(self._divergences), np.concatenate(self._differences)
        mean, worst = (divergence.mean(), divergence.max()) if divergence.size else (0, 0)
        return Gap(max(0.0, float(mean)), max(0.0, float(worst)), float(difference.mean()), self._moved)


def _made_otherwise(stored: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs and moves a map's last digits: `name: then, now`."""
    names = ("torch", "opencv", "libjpeg", "device")
    pairs = {name: (stored.get("software", {}).get(name), now["software"].get(name)) for name in names}
    pairs["precision"] = (stored["teacher"]["precision"], now["teacher"]["precision"])
    return [f"{name} was {then}, is {here} here" for name, (then, here) in pairs.items() if then != here]


def _refuse_other(job: Job, store: Any, provenance: dict[str, Any]) -> None:
    stored, own = store.manifest["provenance"]["teacher"], job.teacher
    if stored["weights_sha256"] != own.weights_sha256:
        raise PrecomputeError(
            f"{store.path} was made by {stored['name']} with weights {stored['weights_sha256'][:12]}..., "
            f"not by {own.name} with {own.weights_sha256[:12]}...; give the teacher it was made by"
        )
    for entry in ("views", "preprocessing"):
        before, now = store.manifest["provenance"][entry], provenance[entry]
        if before != now:
            raise PrecomputeError(f"{store.path} was made with {entry} {before}, this command says {now}")
    if not np.array_equal(store.instances["annotation_id"], job.persons.annotation_id):
        raise PrecomputeError(
            f"{store.path} holds other persons than these annotations; give the file it was made from"
        )
