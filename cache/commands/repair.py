"""Mending a damaged store: what is sound is staged anew, the bad shards are left for the run that made it.

The damaged store stays at its place, whole as it is, until the repaired one replaces it: killed anywhere, nothing that
was good is lost. What its maker needs to go on with `--resume` lies in `PATH.partial`: the good shards, read with every
checksum, and the plan of the run, which also remembers the content hash and the codec's error of the whole store.
"""

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.codec.base import ERROR_KINDS
from cache.errors import StoreError
from cache.format.integrity import content_hash
from cache.format.spec import PLAN
from cache.reading.opening import open_store
from cache.reading.store import Store
from cache.writing import staging
from cache.writing.shard import copy_record
from cache.writing.writer import Writer, begin

GIVEN = ("instances", "ground_truth", "frames/affine", "views/affine", "views/flip")
"""Columns, and groups of them, that the maker of a store brings; all others follow from the records."""


def stage_repair(
    path: str | Path, bad_shards: Collection[int], progress: Callable[[int], object] = lambda done: None
) -> Writer:
    """Stage the shards of the store at `path` that are not bad; the writer's pending shards are then the bad ones.

    Raises:
        StoreError: the store cannot be opened, so that there is nothing to build on, or another run is unfinished.
    """
    try:
        store = open_store(path)
    except StoreError as error:
        raise StoreError(f"{error}; more than its shards is damaged: make it again with --overwrite") from error
    writer = _begin(Path(path), store)
    for number in writer.pending_shards():
        if number not in bad_shards:
            _copy_shard(store, writer, number)
        progress(len(writer.shard_range(number)))
    return writer


def _begin(path: Path, store: Store) -> Writer:
    """A writer whose plan is that of the run that made the store."""
    directory, manifest = staging.staging_path(path), store.manifest
    made = {name: store.column(name) for name in store.columns}
    sound = content_hash(store.spec, made) == manifest["content_sha256"]
    columns = {name: made[name] for name in made if name in GIVEN or name.partition("/")[0] in GIVEN}
    plan = staging.make_plan(store.form, store.spec.to_json(), manifest["provenance"], columns if sound else None)
    plan[staging.REPAIR] = {name: manifest[name] for name in ("content_sha256", "codec_error")}
    if (directory / PLAN).exists() and staging.read_plan(directory).get(staging.REPAIR) != plan[staging.REPAIR]:
        raise StoreError(f"{directory} belongs to another run of this store; finish it with --resume, or delete it")
    return begin(path, store.spec, plan, columns)


def _copy_shard(store: Store, writer: Writer, number: int) -> None:
    """Copy a shard; of its records' error only the mean over the store is known."""
    error_of = partial(_mean_error, store.manifest["codec_error"], floor=store.codec.floor)
    with writer.shard(number) as shard:
        for index in writer.shard_range(number):
            copy_record(store, shard, index, error_of)


def _mean_error(stated: Any, peak: npt.NDArray[np.float32], floor: float) -> npt.NDArray[np.float64]:
    """(V, K, kinds): what the manifest states on average, for every map that has a distribution."""
    error = np.full((*peak.shape, len(ERROR_KINDS)), [stated[kind]["mean"] for kind in ERROR_KINDS])
    removed = (peak <= np.float32(floor))[..., None] & np.array([kind.startswith("log") for kind in ERROR_KINDS])
    error[removed] = np.nan
    return error
