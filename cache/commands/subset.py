"""The first instances of a store, as a store of its own that says what it is a part of."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cache.errors import StoreError
from cache.files.location import Location
from cache.reading.opening import open_store
from cache.reading.store import Store
from cache.writing.shard import copy_record
from cache.writing.writer import create_store


def pull_part(
    source: str | Path | Location,
    target: str | Path,
    limit: int,
    *,
    overwrite: bool = False,
    progress: Callable[[int], object] = lambda done: None,
) -> Path:
    """Write the first `limit` instances of the store at `source` to `target`, whose suffix chooses the form.

    Maps and frames are copied as they are, checked against their checksums; ground truth is that of the images kept.
    The same call goes on after an interruption. `progress` is called with the number of instances that were added.
    """
    store = open_store(source)
    if limit < 1:
        raise StoreError(f"{store.path}: a part has at least 1 instance, not {limit}")
    count = min(limit, len(store))
    kept = np.isin(store.ground_truth["image_id"], store.instances["image_id"][:count])
    writer = create_store(
        target,
        replace(store.spec, instances=count),
        {**store.manifest["provenance"], "part_of": _whole(store, count)},
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
        progress(len(writer.shard_range(number)))
    return writer.publish(None, codec_error=store.manifest["codec_error"])


def _whole(store: Store, count: int) -> dict[str, Any]:
    """What the part's manifest says of the whole; `codec_error` is the whole's, its worst case holds for a part."""
    return {
        "content_sha256": store.manifest["content_sha256"],
        "instances": len(store),
        "first": count,
        "teacher_metrics": store.manifest["teacher_metrics"],
        "codec_error": "of the whole",
    }
