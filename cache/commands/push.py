"""Bringing a store to where others find it: its list first, its files, and what makes it a store at the very end.

Interrupted, the same command goes on: the list says whose files are there. A folder gets a copy that is renamed when
it is whole; the Hugging Face Hub gets one commit.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cache.commands.pull import Parts, parts_of, pull_store
from cache.errors import StoreError
from cache.files.client import Remote
from cache.files.durable import write_whole
from cache.files.listing import MAX_LIST, SUFFIX, FileList, list_files, parse_file_list
from cache.files.location import Location, Place, locate
from cache.reading.opening import ROOT, open_store
from cache.writing.target import FORMS

_FILES_AT_ONCE = 8
Progress = Callable[[int], object]


def push_store(
    source: str | Path,
    target: str | Path | Location,
    *,
    overwrite: bool = False,
    progress: Progress = lambda done: None,
) -> Place:
    """Copy the store at the path `source` to `target`: a path, or an `s3://` or `hf://` URL; returns where it is.

    A target that is a folder gets a store of the source's name. `progress` is called with the bytes that are done.

    Raises:
        StoreError: another store, finished or not, is there, and `overwrite` is false; not a place to write to.
    """
    store = open_store(source)
    if isinstance(store.path, Location):
        raise StoreError(f"{store.path}: pull the store first; push copies one of this machine")
    place = _store_at(locate(target), store.path.name)
    parts = parts_of(store, place.name)
    if isinstance(place, Location) and place.scheme not in ("s3", "hf"):
        raise StoreError(f"{place}: nothing can be pushed over {place.scheme}; copy the store into the server's folder")
    listed = list_files(parts.files, parts.keys, store.manifest["content_sha256"], progress)
    parts = parts._replace(listed=listed)
    if isinstance(place, Path):
        pull_store(store.path, place, overwrite=overwrite)
        write_whole(place.with_name(place.name + SUFFIX), [listed.to_bytes()])
    elif place.scheme == "hf":
        _commit(place, parts, overwrite)
    else:
        _upload(place, parts, overwrite)
    if open_store(place, local_bytes=0).manifest["content_sha256"] != listed.content_sha256:
        raise StoreError(f"{place}: it is not the store that was pushed; does somebody else write there?")
    return place


def _store_at(place: Place, name: str) -> Place:
    """`place` itself if its name is a store's, else the store `name` in that folder."""
    return place if place.suffix in (*FORMS, ".zip") else place / name


def _upload(place: Location, parts: Parts, overwrite: bool) -> None:
    """File by file; what makes it a store comes last, and leaves first where an old store has to."""
    remote, beside = Remote(place), Remote(place.with_name(place.name + SUFFIX))
    root = ROOT if ROOT in parts.keys else ""
    theirs = parse_file_list(beside.read_whole("", MAX_LIST))
    if theirs != parts.listed:
        _make_way(remote, theirs, root, overwrite)
        beside.put("", _listed(parts).to_bytes())
    files, there = _listed(parts).files, remote.listing()

    def upload(key: str) -> None:
        if there.get(key) != files[key].size:
            remote.put(key, _path(parts, key))

    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        list(pool.map(upload, (key for key in parts.keys if key != root)))
    upload(root)


def _make_way(remote: Remote, theirs: FileList | None, root: str, overwrite: bool) -> None:
    """Refuse to touch another store, or remove its files, the one that makes it a store first."""
    there = remote.listing()
    present = root in there
    if not (present or theirs):
        return
    if not overwrite:
        state = "another store" if present else "an unfinished push of another store"
        raise StoreError(f"{remote.root}: {state} is there; replace it with --overwrite")
    old = theirs.files if theirs else open_store(remote.root, local_bytes=0).file_keys()
    gone = there.keys() & set(old)
    if present:
        remote.delete(root)
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        list(pool.map(remote.delete, gone - {root}))


def _commit(place: Location, parts: Parts, overwrite: bool) -> None:
    """One commit to a repository of the Hub: whole or not at all; what was uploaded before is not sent again."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    remote, beside = Remote(place), Remote(place.with_name(place.name + SUFFIX))
    theirs = parse_file_list(beside.read_whole("", MAX_LIST))
    if theirs == parts.listed:
        return
    if (theirs or remote.stat(ROOT if ROOT in parts.keys else "")) and not overwrite:
        raise StoreError(f"{place}: another store is there; replace it with --overwrite")
    folder = remote.filesystem().resolve_path(place.secret_url)

    def at(key: str) -> str:
        return f"{folder.path_in_repo}/{key}" if key else folder.path_in_repo

    operations: list[Any] = [CommitOperationAdd(at(key), str(_path(parts, key))) for key in parts.keys]
    operations.append(CommitOperationAdd(folder.path_in_repo + SUFFIX, _listed(parts).to_bytes()))
    gone = set(theirs.files if theirs else ()) - set(parts.keys)
    operations += [CommitOperationDelete(at(key)) for key in sorted(gone)]
    remote.commit(folder, operations, f"Store {place.name}")


def _listed(parts: Parts) -> FileList:
    assert parts.listed is not None  # noqa: S101 - `push_store` made it
    return parts.listed


def _path(parts: Parts, key: str) -> Path:
    path = parts.files.path(key)
    assert isinstance(path, Path)  # noqa: S101 - `push_store` refused the others
    return path
