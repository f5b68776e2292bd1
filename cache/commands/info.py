"""Show what is in a store: teacher, data, sizes, the codec's error, the teacher's accuracy, and the provenance.

    python -m cache info train.zarr
    python -m cache info train.zarr.partial     # an unfinished store: how much of it is written
    python -m cache info https://host/coco/train.zarr           # fetches only what it needs
    python -m cache info train.zarr --json      # all facts as JSON, for programs

The line `content` shows the SHA-256 of all content. Undamaged stores with the same hash hold the same content, in
either layout.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cache.commands.arguments import STORE, add_json
from cache.files.location import locate
from cache.format.manifest import flatten
from cache.format.spec import PLAN, spec_from_json
from cache.reading.opening import open_store
from cache.reading.store import Store
from cache.writing import staging
from kdcli.words import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("path", metavar="PATH", help=f"{STORE}; it may be unfinished")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print the facts; returns 0."""
    facts = describe(options.path)
    print(json.dumps(facts, indent=1) if options.json else format_facts(facts))
    return 0


def describe(path: str | Path) -> dict[str, Any]:
    """What `info --json` prints about the store at `path`, or about its staging directory if it is unfinished."""
    place = locate(path)
    if isinstance(place, Path):
        if not place.exists() and (staging.staging_path(place) / PLAN).is_file():
            place = staging.staging_path(place)
        if (place / PLAN).is_file():
            return _describe_staging(place)
    return _describe_store(open_store(place, allow_incomplete=True))


def format_facts(facts: Mapping[str, Any]) -> str:
    """The facts of `describe` as text."""
    spec = facts["spec"]
    codec = ", ".join(f"{name} {value}" for name, value in spec["codec"].items() if name not in ("name", "version"))
    rows = [("layout", {"zarr": "Zarr v3", "hdf5": "HDF5"}[facts["form"]] + f", {_state(facts)}")]
    rows.append(("instances", f"{spec['instances']:,}, {counted(spec['views'], 'view')}, {spec['joints']} joints"))
    rows.append(
        ("heatmaps", f"{spec['width']}x{spec['height']} (width x height), codec {spec['codec']['name']} ({codec})")
    )
    if "written" in facts:
        rows += list(_measured(facts))
    rows += [(name, _as_text(value)) for name, value in flatten(facts["provenance"])]
    if not facts["complete"]:
        rows.append(("to continue", "run the command that made the store again, with --resume"))
    width = max(len(name) for name, _ in rows)
    return "\n".join([facts["path"], *(f"  {name:<{width}}  {value}" for name, value in rows)])


def _describe_staging(root: Path) -> dict[str, Any]:
    plan = staging.read_plan(root)
    spec = spec_from_json(plan["spec"])
    done = sum(staging.has_receipt(root, shard) for shard in range(spec.shards))
    return {
        "path": str(root),
        "form": plan["form"],
        "complete": False,
        "shards": spec.shards,
        "shards_written": done,
        "spec": plan["spec"],
        "provenance": plan["provenance"],
    }


def _describe_store(store: Store) -> dict[str, Any]:
    written = [index for index, is_written in enumerate(store.written) if is_written]
    maps = sum(store.stored_bytes(index) for index in written)
    views = max(1, len(written) * store.spec.views)
    nbytes = store.spec.joints * store.spec.height * store.spec.width * 4
    return {
        "path": str(store.path),
        "form": store.layout,
        "shards": store.spec.shards,
        "shards_written": store.spec.shards,
        "bytes": store.nbytes,
        "heatmap_bytes": maps,
        "heatmap_bytes_per_view": maps / views,
        "heatmap_ratio_to_float32": maps / views / nbytes,
        "frame_bytes": int(store.column("frames/nbytes").sum()) if store.has_frames else 0,
        **store.manifest,
    }


def _measured(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Rows about an assembled store."""
    per_view, ratio = facts["heatmap_bytes_per_view"], facts["heatmap_ratio_to_float32"]
    yield "written", f"{facts['written']:,} of {facts['spec']['instances']:,}"
    yield "bytes per view", f"{per_view:,.0f}, 1/{1 / ratio:.1f} of float32" if ratio else "none"
    yield "frames", f"{facts['frame_bytes']:,} bytes" if facts["spec"]["frames"] else "not in the store"
    yield "size", f"{facts['bytes']:,} bytes, {facts['bytes'] / facts['spec']['instances']:,.0f} per instance"
    for kind, error in facts["codec_error"].items():
        yield f"error {kind}", f"{error['mean']:.1e} nats on average, {error['worst']:.1e} at worst"
    for name, value in flatten(facts["teacher_metrics"] or {}):
        yield f"teacher {name}", _as_text(value)
    yield "content", f"sha256 {facts['content_sha256']}"


def _state(facts: Mapping[str, Any]) -> str:
    if facts["complete"]:
        return "complete"
    return f"incomplete: {facts['shards_written']} of {facts['shards']} shards written"


def _as_text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
