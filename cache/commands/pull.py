"""Bringing a store to this machine: file by file, checked, resumable, and renamed when it is whole.

    STORE.pulling/lock         one pull at a time (cache/writing/lock.py)
    STORE.pulling/pull.json    what is being fetched; another store than that is refused
    STORE.pulling/store...     its files; one that is not whole yet ends in `.part` and is continued

The same command goes on after an interruption. A folder of a mounted disk is a source like any other.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from cache.commands.verify import verify_store
from cache.errors import StoreError, StoreFormatError, StoreNotFoundError, StoreSpaceError
from cache.files.durable import json_bytes, make_folder, sync_tree, write_whole, writing
from cache.files.listing import MAX_LIST, SUFFIX, FileList, parse_file_list, sha256_of
from cache.files.local import Files, ReadableFiles
from cache.files.location import Location, Place
from cache.files.zipped import ZipFiles
from cache.format.spec import FORMAT_NAME
from cache.reading.opening import open_store
from cache.reading.store import Store
from cache.writing.lock import StagingLock, lock
from cache.writing.staging import is_unbegun
from cache.writing.target import FORMS, put_in_place

PLAN = "pull.json"
_PIECE = 1 << 23
_FILES_AT_ONCE = 8
Progress = Callable[[int], object]


class Parts(NamedTuple):
    """The files that a store is copied as."""

    files: ReadableFiles
    keys: list[str]
    listed: FileList | None  # what is known of their content


def find_split(place: Place, split: str) -> Place:
    """The store of a folder that has the name `split`."""
    for suffix in (".zarr", ".h5", ".hdf5", ".zip"):
        candidate = place / f"{split}{suffix}"
        with suppress(StoreNotFoundError):
            open_store(candidate, local_bytes=0)
            return candidate
    raise StoreNotFoundError(f"{place}: no store {split}.zarr, {split}.h5 or {split}.zip there; what is its name?")


def pull_store(
    source: str | Path | Location,
    target: str | Path,
    *,
    overwrite: bool = False,
    progress: Progress = lambda done: None,
) -> Path:
    """Copy the store at `source`, a path or URL, to `target`; returns the path.

    The suffix of `target` must fit: `.zarr` for the Zarr form (an archive is unpacked), `.h5` for HDF5, `.zip` for an
    archive. Every file is checked against the list beside the source; without a list, every record is read at the end.
    `progress` is called with the bytes that were added.

    Raises:
        StoreError: the target exists and is another store, an unfinished copy is of another store, another process is
            pulling to the same place, or the content is not what was promised.
    """
    store, target = open_store(source, local_bytes=0), Path(target)
    parts, content = parts_of(store, target.name, _list_beside(store)), store.manifest["content_sha256"]
    if target.exists() and not overwrite:
        if open_store(target).manifest["content_sha256"] == content:
            return target
        raise StoreError(f"{target} exists and is another store than {store.path}; replace it with --overwrite")
    staging = target.with_name(target.name + ".pulling")
    held = _begin(staging, store, overwrite)
    staged = staging / ("store" + target.suffix)
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        list(pool.map(lambda key: _copy(parts, key, staged / key if key else staged, progress), parts.keys))
    _check(staged, content, parts, store)
    sync_tree(staging)
    put_in_place(staged, target)
    shutil.rmtree(staging)
    del held  # until here nobody else could begin
    return target


def parts_of(store: Store, name: str, listed: FileList | None = None) -> Parts:
    """What makes up the copy `name` of a store; `StoreError` if the store has another form than the name says."""
    files, suffix = store.files, Path(name).suffix
    if suffix == ".zip" and isinstance(files, ZipFiles):
        return Parts(files.archive, [""], listed)
    if FORMS.get(suffix) != store.form:
        fitting = [end for end, form in FORMS.items() if form == store.form]
        raise StoreError(
            f"{name}: {store.path} has the {store.form} form: name its copy {' or '.join(fitting)}, and change "
            "the form with `python -m cache convert` or `pack`"
        )
    return Parts(files, store.file_keys(), None if isinstance(files, ZipFiles) else listed)


def _list_beside(store: Store) -> FileList | None:
    """The list of the store's files, if there is one of this very content."""
    beside = store.path.with_name(store.path.name + SUFFIX)
    if isinstance(beside, Location):
        from cache.files.client import Remote

        listed = parse_file_list(Remote(beside).read_optional("", MAX_LIST))
    else:
        listed = parse_file_list(beside.read_bytes()) if beside.is_file() else None
    return listed if listed and listed.content_sha256 == store.manifest["content_sha256"] else None


def _begin(staging: Path, store: Store, overwrite: bool) -> StagingLock:
    """Make the staging directory, or find it to be of the same store; while it is locked it is ours alone."""
    begun, content = _begun(staging), store.manifest["content_sha256"]
    if begun not in (None, content) and not overwrite:
        raise StoreError(f"{staging} is an unfinished pull of another store; start anew with --overwrite")
    with writing(staging.parent, 0):
        make_folder(staging)
    held = lock(staging)
    if begun not in (None, content):
        shutil.rmtree(staging)
        return _begin(staging, store, overwrite=False)
    plan = {"format": FORMAT_NAME, "pull": str(store.path), "content_sha256": content}
    write_whole(staging / PLAN, [json_bytes(plan)])
    return held


def _begun(staging: Path) -> str | None:
    """The content hash of the store whose unfinished copy lies in `staging`; None: there is none."""
    if not staging.exists() or is_unbegun(staging, PLAN):
        return None
    try:
        return str(json.loads((staging / PLAN).read_bytes())["content_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        raise StoreError(f"{staging} is in the way and no unfinished pull; move it") from None


def _copy(parts: Parts, key: str, target: Path, progress: Progress) -> None:
    """One file, whole and right; what is there already is kept, what is wrong is fetched once more."""
    entry = parts.listed.files.get(key) if parts.listed else None
    size = parts.files.size(key)
    if entry and entry.size != size:
        raise StoreFormatError(f"{parts.files.path(key)}: {size} bytes, its list says {entry.size}")
    for _ in range(2):
        if not target.is_file():
            _fetch(parts.files, key, size, target, progress)
        if target.stat().st_size == size and (entry is None or sha256_of(Files(target), "") == entry.sha256):
            return
        target.unlink()
    raise StoreFormatError(f"{parts.files.path(key)}: came twice unlike its list says; it is damaged there")


def _fetch(files: ReadableFiles, key: str, size: int, target: Path, progress: Progress) -> None:
    """Append to what is there of a file until it is whole."""
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as out:
            if out.tell() > size:
                out.truncate(0)
            while (done := out.seek(0, os.SEEK_END)) < size:
                out.write(files.read(key, done, min(_PIECE, size - done)))
                progress(out.tell() - done)
        part.replace(target)
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreSpaceError(
                f"{target.parent}: no space left for {size:,} bytes; make room and run the same command again, "
                "nothing that came is lost"
            ) from error
        if error.errno == errno.EFBIG:
            raise StoreError(f"{target}: this file system takes no file of {size:,} bytes (FAT32: 4 GiB)") from error
        raise StoreError(f"{target}: cannot be written: {error.strerror or error}") from error


def _check(staged: Path, content: str, parts: Parts, source: Store) -> None:
    """The copy is the store that was promised; what is wrong is removed, so that the same command fetches it again."""
    if parts.listed is None:
        problems = verify_store(staged)
        if problems:
            bad = {problem.instance for problem in problems}
            _remove_wrong(staged, None if None in bad else {i for i in bad if i is not None}, source)
            raise StoreFormatError(
                f"{source.path}: the copy is not sound: {problems[0].what}; run the same command to fetch that part "
                "again; if it stays, the store is damaged there"
            )
    found = open_store(staged).manifest["content_sha256"]
    if found != content:
        shutil.rmtree(staged.parent)
        raise StoreError(f"{source.path}: replaced by another store while it was copied; run the same command again")


def _remove_wrong(staged: Path, instances: set[int] | None, source: Store) -> None:
    """Delete the files that hold these instances; None, or a store of one file: everything."""
    if instances is None or not staged.is_dir():
        shutil.rmtree(staged) if staged.is_dir() else staged.unlink(missing_ok=True)
        return
    from cache.layouts.zarr_reader import codes_key, frames_key

    for shard in {int(shard) for shard in source.shard_of(sorted(instances))}:
        for key in (codes_key(shard), frames_key(shard)):
            (staged / key).unlink(missing_ok=True)
