"""Write a store in the layout that the suffix of DST chooses, in another codec, or both.

    python -m cache convert train.zarr train.h5                 # lossless: the content hash stays the same
    python -m cache convert exact.zarr small.zarr --codec root4:64      # fewer bytes; the error is measured
    python -m cache convert train.zarr train.h5 --resume        # continue an interrupted conversion

An .h5 store is one file; a .zarr directory is faster in object stores and for streaming.
"""

import argparse
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cache.codec.base import Codec
from cache.codec.registry import CODEC_HELP, codec_from_name
from cache.commands.arguments import STORE, add_overwrite
from cache.errors import StoreFormatError
from cache.files.location import local_target, redact
from cache.reading.opening import open_store
from cache.reading.store import Store
from cache.writing.shard import ShardWriter, copy_record, frame_or_none
from cache.writing.writer import Writer, create_store
from kdcli.progress import Advance, no_advance, show_count

ENTRIES = ("mean", "worst")  # of a codec's error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("src", metavar="SRC", help=STORE)
    parser.add_argument("dst", metavar="DST", help="the new store: NAME.zarr (a directory) or NAME.h5 (one file)")
    parser.add_argument("--codec", metavar="NAME", help=f"{CODEC_HELP} (default: that of SRC)")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted conversion")
    add_overwrite(parser, "DST")


def run(options: argparse.Namespace) -> int:
    """Convert the store and print the path of the new one; returns 0."""
    with show_count("convert", "instances") as advance:
        path = convert_store(
            options.src,
            options.dst,
            codec=options.codec,
            resume=options.resume,
            overwrite=options.overwrite,
            advance=advance,
        )
    print(path)
    return 0


def convert_store(
    source: str | Path,
    target: str | Path,
    *,
    codec: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    advance: Advance = no_advance,
) -> Path:
    """Write the store `source` to `target`, whose suffix chooses the layout, in `codec`; returns the path.

    In the same codec, maps, peaks and frames are copied as they are, and both stores have the same content hash. In
    another codec, the decoded maps are encoded again, with the same floor. The error is measured against the decoded
    maps, because the store lacks the teacher's exact maps. The new store therefore states the largest error that both
    codecs together can have, and its provenance keeps codec, hash, error and metrics of the source. All checksums are
    verified.

    Args:
        source: Path or URL of a store.
        target: Path of the new store.
        codec: Name of the codec; None: that of the source.
        resume: Continue an interrupted conversion.
        overwrite: Replace the store at `target`.
        advance: Called with the number of instances that were copied since its last call.

    Raises:
        StoreFormatError: The codec is unknown, the source is damaged, or its content does not match its content hash.
        StoreError: `target` exists and `overwrite` is false.
    """
    target = local_target(target, f"python -m cache convert {redact(source)}")
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
            advance(len(writer.shard_range(number)))
    store.close()  # it may be the store that is replaced
    return _publish_copy(store, writer) if wanted == store.codec else _publish_converted(store, writer)


def _encode_record(store: Store, shard: ShardWriter, index: int) -> None:
    """Encode the decoded maps of an instance again."""
    if store.written[index]:
        shard.put(index, store.heatmaps([index])[0], frame_or_none(store, index))
    else:
        shard.skip(index)


def _publish_copy(store: Store, writer: Writer) -> Path:
    copied, original = writer.assemble().manifest["content_sha256"], store.manifest["content_sha256"]
    if copied != original:
        raise StoreFormatError(
            f"{store.path}: the manifest states the content hash {original}, but the content has {copied}; not copied"
        )
    return writer.publish(store.manifest["teacher_metrics"], codec_error=store.manifest["codec_error"])


def _publish_converted(store: Store, writer: Writer) -> Path:
    """Publish with the teacher's accuracy if the new codec is exact; otherwise the accuracy is unknown."""
    measured, stated = writer.assemble().manifest["codec_error"], store.manifest["codec_error"]
    if writer.spec.codec.is_exact:
        return writer.publish(store.manifest["teacher_metrics"], codec_error=stated)
    return writer.publish(None, codec_error={kind: _combined(stated[kind], measured[kind]) for kind in measured})


def _combined(stated: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """The largest error that two codecs can have together: square roots of small divergences add like distances."""
    both = {name: (math.sqrt(max(0.0, stated[name])) + math.sqrt(max(0.0, measured[name]))) ** 2 for name in ENTRIES}
    total = both if stated["worst"] > 0 else {name: measured[name] for name in ENTRIES}
    return {**total, "maps": measured["maps"], "converted": {name: measured[name] for name in ENTRIES}}


def _provenance(store: Store, wanted: Codec) -> dict[str, Any]:
    """The provenance of the source and, if the codec changes, the entries of its manifest that no longer hold."""
    provenance = dict(store.manifest["provenance"])
    if wanted == store.codec:
        return provenance
    kept = ("content_sha256", "codec_error", "teacher_metrics")
    source = {"codec": store.codec.to_json(), **{name: store.manifest[name] for name in kept}}
    return {**provenance, "conversions": [*provenance.get("conversions", []), source]}
