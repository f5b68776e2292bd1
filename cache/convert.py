"""The same store in its other form: maps, peaks and frames are copied as they are, only their packing changes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from cache.codec import ERROR_KINDS, Encoded
from cache.errors import StoreFormatError
from cache.opening import open_store
from cache.store import Store
from cache.writer import create_store


def convert_store(
    source: str | Path,
    target: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[int], object] = lambda done: None,
) -> Path:
    """Write the store `source` to `target`, whose suffix chooses the form; both have the same content hash.

    `progress` is called with the number of instances copied since its last call. Every record's checksum is checked
    on the way, and the copy is refused if its content hash is not the source's.
    """
    store = open_store(source)
    writer = create_store(
        target,
        store.spec,
        store.manifest["provenance"],
        store.instances,
        store.ground_truth,
        store.frame_affine,
        store.view_affine,
        store.view_flip,
        resume=resume,
        overwrite=overwrite,
    )
    for number in writer.pending_shards():
        with writer.shard(number) as shard:
            for index in writer.shard_range(number):
                if store.written[index]:
                    shard.put_encoded(index, _encoded(store, index), store.frame(index) if store.has_frames else None)
                else:
                    shard.skip(index)
        progress(len(writer.shard_range(number)))
    copied, original = writer.assemble().manifest["content_sha256"], store.manifest["content_sha256"]
    if copied != original:
        raise StoreFormatError(
            f"{store.path}: its content hash is {original}, but its content has {copied}; not copied"
        )
    return writer.publish(store.manifest["teacher_metrics"], codec_error=store.manifest["codec_error"])


def _encoded(store: Store, index: int) -> Encoded:
    views = [store.stored(index, view) for view in range(store.spec.views)]
    stored, peak = (np.stack(parts) for parts in zip(*views, strict=True))
    return Encoded(stored, peak, np.full((*peak.shape, len(ERROR_KINDS)), np.nan))  # the exact maps are not known here
