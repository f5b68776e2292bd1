"""Read a whole store and check every record, hash and entry of the manifest; exit code 1 if something is wrong.

    python -m cache verify train.zarr
    python -m cache verify train.zarr --json    # all problems, not only the first 20
    python -m cache verify train.zarr --repair  # stage the good shards; precompute --resume writes the others

With --repair, the damaged store stays in its place until the resumed run replaces it (docs/precompute.md).
"""

import argparse
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cache.commands.arguments import STORE, add_json, print_lines
from cache.commands.hdf5_probe import find_crash
from cache.commands.repair import stage_repair
from cache.errors import StoreError, StoreNotFoundError
from cache.files.location import locate, redact
from cache.format.columns import frame_offsets
from cache.format.integrity import UNWRITTEN_DIGEST, content_hash, record_digest
from cache.format.spec import SHARD_DIGESTS
from cache.reading.opening import open_store
from cache.reading.store import Store
from cache.writing.staging import staging_path
from kdcli.progress import Advance, no_advance, show_count

REPAIR = """\
{staging}: {kept} of {shards} shards are good and staged.
Run the command that made the store again, with --resume: it writes the other shards and then replaces the store."""


class Problem(NamedTuple):
    """One thing that is wrong with a store."""

    instance: int | None  # None: not about a single record
    message: str
    shard: int | None = None  # the shard that must be written again


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("path", metavar="PATH", help=STORE)
    add_json(parser)
    parser.add_argument(
        "--repair", action="store_true", help="stage the good shards, so that precompute --resume writes the others"
    )


def run(options: argparse.Namespace) -> int:
    """Check the store and, if asked, stage a repair; returns 1 if there is a problem."""
    crash = find_crash(options.path)
    with show_count("verify", "instances") as advance:
        problems = [Problem(None, crash)] if crash else verify_store(options.path, advance)
    staged = _repair(options.path, bad_shards(problems)) if options.repair and problems and not crash else {}
    if options.json:
        print(json.dumps({**report(problems), **staged}, indent=1))
    else:
        if not problems:
            print(f"{redact(options.path)}: no problems in any record, hash or entry of the manifest")
        print_lines([problem.message for problem in problems])
        if staged:
            print(REPAIR.format(**staged))
    return 1 if problems else 0


def verify_store(path: str | Path, advance: Advance = no_advance) -> list[Problem]:
    """Find all problems of the store at `path`; returns an empty list if there are none.

    `advance` is called with the number of instances that were checked since its last call.

    Raises:
        StoreNotFoundError: There is nothing at this local path.
    """
    place = locate(path)
    if isinstance(place, Path) and not place.exists():
        raise StoreNotFoundError(f"{place}: no such store")
    try:
        store = open_store(place)
    except StoreError as error:
        return [Problem(None, str(error))]
    problems: list[Problem] = []
    for check in (_check_entries, _check_manifest, _check_offsets):
        try:
            problems += check(store)
        except StoreError as error:
            problems.append(Problem(None, str(error)))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        shards = range(store.spec.shards)
        for shard, found in enumerate(pool.map(lambda shard: list(_check_shard(store, shard)), shards)):
            problems += found
            advance(len(store.spec.shard_range(shard)))
    return problems


def bad_shards(problems: Sequence[Problem]) -> list[int]:
    """The shards that must be written again, sorted."""
    return sorted({problem.shard for problem in problems if problem.shard is not None})


def report(problems: Sequence[Problem]) -> dict[str, Any]:
    """The result as `--json` prints it."""
    bad = sorted({problem.instance for problem in problems if problem.instance is not None})
    return {
        "ok": not problems,
        "bad_instances": bad,
        "bad_shards": bad_shards(problems),
        "problems": [problem.message for problem in problems],
    }


def _repair(path: str, bad: Sequence[int]) -> dict[str, Any]:
    """Stage the good shards; returns what `REPAIR` and `--json` report."""
    with show_count("repair", "instances") as advance:
        writer = stage_repair(path, bad, advance)
    shards = writer.spec.shards
    return {"staging": str(staging_path(writer.path)), "shards": shards, "kept": shards - len(writer.pending_shards())}


def _check_entries(store: Store) -> Iterator[Problem]:
    """Find files and other entries in the store that do not belong to it."""
    for path in store.foreign_entries():
        yield Problem(None, f"{path}: does not belong to the store, or is a link or device")


def _check_manifest(store: Store) -> Iterator[Problem]:
    """Compare the manifest with the content."""
    written = store.column("integrity/written")
    if not np.isin(written, (0, 1)).all():
        yield Problem(None, "integrity/written holds values other than 0 and 1")
    in_manifest, in_mask = store.manifest["written"], int(store.written.sum())
    if in_manifest != in_mask:
        yield Problem(None, f"{in_manifest} instances are written according to the manifest, {in_mask} to the mask")
    found = content_hash(store.spec, {path: store.column(path) for path in store.columns})
    if found != store.manifest["content_sha256"]:
        yield Problem(None, f"content hash {found}, but {store.manifest['content_sha256']!r} in the manifest")
    try:
        store.instances["file_name"]
    except StoreError as error:
        yield Problem(None, str(error))


def _check_offsets(store: Store) -> Iterator[Problem]:
    """Check the offsets of the frames, which no hash covers; they follow from the frames' sizes and the layout."""
    if not store.has_frames:
        return
    found = store.column("frames/offset")
    expected = frame_offsets(store.spec, store.layout, store.column("frames/nbytes"))
    wrong = np.flatnonzero(found != expected)
    if len(wrong):
        first = wrong[0]
        yield Problem(
            None,
            f"frames/offset is wrong for {len(wrong)} of {len(store)} instances; the first is {first}: "
            f"{found[first]}, but {expected[first]} follows from frames/nbytes",
        )


def _check_shard(store: Store, shard: int) -> Iterator[Problem]:
    """Check the records of one shard, then its digest."""
    digests = []
    is_readable = True
    for index in store.spec.shard_range(shard):
        try:
            digests.append(_read_digest(store, index))
        except StoreError as error:
            is_readable = False
            yield Problem(index, str(error), shard)
    found = hashlib.sha256(b"".join(digests)).digest()
    if is_readable and found != store.column(SHARD_DIGESTS)[shard].tobytes():
        yield Problem(None, f"shard {shard}: all records are readable, but they are not those that were written", shard)


def _read_digest(store: Store, index: int) -> bytes:
    """Read and decode a record; returns its digest."""
    if not store.written[index]:
        return UNWRITTEN_DIGEST
    views = [store.stored(index, view) for view in range(store.spec.views)]
    for view in range(store.spec.views):
        store.codec.decode(*views[view])
    stored, peak = (np.stack(parts) for parts in zip(*views, strict=True))
    return record_digest(stored, peak, store.frame(index) if store.has_frames else None)
