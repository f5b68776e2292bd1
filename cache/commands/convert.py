"""The same store in its other form, in another codec, or both.

In the same codec, maps, peaks and frames are copied as they are: only their packing changes, and both stores have one
content hash. In another codec the decoded maps are encoded anew. What that costs is measured against the decoded maps;
the teacher's own are not known any more, so that the new store states the most that both codecs together can have done,
and its provenance keeps what the source said of itself.
"""

import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cache.codec.base import Codec
from cache.codec.registry import codec_from_name
from cache.errors import StoreFormatError
from cache.reading.opening import open_store
from cache.reading.store import Store
from cache.writing.shard import ShardWriter, copy_record, frame_or_none
from cache.writing.writer import Writer, create_store

LOSSLESS = "float32"  # the codec that holds any decoded map exactly
ENTRIES = ("mean", "worst")  # of a codec's error


def convert_store(
    source: str | Path,
    target: str | Path,
    *,
    codec: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[int], object] = lambda done: None,
) -> Path:
    """Write the store `source` to `target`, whose suffix chooses the form, in `codec` (None: its own; the floor stays).

    `progress` is called with the number of instances copied since its last call. Every record's checksum is checked
    on the way, and a copy in the same codec is refused if its content hash is not the source's.
    """
    store = open_store(source)
    wanted = store.codec if codec is None else codec_from_name(codec, store.codec.floor)
    writer = create_store(
        target,
        replace(store.spec, codec=wanted),
        _provenance(store, wanted),
        store.instances,
        store.ground_truth,
        store.frame_affine,
        store.view_affine,
        store.view_flip,
        resume=resume,
        overwrite=overwrite,
    )
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number in writer.pending_shards():
            with writer.shard(number) as shard:
                put = partial(copy_record if wanted == store.codec else _encode_record, store, shard)
                list(pool.map(put, writer.shard_range(number)))
            progress(len(writer.shard_range(number)))
    return _publish_copy(store, writer) if wanted == store.codec else _publish_converted(store, writer)


def _encode_record(store: Store, shard: ShardWriter, index: int) -> None:
    """Encode an instance's decoded maps anew."""
    if store.written[index]:
        shard.put(index, store.heatmaps([index])[0], frame_or_none(store, index))
    else:
        shard.skip(index)


def _publish_copy(store: Store, writer: Writer) -> Path:
    copied, original = writer.assemble().manifest["content_sha256"], store.manifest["content_sha256"]
    if copied != original:
        raise StoreFormatError(
            f"{store.path}: its content hash is {original}, but its content has {copied}; not copied"
        )
    return writer.publish(store.manifest["teacher_metrics"], codec_error=store.manifest["codec_error"])


def _publish_converted(store: Store, writer: Writer) -> Path:
    """The teacher's accuracy is that of the source only if the maps are."""
    measured, stated = writer.assemble().manifest["codec_error"], store.manifest["codec_error"]
    if writer.spec.codec.name == LOSSLESS:
        return writer.publish(store.manifest["teacher_metrics"], codec_error=stated)
    return writer.publish(None, codec_error={kind: _together(stated[kind], measured[kind]) for kind in measured})


def _together(stated: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """The most that two codecs can have done: square roots of small divergences add like distances."""
    both = {name: (math.sqrt(max(0.0, stated[name])) + math.sqrt(max(0.0, measured[name]))) ** 2 for name in ENTRIES}
    total = both if stated["worst"] > 0 else {name: measured[name] for name in ENTRIES}
    return {**total, "maps": measured["maps"], "converted": {name: measured[name] for name in ENTRIES}}


def _provenance(store: Store, wanted: Codec) -> dict[str, Any]:
    """That of the source and, if the codec changes, what the source said of itself."""
    provenance = dict(store.manifest["provenance"])
    if wanted == store.codec:
        return provenance
    kept = ("content_sha256", "codec_error", "teacher_metrics")
    source = {"codec": store.codec.to_json(), **{name: store.manifest[name] for name in kept}}
    return {**provenance, "conversions": [*provenance.get("conversions", []), source]}
