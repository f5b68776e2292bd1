"""Are two stores the same? And if not, in what do they differ, and is that more than their codecs explain?"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from cache.divergence import MapTally, as_json
from cache.manifest import VOLATILE, differences
from cache.opening import open_store
from cache.spec import PLACE_COLUMNS, SHARD_DIGESTS
from cache.store import Store

_OF_RECORDS = ("heatmaps/peak", "integrity/checksum", "frames/nbytes", SHARD_DIGESTS)  # differ if and as the records do
_COMPARED = ("spec", "provenance", "teacher_metrics", "codec_error")
_OF_CODING = ("spec.codec", "spec.shard_instances", "spec.frame_limit", "codec_error", "teacher_metrics")
_CONVERSIONS = "provenance.conversions"  # how a store came to its codec: see cache/convert.py


def diff_stores(first: str | Path, second: str | Path) -> dict[str, Any]:
    """Compare two stores of any form.

    Returns a mapping:

    - `identical`: the same content and account of it; `within_codec_error`: the same instances, frames and teacher,
      and maps that differ by no more than both codecs' stated errors explain;
    - `instances`: are they the `same`, and how many are `only_in_first`, `only_in_second`;
    - `records`, absent where instances or sizes differ, so that there is nothing to compare: numbers of instances whose
      `maps` or `frames` differ or that only one store has written, `largest_difference` and `mean_difference` of the
      maps' values, their `divergence` in nats and what the codecs explain of it (`explained`); null: infinite;
    - `manifest`, differing entries as text; `columns`, path -> what differs in it.
    """
    a, b = open_store(first), open_store(second)
    changes = _manifest(a, b)
    result: dict[str, Any] = {
        "identical": False,
        "within_codec_error": False,
        "instances": _instances(a, b),
        "manifest": changes,
        "columns": dict(_columns(a, b)),
    }
    if not _comparable(a, b):
        return result
    tally = MapTally(a, b)
    records = result["records"] = _records(a, b, tally)
    same = not (result["columns"] or records["frames"] or records["only_one_written"])
    result["identical"] = same and not (changes or records["maps"])
    coding = [change for change in changes if change.startswith((*_OF_CODING, _CONVERSIONS))]
    result["within_codec_error"] = same and changes == coding and tally.is_explained()
    return result


def _manifest(a: Store, b: Store) -> list[str]:
    one, two = ({name: store.manifest[name] for name in _COMPARED} for store in (a, b))
    return differences(one, two, ignore=[f"provenance.{name}" for name in VOLATILE])


def _instances(a: Store, b: Store) -> dict[str, Any]:
    ids = [store.instances["annotation_id"] for store in (a, b)]
    return {
        "same": bool(np.array_equal(*ids)),
        "only_in_first": len(np.setdiff1d(*ids)),
        "only_in_second": len(np.setdiff1d(*reversed(ids))),
    }


def _columns(a: Store, b: Store) -> Iterator[tuple[str, str]]:
    """Columns that differ: path and in how many rows, or as what they are declared."""
    for path in sorted({*a.columns, *b.columns} - {*PLACE_COLUMNS, *_OF_RECORDS}):
        declared = [store.columns.get(path) for store in (a, b)]
        if declared[0] != declared[1]:
            yield path, f"{declared[0]} -> {declared[1]}"
        else:
            rows = [store.column(path).reshape(len(store.column(path)), -1) for store in (a, b)]
            changed = int((rows[0].view(np.uint8) != rows[1].view(np.uint8)).any(axis=1).sum())
            if changed:
                yield path, f"{changed} rows differ"


def _comparable(a: Store, b: Store) -> bool:
    """Do both hold maps of one size of the same instances?"""
    sizes = [(len(store), store.spec.views, store.spec.map_shape) for store in (a, b)]
    return sizes[0] == sizes[1] and _instances(a, b)["same"]


def _records(a: Store, b: Store, tally: MapTally) -> dict[str, Any]:
    """How many maps and frames differ, and how far, looking only into shards whose digests do."""
    both = a.written & b.written
    suspects = [index for index in _suspects(a, b) if both[index]]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for found in pool.map(tally.measure, suspects):
            tally.add(found)
    frames = [index for index in suspects if a.has_frames and b.has_frames and a.frame(index) != b.frame(index)]
    return {
        "maps": tally.changed,
        "frames": len(frames),
        "only_one_written": int((a.written != b.written).sum()),
        "largest_difference": tally.largest,
        "mean_difference": tally.total / max(1, int(both.sum())),
        "divergence": as_json(tally.divergence()),
        "explained": tally.explained(),
    }


def _suspects(a: Store, b: Store) -> Iterator[int]:
    """The instances that may differ."""
    if a.spec != b.spec:
        yield from range(len(a))
        return
    changed = (a.column(SHARD_DIGESTS) != b.column(SHARD_DIGESTS)).any(axis=1)
    for shard in np.flatnonzero(changed):
        yield from a.spec.shard_range(int(shard))
