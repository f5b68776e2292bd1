"""Finding out what lies at a path or URL, and opening it if it is a store."""

from pathlib import Path

from cache.errors import StoreError, StoreFormatError, StoreNotFoundError
from cache.files.block_cache import BlockFolder, default_bytes, default_folder
from cache.files.local import Files, ReadableFiles
from cache.files.location import Location, locate
from cache.files.zipped import SIGNATURE as ZIP_SIGNATURE
from cache.files.zipped import ZipFiles
from cache.format.spec import PLAN
from cache.layouts.base import MAX_DOCUMENT, Layout
from cache.reading.store import Store

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
ONE_FILE = (".h5", ".hdf5", ".zip")
ROOT = "zarr.json"  # the document that makes a directory a store


def open_store(
    path: str | Path | Location,
    allow_incomplete: bool = False,
    *,
    local: str | Path | None = None,
    local_bytes: int | None = None,
) -> Store:
    """Open the store at `path`: a Zarr directory, an HDF5 file, an archive of `cache pack`, or the URL of one.

    Args:
        path: a path, or a `file://`, `http(s)://`, `s3://` or `hf://` URL.
        allow_incomplete: open a staging directory too.
        local: the folder that keeps what was fetched from a URL; $POSE_TEACHER_CACHE_DIR or the user's cache folder.
        local_bytes: how much it may keep, 0 for nothing; $POSE_TEACHER_CACHE_BYTES or 32 GiB.

    Raises:
        StoreNotFoundError: nothing is there.
        StoreFormatError: it is not a store, is of a newer version, or is damaged.
        StoreError: it is not complete, and `allow_incomplete` is false; or its server does not answer.
    """
    place = locate(path)
    if isinstance(place, Location):
        limit = default_bytes() if local_bytes is None else local_bytes
        store = Store(_remote_layout(place, BlockFolder(Path(local) if local else default_folder(), limit)))
    else:
        store = Store(find_layout(_staged(place.absolute(), allow_incomplete)))  # survives a change of directory
    if not (store.complete or allow_incomplete):
        raise StoreError(f"{place}: the manifest says that it is not complete; run the same command with --resume")
    return store


def _staged(root: Path, allow_incomplete: bool) -> Path:
    """The store itself, which a staging directory holds once it has been assembled."""
    if not (root / PLAN).is_file():
        return root
    if not allow_incomplete:
        raise StoreError(f"{root}: not finished; run the same command again with --resume")
    for candidate in (root / "store" / ROOT, root / "store.h5"):
        if candidate.is_file():
            return candidate.parent if candidate.name == ROOT else candidate
    raise StoreError(f"{root}: some shards are still to be written; run the same command again with --resume")


def find_layout(root: Path) -> Layout:
    """How the store at `root` is laid out, told by what is there; nothing of it has been checked."""
    if (root / ROOT).is_file():
        from cache.layouts.zarr_reader import ZarrLayout

        return ZarrLayout(Files(root))
    if root.is_dir():
        raise StoreFormatError(f"{root}: a directory without zarr.json; not a store")
    if not root.exists():
        raise StoreNotFoundError(f"{root}: no such store")
    return _one_file(Files(root))


def _remote_layout(root: Location, blocks: BlockFolder) -> Layout:
    """How the store at a URL is laid out; its list of files is used if it is the list of what is there now."""
    from cache.files.client import Remote
    from cache.files.listing import MAX_LIST, SUFFIX, parse_file_list, sha256_of_bytes
    from cache.files.remote import RemoteFiles
    from cache.layouts.zarr_reader import ZarrLayout

    remote = Remote(root)
    listed = parse_file_list(Remote(root.with_name(root.name + SUFFIX)).read_optional("", MAX_LIST))
    document = None if root.suffix in ONE_FILE else remote.read_whole(ROOT, MAX_DOCUMENT)
    if document is not None:
        entry = listed.files.get(ROOT) if listed else None
        fits = entry is not None and entry.sha256 == sha256_of_bytes(document)
        files = RemoteFiles(remote, blocks, listed if fits else None)
        files.prefetch(key for key in (listed.files if listed and fits else ()) if key.endswith("zarr.json"))
        return ZarrLayout(files)
    if remote.stat("") is None:
        raise StoreNotFoundError(f"{root}: no such store; is it a URL of a store, and was its upload finished?")
    return _one_file(RemoteFiles(remote, blocks))


def _one_file(files: ReadableFiles) -> Layout:
    """The layout of a store that is one file, told by its first bytes."""
    beginning = files.read("", 0, min(len(HDF5_SIGNATURE), files.size("")))
    if beginning.startswith(ZIP_SIGNATURE):
        from cache.layouts.zarr_reader import ZarrLayout

        return ZarrLayout(ZipFiles(files))
    if beginning != HDF5_SIGNATURE:
        raise StoreFormatError(f"{files.root}: neither a Zarr directory nor an HDF5 file nor an archive of a store")
    from cache.layouts.hdf5_reader import Hdf5Layout  # h5py takes a quarter of a second to import

    return Hdf5Layout(files)
