"""Repairing a damaged store: the good shards are staged, and the run that made the store writes the bad ones again.

The damaged store stays in its place until the repaired one replaces it, so nothing is lost if a process is killed.
`PATH.partial` holds what the run needs to continue with `--resume`: the good shards, whose checksums were verified, and
the plan of the run, which also holds the content hash and the codec's error of the undamaged store.
"""

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

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
from kdcli.progress import Advance, no_advance

GIVEN_COLUMNS = ("instances", "ground_truth", "frames/affine", "views/affine", "views/flip")
"""Columns, and groups of columns, that are arguments of `create_store`; all others follow from the records."""


def stage_repair(path: str | Path, bad_shards: Collection[int], advance: Advance = no_advance) -> Writer:
    """Stage the shards of the store at `path` that are not bad; the bad ones are pending in the returned writer.

    `advance` is called with the number of instances of each shard.

    Raises:
        StoreError: The store cannot be opened, or another run for this path is unfinished.
    """
    try:
        store = open_store(path)
    except StoreError as error:
        raise StoreError(f"{error}; more than its shards is damaged: make the store again with --overwrite") from error
    writer = _begin(Path(path), store)
    for number in writer.pending_shards():
        if number not in bad_shards:
            _copy_shard(store, writer, number)
        advance(len(writer.shard_range(number)))
    return writer


def _begin(path: Path, store: Store) -> Writer:
    """A writer with the plan of the run that made the store."""
    directory, manifest = staging.staging_path(path), store.manifest
    found = {name: store.column(name) for name in store.columns}
    is_intact = content_hash(store.spec, found) == manifest["content_sha256"]
    columns = {name: found[name] for name in found if name in GIVEN_COLUMNS or name.partition("/")[0] in GIVEN_COLUMNS}
    plan = staging.make_plan(store.layout, store.spec.to_json(), manifest["provenance"], columns if is_intact else None)
    plan[staging.REPAIR] = {name: manifest[name] for name in ("content_sha256", "codec_error")}
    if (directory / PLAN).exists() and staging.read_plan(directory).get(staging.REPAIR) != plan[staging.REPAIR]:
        raise StoreError(f"{directory} belongs to another run of this store; finish it with --resume, or delete it")
    return begin(path, store.spec, plan, columns)


def _copy_shard(store: Store, writer: Writer, number: int) -> None:
    """Copy a shard; the error of the codec on its records is known only as the mean over the store."""
    error_of = partial(_mean_error, store.manifest["codec_error"], floor=store.codec.floor)
    with writer.shard(number) as shard:
        for index in writer.shard_range(number):
            copy_record(store, shard, index, error_of)


def _mean_error(
    stated: Mapping[str, Mapping[str, float]], peak: npt.NDArray[np.float32], floor: float
) -> npt.NDArray[np.float64]:
    """(V, K, kinds): the stated mean error for every map of peaks (V, K) that has a distribution, otherwise nan."""
    error = np.full((*peak.shape, len(ERROR_KINDS)), [stated[kind]["mean"] for kind in ERROR_KINDS])
    removed = (peak <= np.float32(floor))[..., None] & np.array([kind.startswith("log") for kind in ERROR_KINDS])
    error[removed] = np.nan
    return error
