"""Opening a store: `open_store` finds out what is at a path or URL."""

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
ONE_FILE = (".h5", ".hdf5", ".zip")  # suffixes of stores that are one file
ROOT = "zarr.json"  # the document that makes a directory a Zarr store


def open_store(
    path: str | Path | Location,
    allow_incomplete: bool = False,
    *,
    local: str | Path | None = None,
    local_bytes: int | None = None,
) -> Store:
    """Open the store at `path`: a Zarr directory, an HDF5 file, an archive of `cache pack`, or the URL of one of these.

    Args:
        path: A path, or a `file://`, `http(s)://`, `s3://` or `hf://` URL.
        allow_incomplete: Also open an unfinished store, given its staging directory.
        local: The folder that keeps what is fetched from a URL; default: $POSE_TEACHER_CACHE_DIR, or else a folder in
            the user's cache folder.
        local_bytes: The largest total size of that folder in bytes, 0 to keep nothing; default:
            $POSE_TEACHER_CACHE_BYTES, or else 32 GiB.

    Raises:
        StoreNotFoundError: There is nothing at `path`.
        StoreFormatError: It is not a store, is of a newer version of the format, or is damaged.
        StoreError: It is incomplete and `allow_incomplete` is false, or the server cannot be reached.
    """
    place = locate(path)
    if isinstance(place, Location):
        limit = default_bytes() if local_bytes is None else local_bytes
        store = Store(_remote_layout(place, BlockFolder(Path(local) if local else default_folder(), limit)))
    else:
        # An absolute path stays valid after a change of the working directory.
        store = Store(find_layout(_staged(place.absolute(), allow_incomplete)))
    if not (store.complete or allow_incomplete):
        raise StoreError(f"{place}: the store is not complete; run the command that makes it again, with --resume")
    return store


def _staged(root: Path, allow_incomplete: bool) -> Path:
    """`root`, or the assembled store in it if `root` is a staging directory."""
    if not (root / PLAN).is_file():
        return root
    if not allow_incomplete:
        raise StoreError(f"{root}: not finished; run the command that makes the store again, with --resume")
    for candidate in (root / "store" / ROOT, root / "store.h5"):
        if candidate.is_file():
            return candidate.parent if candidate.name == ROOT else candidate
    raise StoreError(
        f"{root}: some shards are not written yet; run the command that makes the store again, with --resume"
    )


def find_layout(root: Path) -> Layout:
    """The layout of the store at the path `root`, from its files; the store itself is not checked."""
    if (root / ROOT).is_file():
        from cache.layouts.zarr_reader import ZarrLayout

        return ZarrLayout(Files(root))
    if root.is_dir():
        raise StoreFormatError(f"{root}: a directory without zarr.json; not a store")
    if not root.exists():
        raise StoreNotFoundError(f"{root}: no such store")
    return _one_file(Files(root))


def _remote_layout(root: Location, blocks: BlockFolder) -> Layout:
    """The layout of the store at the URL `root`; the list beside it is used if it matches the store's root document."""
    from cache.files.client import Remote
    from cache.files.listing import MAX_LIST, SUFFIX, parse_file_list, sha256_of_bytes
    from cache.files.remote import RemoteFiles
    from cache.layouts.zarr_reader import ZarrLayout

    remote = Remote(root)
    listed = parse_file_list(Remote(root.with_name(root.name + SUFFIX)).read_optional("", MAX_LIST))
    document = None if root.suffix in ONE_FILE else remote.read_whole(ROOT, MAX_DOCUMENT)
    if document is not None:
        entry = listed.files.get(ROOT) if listed else None
        is_current = entry is not None and entry.sha256 == sha256_of_bytes(document)
        files = RemoteFiles(remote, blocks, listed if is_current else None)
        files.prefetch(key for key in (listed.files if listed and is_current else ()) if key.endswith("zarr.json"))
        return ZarrLayout(files)
    if remote.stat("") is None:
        raise StoreNotFoundError(f"{root}: no such store; is it the URL of a store, and is its upload finished?")
    return _one_file(RemoteFiles(remote, blocks))


def find_listed_layout(root: Location, *, is_directory: bool) -> Layout:
    """The layout of the store at the URL `root`, whose kind a listing shows; nothing is kept on this machine."""
    from cache.files.client import Remote
    from cache.files.remote import RemoteFiles
    from cache.layouts.zarr_reader import ZarrLayout

    files = RemoteFiles(Remote(root), BlockFolder(default_folder(), 0))
    return ZarrLayout(files) if is_directory else _one_file(files)


def _one_file(files: ReadableFiles) -> Layout:
    """The layout of a store that is one file, from its first bytes."""
    beginning = files.read("", 0, min(len(HDF5_SIGNATURE), files.size("")))
    if beginning.startswith(ZIP_SIGNATURE):
        from cache.layouts.zarr_reader import ZarrLayout

        return ZarrLayout(ZipFiles(files))
    if beginning != HDF5_SIGNATURE:
        raise StoreFormatError(f"{files.root}: neither a Zarr directory, nor an HDF5 file, nor an archive of a store")
    from cache.layouts.hdf5_reader import Hdf5Layout  # importing h5py takes a quarter of a second

    return Hdf5Layout(files)
