"""Copying the first instances of a store to a smaller store, whose provenance names the source: `pull --limit`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cache.errors import StoreError
from cache.files.location import Location, local_target, redact
from cache.reading.opening import open_store
from cache.reading.store import Store
from cache.writing.shard import copy_record
from cache.writing.writer import create_store
from kdcli.progress import Advance, no_advance


def pull_part(
    source: str | Path | Location,
    target: str | Path,
    limit: int,
    *,
    overwrite: bool = False,
    advance: Advance = no_advance,
) -> Path:
    """Write the first `limit` instances of the store at `source` to `target`, whose suffix chooses the layout.

    Maps and frames are copied as they are, after checking their checksums; the ground truth is that of the images that
    are kept. After an interruption, the same call continues.

    Args:
        source: Path or URL of a store.
        target: Path of the new store.
        limit: The number of instances, at least 1; at most all are copied.
        overwrite: Replace the store at `target`.
        advance: Called with the number of instances that were copied since its last call.

    Returns:
        The path of the new store.

    Raises:
        StoreError: `limit` is below 1, or `target` exists and `overwrite` is false.
    """
    target = local_target(target, f"python -m cache pull --limit {limit} {redact(source)}")
    store = open_store(source)
    if limit < 1:
        raise StoreError(f"{store.path}: --limit must be at least 1 instance, not {limit}")
    count = min(limit, len(store))
    kept = np.isin(store.ground_truth["image_id"], store.instances["image_id"][:count])
    writer = create_store(
        target,
        replace(store.spec, instances=count),
        {**store.manifest["provenance"], "part_of": _describe_whole(store, count)},
        {name: column[:count] for name, column in store.instances.items()},
        {name: column[kept] for name, column in store.ground_truth.items()},
        store.frame_affine[:count],
        store.view_affine[:count],
        store.view_flip,
        resume=not overwrite,
        overwrite=overwrite,
    )
    for number in writer.pending_shards():
        with writer.shard(number) as shard:
            for index in writer.shard_range(number):
                copy_record(store, shard, index)
        advance(len(writer.shard_range(number)))
    return writer.publish(None, codec_error=store.manifest["codec_error"])


def _describe_whole(store: Store, count: int) -> dict[str, Any]:
    """The entry `part_of` of the provenance; the `codec_error` of the part is that of the whole store."""
    return {
        "content_sha256": store.manifest["content_sha256"],
        "instances": len(store),
        "first": count,
        "teacher_metrics": store.manifest["teacher_metrics"],
        "codec_error": "of the whole",
    }
