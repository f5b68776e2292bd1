"""Is the store what this teacher says? Random instances go through the teacher again and are compared."""

from typing import Any

import numpy as np

from kdlib.heatmaps import peaks
from precompute.errors import PrecomputeError
from precompute.run import Job, teacher_maps

MOST_MOVED = 0.05
"""Share of joints whose maximum may lie elsewhere: a bf16 teacher moves 3.2 % of them against fp32."""
CONFIDENT = 0.2
"""Maps whose maximum is below this say nothing, and their maximum may move."""
BATCH = 16


def check(job: Job, store: Any, provenance: dict[str, Any], count: int) -> str:
    """Compare ``count`` random instances of a store with the teacher's maps of their images.

    Returns:
        One line with the differences.

    Raises:
        PrecomputeError: If the store was made by another teacher or from other persons, or its maps are others.
    """
    _refuse_other(job, store, provenance)
    rows = np.random.default_rng(0).permutation(np.flatnonzero(store.written))[:count]
    errors, moved, confident = [], 0, 0
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        prepared = [job.cropper.prepare([int(row)])[0] for row in batch]
        for item in prepared:
            if item.problem is not None:
                raise PrecomputeError(item.problem)
        fresh = teacher_maps(job.teacher, np.stack([item.crops for item in prepared]), job.plan)
        stored = store.heatmaps(batch)
        floor = store.manifest["provenance"]["logits"]["floor"]
        errors.append(np.abs(np.where(fresh >= floor, fresh, 0) - np.where(stored >= floor, stored, 0)).mean())
        points, scores = peaks(fresh)
        sure = scores > CONFIDENT
        moved += int(((np.abs(points - peaks(stored)[0]).max(axis=-1) > 1) & sure).sum())
        confident += int(sure.sum())
    share = moved / max(confident, 1)
    line = (
        f"{store.path}: {len(rows)} of {len(store)} instances through {job.teacher.name} again: mean |difference| "
        f"{np.mean(errors):.2g}, the maximum moved by more than a pixel in {moved} of {confident} confident maps"
    )
    if share > MOST_MOVED:
        raise PrecomputeError(f"{line}: this is not the same teacher, preprocessing or data")
    return line


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
