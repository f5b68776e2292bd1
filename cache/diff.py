"""Are two stores the same? And if not, in what do they differ?"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cache.manifest import VOLATILE, differences
from cache.opening import open_store
from cache.spec import PLACE_COLUMNS, SHARD_DIGESTS
from cache.store import Store

_OF_RECORDS = ("heatmaps/peak", "integrity/checksum", "frames/nbytes", SHARD_DIGESTS)  # differ if and as the records do
_COMPARED = ("spec", "provenance", "teacher_metrics", "codec_error")


def diff_stores(first: str | Path, second: str | Path) -> dict[str, Any]:
    """Compare two stores of any form.

    Returns a mapping: `identical`; `manifest`, differing entries as text; `columns`, path -> what differs in it;
    `records`, numbers of instances whose maps or frames differ and the largest difference of a map's value, absent
    where the instances or the sizes differ, so that there is nothing to compare.
    """
    a, b = open_store(first), open_store(second)
    documents = [{name: store.manifest[name] for name in _COMPARED} for store in (a, b)]
    ignored = [f"provenance.{name}" for name in VOLATILE]
    result: dict[str, Any] = {
        "identical": False,
        "manifest": differences(documents[0], documents[1], ignore=ignored),
        "columns": dict(_columns(a, b)),
    }
    if _comparable(a, b):
        result["records"] = _records(a, b)
    result["identical"] = not (result["manifest"] or result["columns"] or any(result.get("records", {"": 1}).values()))
    return result


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
    ids = [store.instances["annotation_id"] for store in (a, b)]
    return sizes[0] == sizes[1] and bool((ids[0] == ids[1]).all())


def _records(a: Store, b: Store) -> dict[str, float]:
    """How many maps and frames differ, looking only into shards whose digests do."""
    found = {"maps": 0, "frames": 0, "only_one_written": 0, "largest_difference": 0.0}
    for index in _suspects(a, b):
        written = [bool(store.written[index]) for store in (a, b)]
        if not all(written):
            found["only_one_written"] += any(written)
            continue
        gap = float(np.abs(a.heatmaps([index]) - b.heatmaps([index])).max())
        found["maps"] += gap > 0
        found["largest_difference"] = max(found["largest_difference"], gap)
        if a.has_frames and b.has_frames:
            found["frames"] += a.frame(index) != b.frame(index)
    return found


def _suspects(a: Store, b: Store) -> Iterator[int]:
    """The instances that may differ."""
    if a.spec != b.spec:
        yield from range(len(a))
        return
    changed = (a.column(SHARD_DIGESTS) != b.column(SHARD_DIGESTS)).any(axis=1)
    for shard in np.flatnonzero(changed):
        yield from a.spec.shard_range(int(shard))
