"""Copy a store from a folder or URL, and check the copy. The copy appears under its name only when complete.

    python -m cache pull s3://team/coco/train.zarr train.zarr
    python -m cache pull https://host/coco stores --split val   # finds val.zarr, val.h5 or val.zip
    python -m cache pull https://host/coco/train.zarr part.zarr --limit 5000    # the first 5000 instances only

After an interruption, run the same command again: it continues. A store can also be used without a copy, because
commands that read a store accept its URL. docs/sharing.md compares both.
"""

import argparse
import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from cache.commands.arguments import STORE, add_overwrite
from cache.commands.subset import pull_part
from cache.commands.verify import verify_store
from cache.errors import StoreError, StoreFormatError, StoreNotFoundError, StoreSpaceError
from cache.files.durable import disk_errors, json_bytes, make_folder, sync_tree, write_atomically
from cache.files.listing import MAX_LIST, SUFFIX, FileList, parse_file_list, sha256_of
from cache.files.local import Files, ReadableFiles
from cache.files.location import Location, Place, local_target, locate, redact
from cache.files.zipped import ZipFiles
from cache.format.spec import FORMAT_NAME
from cache.reading.opening import open_store
from cache.reading.store import Store
from cache.writing.lock import StagingLock, lock
from cache.writing.staging import has_no_plan, target_of
from cache.writing.target import LAYOUTS, move_into_place, refuse_foreign
from kdcli import system
from kdcli.progress import Advance, no_advance, show_count

PLAN = "pull.json"  # in the staging directory: which store is being copied
_PIECE = 1 << 23  # bytes fetched at a time
_FILES_AT_ONCE = 8
AnyPlace = TypeVar("AnyPlace", Path, Location, Place)


class Parts(NamedTuple):
    """The files that a store is copied as."""

    files: ReadableFiles
    keys: list[str]
    listed: FileList | None  # their sizes and digests, if known


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("src", metavar="URL", help=f"{STORE}; with --split, the folder that holds it")
    parser.add_argument(
        "dst", metavar="STORE", help="the path of the copy, or a folder, in which the copy gets the source's name"
    )
    parser.add_argument("--split", metavar="NAME", help="URL is a folder of stores: copy NAME.zarr, .h5 or .zip")
    parser.add_argument("--limit", metavar="N", type=int, help="copy the first N instances only, as a smaller store")
    add_overwrite(parser, "STORE")


def run(options: argparse.Namespace) -> int:
    """Copy the store or its first instances, and print the path of the copy; returns 0."""
    folder = local_target(options.dst, f"python -m cache pull {redact(options.src)}")
    source = locate(options.src)
    if options.split:
        source = find_split(source, options.split)
    target = place_in(folder, source.name)
    if options.limit is None:
        with show_count("pull", "MB") as advance:
            path = pull_store(source, target, overwrite=options.overwrite, advance=advance)
    else:
        with show_count("pull", "instances") as advance:
            path = pull_part(source, target, options.limit, overwrite=options.overwrite, advance=advance)
    print(path)
    return 0


def place_in(place: AnyPlace, name: str) -> AnyPlace:
    """`place` itself if it is named like a store or an archive; otherwise the store `name` in that folder."""
    return place if place.suffix in (*LAYOUTS, ".zip") else place / name


def find_split(place: Place, split: str) -> Place:
    """The store named `split` in the folder `place`; `StoreNotFoundError` if there is none."""
    for suffix in (".zarr", ".h5", ".hdf5", ".zip"):
        candidate = place / f"{split}{suffix}"
        with suppress(StoreNotFoundError):
            open_store(candidate, local_bytes=0)
            return candidate
    raise StoreNotFoundError(f"{place}: no store {split}.zarr, {split}.h5 or {split}.zip; check the name")


def pull_store(
    source: str | Path | Location, target: str | Path, *, overwrite: bool = False, advance: Advance = no_advance
) -> Path:
    """Copy the store at `source`, a path or URL, to `target`; returns the path.

    The suffix of `target` must fit the source: `.zarr` for the Zarr layout (an archive is unpacked), `.h5` for HDF5,
    `.zip` for an archive. Every file is checked against the list beside the source; without a list, every record is
    read at the end. The copy is written to the folder `target.pulling`, and is renamed when it is complete:

        lock          held by the current pull (cache/writing/lock.py)
        pull.json     which store is copied; a pull of another store is refused
        store...      its files; an incomplete one ends in `.part`, and is continued

    `advance` is called with the number of bytes that were added since its last call.

    Raises:
        StoreError: The target exists and is another store, the folder holds an unfinished copy of another store or is
            used by another process, or the content is not that of the source.
    """
    target = local_target(target, f"python -m cache pull {redact(source)}")
    store = open_store(source, local_bytes=0)
    parts, content = parts_of(store, target.name, _list_beside(store)), store.manifest["content_sha256"]
    if target.exists() and not overwrite:
        if open_store(target).manifest["content_sha256"] == content:
            return target
        raise StoreError(f"{target} exists and is another store than {store.path}; replace it with --overwrite")
    if target.is_dir():
        refuse_foreign(target)
    place = target_of(target)
    staging = place.with_name(place.name + ".pulling")
    held = _begin(staging, store, overwrite)
    staged = staging / ("store" + target.suffix)
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        list(pool.map(lambda key: _copy(parts, key, staged / key if key else staged, advance), parts.keys))
    _check(staged, content, parts, store, held)
    sync_tree(staging)
    move_into_place(staged, target)
    held.remove(staging)
    return target


def parts_of(store: Store, name: str, listed: FileList | None = None) -> Parts:
    """The files that make up a copy called `name`; `StoreError` if the name does not fit the store's layout."""
    files, suffix = store.files, Path(name).suffix
    if suffix == ".zip" and isinstance(files, ZipFiles):
        return Parts(files.archive, [""], listed)
    if LAYOUTS.get(suffix) != store.layout:
        fitting = [end for end, layout in LAYOUTS.items() if layout == store.layout]
        raise StoreError(
            f"{name}: {store.path} has the {store.layout} layout: name its copy {' or '.join(fitting)}, and change "
            "the layout with `python -m cache convert` or `pack`"
        )
    return Parts(files, store.file_keys(), None if isinstance(files, ZipFiles) else listed)


def _list_beside(store: Store) -> FileList | None:
    """The list of the store's files, if there is one for its present content."""
    beside = store.path.with_name(store.path.name + SUFFIX)
    if isinstance(beside, Location):
        from cache.files.client import Remote

        listed = parse_file_list(Remote(beside).read_optional("", MAX_LIST))
    else:
        listed = parse_file_list(beside.read_bytes()) if beside.is_file() else None
    return listed if listed and listed.content_sha256 == store.manifest["content_sha256"] else None


def _begin(staging: Path, store: Store, overwrite: bool) -> StagingLock:
    """Make the staging directory, or check that it is of the same store, and lock it."""
    begun, content = _begun(staging), store.manifest["content_sha256"]
    if begun not in (None, content) and not overwrite:
        raise StoreError(f"{staging} is an unfinished pull of another store; start again with --overwrite")
    with disk_errors(staging.parent, 0):
        make_folder(staging)
    held = lock(staging)
    if begun not in (None, content):
        held.remove(staging)
        return _begin(staging, store, overwrite=False)
    plan = {"format": FORMAT_NAME, "pull": str(store.path), "content_sha256": content}
    write_atomically(staging / PLAN, [json_bytes(plan)])
    return held


def _begun(staging: Path) -> str | None:
    """The content hash of the store whose unfinished copy is in `staging`; None if there is no copy."""
    if not staging.exists() or has_no_plan(staging, PLAN):
        return None
    try:
        return str(json.loads((staging / PLAN).read_bytes())["content_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        raise StoreError(f"{staging} exists and is not an unfinished pull; move it away") from None


def _copy(parts: Parts, key: str, target: Path, advance: Advance) -> None:
    """Copy one file and check it; an existing copy is kept, and a wrong one is fetched once more."""
    entry = parts.listed.files.get(key) if parts.listed else None
    size = parts.files.size(key)
    if entry and entry.size != size:
        raise StoreFormatError(f"{parts.files.path(key)}: {size} bytes, but {entry.size} in the list beside the store")
    for _ in range(2):
        if not target.is_file():
            _fetch(parts.files, key, size, target, advance)
        if target.stat().st_size == size and (entry is None or sha256_of(Files(target), "") == entry.sha256):
            return
        target.unlink()
    raise StoreFormatError(
        f"{parts.files.path(key)}: fetched twice, and does not match the list beside the store; the source is damaged"
    )


def _fetch(files: ReadableFiles, key: str, size: int, target: Path, advance: Advance) -> None:
    """Append to the part of a file that was fetched before, until the file is complete."""
    part = target.with_name(target.name + ".part")  # a fixed name, unlike a temporary file's: the next run continues it
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as out:
            if out.tell() > size:
                out.truncate(0)
            while (done := out.seek(0, os.SEEK_END)) < size:
                out.write(files.read(key, done, min(_PIECE, size - done)))
                advance(out.tell() - done)
        system.replace(part, target)
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreSpaceError(
                f"{target.parent}: no space left for {size:,} bytes; make room and run the same command again, "
                "everything that was fetched is kept"
            ) from error
        if error.errno == errno.EFBIG:
            raise StoreError(f"{target}: this file system has no files of {size:,} bytes (FAT32: 4 GiB)") from error
        raise StoreError(f"{target}: cannot be written: {error.strerror or error}") from error


def _check(staged: Path, content: str, parts: Parts, source: Store, held: StagingLock) -> None:
    """Check that the copy equals the source; delete damaged files, so that the same command fetches them again."""
    if parts.listed is None:
        problems = verify_store(staged)
        if problems:
            bad = {problem.instance for problem in problems}
            _remove_wrong(staged, None if None in bad else {i for i in bad if i is not None}, source)
            raise StoreFormatError(
                f"{source.path}: the copy is damaged: {problems[0].message}; run the same command to fetch that part "
                "again; if the error remains, the source is damaged"
            )
    found = open_store(staged).manifest["content_sha256"]
    if found != content:
        held.remove(staged.parent)
        raise StoreError(f"{source.path}: replaced by another store during the copy; run the same command again")


def _remove_wrong(staged: Path, instances: set[int] | None, source: Store) -> None:
    """Delete the files that hold these instances, or all files if `instances` is None or the store is one file."""
    if instances is None or not staged.is_dir():
        system.remove_tree(staged) if staged.is_dir() else staged.unlink(missing_ok=True)
        return
    from cache.layouts.zarr_reader import codes_key, frames_key

    for shard in {int(shard) for shard in source.shard_of(sorted(instances))}:
        for key in (codes_key(shard), frames_key(shard)):
            (staged / key).unlink(missing_ok=True)
