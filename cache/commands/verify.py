"""Is a store what it says? Every record is read and checked, every hash is computed again."""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cache.errors import StoreError, StoreNotFoundError
from cache.files.location import locate
from cache.format.columns import frame_offsets
from cache.format.integrity import UNWRITTEN_DIGEST, content_hash, record_digest
from cache.format.spec import SHARD_DIGESTS
from cache.reading.opening import open_store
from cache.reading.store import Store


class Problem(NamedTuple):
    """One thing that is wrong."""

    instance: int | None  # None: not of one record
    what: str
    shard: int | None = None  # the shard that has to be made again


def verify_store(path: str | Path, progress: Callable[[int], object] = lambda done: None) -> list[Problem]:
    """Everything that is wrong with the store at `path`; empty: nothing.

    `progress` is called with the number of instances that were checked since its last call.

    Raises:
        StoreNotFoundError: there is nothing at this path of this machine.
    """
    place = locate(path)
    if isinstance(place, Path) and not place.exists():
        raise StoreNotFoundError(f"{place}: no such store")
    try:
        store = open_store(place)
    except StoreError as error:
        return [Problem(None, str(error))]
    problems: list[Problem] = []
    for check in (_strangers, _manifest, _places):
        try:
            problems += check(store)
        except StoreError as error:
            problems.append(Problem(None, str(error)))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for shard, found in enumerate(pool.map(lambda shard: list(_shard(store, shard)), range(store.spec.shards))):
            problems += found
            progress(len(store.spec.shard_range(shard)))
    return problems


def _strangers(store: Store) -> Iterator[Problem]:
    """What lies in the store and is no part of it."""
    for path in store.strangers():
        yield Problem(None, f"{path}: no part of the store, or a link or device")


def _manifest(store: Store) -> Iterator[Problem]:
    """Manifest against content."""
    written = store.column("integrity/written")
    if not np.isin(written, (0, 1)).all():
        yield Problem(None, "integrity/written holds values other than 0 and 1")
    if store.manifest["written"] != int(store.written.sum()):
        yield Problem(None, f"the manifest says {store.manifest['written']} written, the mask {store.written.sum()}")
    found = content_hash(store.spec, {path: store.column(path) for path in store.columns})
    if found != store.manifest["content_sha256"]:
        yield Problem(None, f"content hash {found}, the manifest says {store.manifest['content_sha256']!r}")
    try:
        store.instances["file_name"]
    except StoreError as error:
        yield Problem(None, str(error))


def _places(store: Store) -> Iterator[Problem]:
    """The offsets of the frames, which no hash covers: they follow from the sizes, in one way in each form."""
    if not store.has_frames:
        return
    found = store.column("frames/offset")
    expected = frame_offsets(store.spec, store.form, store.column("frames/nbytes"))
    wrong = np.flatnonzero(found != expected)
    if len(wrong):
        first = wrong[0]
        yield Problem(
            None,
            f"frames/offset is wrong for {len(wrong)} of {len(store)} instances; the first is {first}: it says "
            f"{found[first]}, by frames/nbytes the place is {expected[first]}",
        )


def _shard(store: Store, shard: int) -> Iterator[Problem]:
    """The records of one shard, then its digest."""
    digests = []
    sound = True
    for index in store.spec.shard_range(shard):
        try:
            digests.append(_record(store, index))
        except StoreError as error:
            sound = False
            yield Problem(index, str(error), shard)
    found = hashlib.sha256(b"".join(digests)).digest()
    if sound and found != store.column(SHARD_DIGESTS)[shard].tobytes():
        yield Problem(None, f"shard {shard}: the records are sound, but are not those that were written", shard)


def _record(store: Store, index: int) -> bytes:
    """The digest of a record; raises `StoreError` if it cannot be read."""
    if not store.written[index]:
        return UNWRITTEN_DIGEST
    views = [store.stored(index, view) for view in range(store.spec.views)]
    for view in range(store.spec.views):
        store.codec.decode(*views[view])
    stored, peak = (np.stack(parts) for parts in zip(*views, strict=True))
    return record_digest(stored, peak, store.frame(index) if store.has_frames else None)


def bad_shards(problems: list[Problem]) -> list[int]:
    """The shards that have to be made again."""
    return sorted({problem.shard for problem in problems if problem.shard is not None})


def report(problems: list[Problem]) -> dict[str, Any]:
    """The result as `--json` prints it."""
    bad = sorted({problem.instance for problem in problems if problem.instance is not None})
    return {
        "ok": not problems,
        "bad_instances": bad,
        "bad_shards": bad_shards(problems),
        "problems": [problem.what for problem in problems],
    }
