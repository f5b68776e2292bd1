"""Compare the content of two stores, and list the instances, maps and fields that differ.

    python -m cache diff train.zarr train.h5
    python -m cache diff train.zarr https://host/coco/train.zarr
    python -m cache diff exact.zarr coded.zarr --within-codec-error     # accept what the codecs' errors explain

The exit code is 0 if both hold the same content, and 1 if not. The layout is not compared: a Zarr and an HDF5 store can
hold the same content.
"""

import argparse
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.codec.base import ERROR_KINDS
from cache.codec.divergence import divergences
from cache.commands.arguments import STORE, add_json, print_lines
from cache.files.location import redact
from cache.format.manifest import VOLATILE, differences
from cache.format.spec import PLACE_COLUMNS, SHARD_DIGESTS
from cache.reading.opening import open_store
from cache.reading.store import Store

HIGHER_ORDERS = 1.05  # factor by which a divergence may exceed half a squared distance, its leading term
ROUNDING = 1e-9  # nats; error of float32 arithmetic
GROUPS = ("teacher_metrics", "codec_error", "provenance.conversions")  # parts of a manifest that may differ throughout
FEW = 3  # differing entries of such a part that are listed one by one
# Columns that differ exactly if records differ:
_OF_RECORDS = ("heatmaps/peak", "integrity/checksum", "frames/nbytes", SHARD_DIGESTS)
_COMPARED = ("spec", "provenance", "teacher_metrics", "codec_error")  # entries of the manifest
_OF_CODING = ("spec.codec", "spec.shard_instances", "spec.frame_limit", "codec_error", "teacher_metrics")
_CONVERSIONS = "provenance.conversions"  # earlier codecs of a store, written by cache/commands/convert.py


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("a", metavar="A", help=STORE)
    parser.add_argument("b", metavar="B", help="the store to compare with")
    add_json(parser)
    parser.add_argument(
        "--within-codec-error",
        action="store_true",
        help="also exit with 0 if the maps differ by no more than the stated errors of both codecs explain",
    )


def run(options: argparse.Namespace) -> int:
    """Print how the stores differ; returns 0 if they are the same, or 1."""
    found = diff_stores(options.a, options.b)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        print(f"{redact(options.a)}, {redact(options.b)}: {verdict(found)}")
        print_lines(findings(found))
    return 0 if found["identical"] or (options.within_codec_error and found["within_codec_error"]) else 1


def diff_stores(first: str | Path, second: str | Path) -> dict[str, Any]:
    """Compare two stores of any layout.

    Returns:
        A mapping of JSON values:

        - `identical`: whether content and manifest are the same;
        - `within_codec_error`: whether instances, frames and teacher are the same, and the maps differ by no more than
          both codecs' stated errors explain;
        - `instances`: whether they are the `same`, and how many are `only_in_first` and `only_in_second`;
        - `records`, only if the stores have the same instances and sizes: the numbers of instances whose `maps` or
          `frames` differ and that are `only_one_written`, `largest_difference` and `mean_difference` of the maps'
          values, their `divergence` in nats, and how much of it the codecs explain (`explained`); null is infinite;
        - `manifest`: the differing entries, as text;
        - `columns`: path -> what differs in the column.
    """
    a, b = open_store(first), open_store(second)
    changes = _diff_manifests(a, b)
    result: dict[str, Any] = {
        "identical": False,
        "within_codec_error": False,
        "instances": _diff_instances(a, b),
        "manifest": changes,
        "columns": dict(_diff_columns(a, b)),
    }
    if not _is_comparable(a, b):
        return result
    tally = MapTally(a, b)
    records = result["records"] = _diff_records(a, b, tally)
    same = not (result["columns"] or records["frames"] or records["only_one_written"])
    result["identical"] = same and not (changes or records["maps"])
    coding = [change for change in changes if change.startswith((*_OF_CODING, _CONVERSIONS))]
    result["within_codec_error"] = same and changes == coding and tally.is_explained()
    return result


def verdict(found: Mapping[str, Any]) -> str:
    """The result of `diff_stores` as a short phrase."""
    if found["identical"]:
        return "identical"
    return "equal within the codecs' error" if found["within_codec_error"] else "different"


def findings(found: Mapping[str, Any]) -> list[str]:
    """The result of `diff_stores` as text, one line per finding."""
    columns = [f"column {path}: {change}" for path, change in found["columns"].items()]
    return [*_describe_content(found), *_group_changes(found["manifest"]), *columns]


class MapTally:
    """Sums the differences between maps; the reference is the store whose codec states the smaller error."""

    def __init__(self, a: Store, b: Store) -> None:
        self.reference, self.other = sorted((a, b), key=lambda s: s.manifest["codec_error"]["log_t1"]["mean"])
        self.changed = 0  # instances
        self.largest = self.total = 0.0  # of |difference|
        self._sum, self._worst = np.zeros(len(ERROR_KINDS)), np.zeros(len(ERROR_KINDS))
        unchanged = int((a.written & b.written).sum()) * a.spec.views * a.spec.joints
        self._maps = np.full(len(ERROR_KINDS), unchanged)  # `add` subtracts the maps that have no distribution

    def add(self, found: tuple[float, float, npt.NDArray[np.float64]]) -> None:
        """Add the result of `measure` for one instance."""
        largest, mean, divergence = found
        self.changed += largest > 0
        self.largest = max(self.largest, largest)
        self.total += mean
        known = np.nan_to_num(divergence, nan=0, posinf=np.inf).reshape(-1, len(ERROR_KINDS))
        self._maps -= np.isnan(divergence).sum(axis=(0, 1))
        self._sum += known.sum(axis=0)
        self._worst = np.maximum(self._worst, known.max(axis=0))

    def measure(self, index: int) -> tuple[float, float, npt.NDArray[np.float64]]:
        """Largest and mean |difference| of an instance's maps, and their divergences (V, K, kinds) in nats."""
        exact, other = (store.heatmaps([index])[0] for store in (self.reference, self.other))
        gap = np.abs(exact - other)
        floor = max(self.reference.codec.floor, self.other.codec.floor)
        return float(gap.max()), float(gap.mean()), divergences(exact, other, floor)

    def divergence(self) -> dict[str, dict[str, float]]:
        """Mean and worst of each kind over all written maps, in nats.

        They are infinite for log logits if two maps fall below the floor at different pixels.
        """
        means = (self._sum / np.maximum(1, self._maps)).tolist()
        return {
            kind: {"mean": mean, "worst": float(worst)}
            for kind, mean, worst in zip(ERROR_KINDS, means, self._worst, strict=True)
        }

    def explained(self) -> dict[str, dict[str, float]]:
        """The largest value of each entry of `divergence` that the codecs' errors explain."""
        return {kind: {entry: self._combined_error(kind, entry) for entry in ("mean", "worst")} for kind in ERROR_KINDS}

    def is_explained(self) -> bool:
        """Whether the codecs' errors explain every divergence."""
        explained = self.explained()
        return self.reference.codec.floor == self.other.codec.floor and all(
            found[entry] <= HIGHER_ORDERS * explained[kind][entry] + ROUNDING
            for kind, found in self.divergence().items()
            for entry in found
        )

    def _combined_error(self, kind: str, entry: str) -> float:
        errors = (store.manifest["codec_error"][kind][entry] for store in (self.reference, self.other))
        return sum(math.sqrt(max(0.0, error)) for error in errors) ** 2


def _diff_manifests(a: Store, b: Store) -> list[str]:
    one, two = ({name: store.manifest[name] for name in _COMPARED} for store in (a, b))
    return differences(one, two, ignore=[f"provenance.{name}" for name in VOLATILE])


def _diff_instances(a: Store, b: Store) -> dict[str, Any]:
    ids = [store.instances["annotation_id"] for store in (a, b)]
    return {
        "same": bool(np.array_equal(*ids)),
        "only_in_first": len(np.setdiff1d(*ids)),
        "only_in_second": len(np.setdiff1d(*reversed(ids))),
    }


def _diff_columns(a: Store, b: Store) -> Iterator[tuple[str, str]]:
    """(path, what differs) of the columns that differ: the number of rows, or the declarations."""
    for path in sorted({*a.columns, *b.columns} - {*PLACE_COLUMNS, *_OF_RECORDS}):
        declared = [store.columns.get(path) for store in (a, b)]
        if declared[0] != declared[1]:
            yield path, f"{declared[0]} -> {declared[1]}"
        else:
            rows = [store.column(path).reshape(len(store.column(path)), -1) for store in (a, b)]
            changed = int((rows[0].view(np.uint8) != rows[1].view(np.uint8)).any(axis=1).sum())
            if changed:
                yield path, f"{changed} rows differ"


def _is_comparable(a: Store, b: Store) -> bool:
    """Whether both stores hold maps of the same size for the same instances."""
    sizes = [(len(store), store.spec.views, store.spec.map_shape) for store in (a, b)]
    return sizes[0] == sizes[1] and _diff_instances(a, b)["same"]


def _diff_records(a: Store, b: Store, tally: MapTally) -> dict[str, Any]:
    """How many maps and frames differ, and by how much; only shards with different digests are read."""
    both = a.written & b.written
    candidates = [index for index in _candidates(a, b) if both[index]]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for found in pool.map(tally.measure, candidates):
            tally.add(found)
    frames = [index for index in candidates if a.has_frames and b.has_frames and a.frame(index) != b.frame(index)]
    return {
        "maps": tally.changed,
        "frames": len(frames),
        "only_one_written": int((a.written != b.written).sum()),
        "largest_difference": tally.largest,
        "mean_difference": tally.total / max(1, int(both.sum())),
        "divergence": _to_json(tally.divergence()),
        "explained": tally.explained(),
    }


def _candidates(a: Store, b: Store) -> Iterator[int]:
    """The rows of the instances that may differ."""
    if a.spec != b.spec:
        yield from range(len(a))
        return
    changed = (a.column(SHARD_DIGESTS) != b.column(SHARD_DIGESTS)).any(axis=1)
    for shard in np.flatnonzero(changed):
        yield from a.spec.shard_range(int(shard))


def _to_json(divergence: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The divergences with null in place of infinity."""
    return {
        kind: {entry: value if math.isfinite(value) else None for entry, value in entries.items()}
        for kind, entries in divergence.items()
    }


def _describe_content(found: Mapping[str, Any]) -> Iterator[str]:
    """Lines about instances, maps and frames."""
    if found["identical"]:
        return
    one, two = (found["instances"][f"only_in_{which}"] for which in ("first", "second"))
    ids = "the same" if found["instances"]["same"] else f"{one} only in the first, {two} only in the second store"
    yield f"instances: {ids}" if one or two or found["instances"]["same"] else "instances: in another order"
    if "records" not in found:
        yield "maps: not compared, because instances or sizes differ"
        return
    records = found["records"]
    if records["only_one_written"]:
        yield f"records: {records['only_one_written']} are written in only one of the stores"
    largest, mean = records["largest_difference"], records["mean_difference"]
    yield f"maps: {records['maps']} instances differ, by {largest:.3g} at most and {mean:.2g} on average"
    for kind, divergence in records["divergence"].items() if records["maps"] else ():
        numbers = {name: "infinite" if value is None else f"{value:.1e}" for name, value in divergence.items()}
        explained = records["explained"][kind]
        yield (
            f"maps: divergence {kind} {numbers['mean']} nats on average, {numbers['worst']} at worst; the codecs' "
            f"errors explain {explained['mean']:.1e} and {explained['worst']:.1e}"
        )
    yield f"frames: {records['frames']} differ"


def _group_changes(changes: Sequence[str]) -> Iterator[str]:
    """The changes of the manifest; for a part of `GROUPS` with more than `FEW` changes, only their number."""
    groups: dict[str, list[str]] = {}
    for change in changes:
        name = next((part for part in GROUPS if change.startswith(part)), change)
        groups.setdefault(name, []).append(change)
    for name, members in groups.items():
        yield from members if len(members) <= FEW else [f"{name}: {len(members)} entries differ"]
