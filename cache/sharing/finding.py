"""Finding the stores below a folder, a bucket, a repository of the Hugging Face Hub, or a web folder.

A store is recognised without being read: a directory with `zarr.json`, or a file that ends in `.h5`, `.hdf5` or `.zip`.
The search does not look inside stores. Of each store, only the manifest is then read, of several stores at the same
time. What cannot be used (an unfinished or damaged store, a broken link) is reported with the reason.
"""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from cache.errors import StoreError, StoreNotFoundError
from cache.files.client import Remote
from cache.files.listing import MAX_LIST, SUFFIX, parse_file_list
from cache.files.location import Location, Place, locate
from cache.files.zipped import ZipFiles
from cache.format.manifest import check_manifest
from cache.format.spec import PLAN, StoreSpec, spec_from_json
from cache.layouts.base import Layout
from cache.reading.opening import ONE_FILE, ROOT, find_layout, find_listed_layout
from cache.writing import staging

SUFFIXES: Final = (".zarr", *ONE_FILE)
"""Endings of the names of stores."""
PULLING: Final = ".pulling"
"""Ending of the folder in which `pull` works."""
_READ_AT_ONCE = 16
_WEB_DEPTH = 4  # folders below the given one that are searched on a web server: one request per folder


class FoundStore(NamedTuple):
    """What is at one place. Facts that are not known are None."""

    name: str
    """Relative to the place that was searched."""
    place: Place
    layout: str | None = None
    nbytes: int | None = None
    manifest: Mapping[str, Any] | None = None
    """The checked manifest; of an unfinished store, the `spec` and `provenance` of its plan."""
    problem: str | None = None
    """Why it cannot be used."""

    @property
    def complete(self) -> bool:
        """Whether the store can be used."""
        return self.problem is None

    def to_json(self) -> dict[str, Any]:
        """What ``cache list --json`` prints."""
        manifest = self.manifest or {}
        return {
            "name": self.name,
            "path": str(self.place),
            "layout": self.layout,
            "instances": manifest["spec"]["instances"] if self.manifest else None,
            "teacher": teacher_name(manifest),
            "bytes": self.nbytes,
            "content_sha256": manifest.get("content_sha256"),
            "complete": self.complete,
            "problem": self.problem,
        }


def teacher_name(manifest: Mapping[str, Any]) -> str | None:
    """The teacher's name as the manifest states it; None if it does not."""
    provenance = manifest.get("provenance")
    teacher = provenance.get("teacher") if isinstance(provenance, Mapping) else None
    name = teacher.get("name") if isinstance(teacher, Mapping) else None
    return name if isinstance(name, str) else None


def find_stores(place: str | Path | Location) -> list[FoundStore]:
    """Find the stores at and below a path or URL, sorted by name.

    Raises:
        StoreNotFoundError: There is no such folder, bucket or repository.
        StoreError: The place cannot be listed.
    """
    place = locate(place)
    if isinstance(place, Path):
        found = list(_in_folder(place))
    elif place.scheme in ("http", "https"):
        found = list(_on_web_server(place))
    else:
        found = list(_in_object_store(place))
    with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
        return sorted(pool.map(_read, found), key=lambda store: store.name)


def _read(store: FoundStore) -> FoundStore:
    """Read the manifest, unless it is known already that the store cannot be used."""
    if store.problem or store.manifest:
        return store
    try:
        layout = _layout(store)
        manifest = layout.manifest()
        check_manifest(manifest, str(store.place))
        nbytes = _size(store, layout) if store.nbytes is None else store.nbytes
    except StoreError as error:
        return store._replace(problem=str(error).removeprefix(f"{store.place}: ").removeprefix(f"{store.place}/"))
    problem = None if manifest["complete"] is True else "not complete"
    return store._replace(layout=layout.name, nbytes=nbytes, manifest=manifest, problem=problem)


def _layout(store: FoundStore) -> Layout:
    if isinstance(store.place, Path):
        return find_layout(store.place)
    return find_listed_layout(store.place, is_directory=store.place.suffix not in ONE_FILE)


def _size(store: FoundStore, layout: Layout) -> int | None:
    """The size in bytes of a store on a web server, from the list beside it or from the server; None if unknown."""
    if isinstance(layout.files, ZipFiles):
        return layout.files.archive.size("")
    if layout.name == "hdf5":
        return layout.files.size("")
    beside = store.place.with_name(store.place.name + SUFFIX)
    listed = parse_file_list(Remote(beside).read_optional("", MAX_LIST)) if isinstance(beside, Location) else None
    return sum(entry.size for entry in listed.files.values()) if listed else None


def _in_folder(root: Path) -> Iterator[FoundStore]:
    """The stores at and below a path. Links are followed to stores, but not to other folders."""
    if not os.path.lexists(root):
        raise StoreNotFoundError(f"{root}: no such folder or store")
    found = _at_path(root, root.name or str(root))
    if found is not None:
        yield found
        return
    if not root.is_dir():
        raise StoreError(f"{root}: neither a folder nor a store")
    pending = [root]
    while pending:
        folder = pending.pop()
        name = folder.relative_to(root).as_posix()
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            yield FoundStore(name, folder, problem=f"cannot be listed: {error.strerror}")
            continue
        for entry in entries:
            found = _at_path(entry, entry.relative_to(root).as_posix())
            if found is not None:
                yield found
            elif entry.is_dir():
                pending.append(entry)


def _at_path(path: Path, name: str) -> FoundStore | None:
    """The store, or the remains of one, at a path; None for other files and for folders to be searched."""
    store = FoundStore(name, path)
    try:
        if path.is_symlink() and not path.exists():
            target = os.readlink(path)
            return store._replace(problem=f"a broken link to {target}") if path.suffix in SUFFIXES else None
        if path.is_dir():
            return _directory(store, path)
        return store._replace(nbytes=path.stat().st_size) if path.suffix in ONE_FILE and path.is_file() else None
    except OSError as error:
        return store._replace(problem=f"cannot be read: {error.strerror}")


def _directory(store: FoundStore, path: Path) -> FoundStore | None:
    if (path / ROOT).is_file():
        return store._replace(nbytes=_bytes_below(path))
    if (path / PLAN).is_file():
        return _staged(store, path)
    if path.suffix == PULLING:
        return store._replace(nbytes=_bytes_below(path), problem="an unfinished pull; repeat the command to continue")
    if path.suffix == ".zarr":
        return store._replace(nbytes=_bytes_below(path), problem="a directory without zarr.json; not a store")
    return store._replace(problem="a link to a folder; not searched, list it itself") if path.is_symlink() else None


def _staged(store: FoundStore, path: Path) -> FoundStore:
    """An unfinished store in its staging directory."""
    try:
        plan = staging.read_plan(path)
        spec: StoreSpec = spec_from_json(plan["spec"])
    except (StoreError, KeyError) as error:
        return store._replace(problem=f"a damaged staging directory: {error}")
    done = sum(staging.has_receipt(path, shard) for shard in range(spec.shards))
    problem = f"unfinished: {done} of {spec.shards} shards are written"
    about = {"spec": plan["spec"], "provenance": plan.get("provenance")}
    return store._replace(layout=plan.get("form"), nbytes=_bytes_below(path), manifest=about, problem=problem)


def _bytes_below(folder: Path) -> int:
    return sum(os.lstat(os.path.join(at, name)).st_size for at, _, names in os.walk(folder) for name in names)


def _in_object_store(root: Location) -> Iterator[FoundStore]:
    """The stores at and below the URL of a bucket or a repository, from one listing of all keys."""
    try:
        sizes = Remote(root).listing()
    except StoreNotFoundError as error:
        raise StoreNotFoundError(f"{root}: no such bucket, repository or folder") from error
    for key, nbytes in group_keys(sizes).items():
        name = key or root.name
        is_whole = key in sizes or f"{key}/{ROOT}".lstrip("/") in sizes
        problem = None if is_whole else "an unfinished push; repeat the command to continue"
        yield FoundStore(name, root / key, nbytes=nbytes, problem=problem)


def group_keys(sizes: Mapping[str, int]) -> dict[str, int]:
    """Group the keys of a bucket by the store that they belong to.

    Args:
        sizes: Key -> size in bytes of every file; the key of a file at the root itself is empty.

    Returns:
        Key of each store (empty for the root itself) -> the size of its files in bytes. A store of which only the list
        of files was uploaded is included.
    """
    folders = {key.removesuffix(ROOT).rstrip("/") for key in sizes if PurePosixPath(key).name == ROOT}
    folders |= {key.removesuffix(SUFFIX) for key in sizes if key.endswith(SUFFIX) and PurePosixPath(key).name != SUFFIX}
    stores: dict[str, int] = {}
    for key, size in sizes.items():
        parents = [str(parent) for parent in reversed(PurePosixPath(key).parents)]  # the outermost first
        owner = next((parent for parent in parents if ("" if parent == "." else parent) in folders), None)
        if owner is not None:
            owner = "" if owner == "." else owner
            stores[owner] = stores.get(owner, 0) + size
        elif key.endswith(ONE_FILE) or key == "":
            stores[key] = size
    return {**dict.fromkeys((folder for folder in folders if not _is_inside(folder, stores)), 0), **stores}


def _is_inside(key: str, stores: Mapping[str, int]) -> bool:
    return any(("" if str(parent) == "." else str(parent)) in stores for parent in PurePosixPath(key).parents)


def _on_web_server(root: Location) -> Iterator[FoundStore]:
    """The stores at and below the URL of a web folder, from the links on the server's pages."""
    if root.suffix in SUFFIXES:
        yield FoundStore(root.name, root)
        return
    pending = [(root / name, is_folder, 1) for name, is_folder in _links_of_root(root)]
    while pending:
        place, is_folder, depth = pending.pop()
        store = FoundStore(_name_below(root, place), place)
        if place.suffix in SUFFIXES:
            yield store
        elif is_folder and depth > _WEB_DEPTH:
            yield store._replace(problem=f"below {_WEB_DEPTH} folders, not searched; list it itself")
        elif is_folder:
            try:
                pending += [(place / name, is_folder, depth + 1) for name, is_folder in _links(place)]
            except StoreError as error:
                yield store._replace(problem=str(error).removeprefix(f"{place}: "))


def _links_of_root(root: Location) -> list[tuple[str, bool]]:
    """As `_links`; raises `StoreError` if the server does not list the folder."""
    remedy = f"give the URL of a store itself, e.g. {root}/train.zarr"
    try:
        found = _links(root)
    except StoreNotFoundError:
        found = []
    except StoreError as error:
        raise StoreError(f"{error}; if the server does not list its files, {remedy}") from error
    if not found:
        raise StoreError(f"{root}: this web server does not list its files; {remedy}")
    return found


def _links(folder: Location) -> list[tuple[str, bool]]:
    """(name, whether it is a folder) of what the page of a web folder links to in that folder, each once."""
    url = folder.secret_url.partition("?")[0] + "/"
    below = {link.removeprefix(url) for link in Remote(folder).links() if link.startswith(url)}
    names = {name.rstrip("/"): name.endswith("/") for name in sorted(below)}
    return [(name, is_folder) for name, is_folder in names.items() if name and not set(name) & set("/?#")]


def _name_below(root: Location, place: Location) -> str:
    start, url = (location.secret_url.partition("?")[0] for location in (root, place))
    return unquote(url.removeprefix(start + "/"))
