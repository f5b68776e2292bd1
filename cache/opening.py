"""Finding out what lies at a path, and opening it if it is a store."""

from pathlib import Path

from cache.errors import StoreError, StoreFormatError, StoreNotFoundError
from cache.files import Files
from cache.layout import Layout
from cache.staging import PLAN
from cache.store import Store

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def open_store(path: str | Path, allow_incomplete: bool = False) -> Store:
    """Open the store at `path`: a Zarr directory, an HDF5 file or, with `allow_incomplete`, a staging directory.

    Raises:
        StoreNotFoundError: nothing is there.
        StoreFormatError: it is not a store, is of a newer version, or is damaged.
        StoreError: it is not complete, and `allow_incomplete` is false.
    """
    root = Path(path).absolute()  # a store goes on reading after a change of the working directory
    if (root / PLAN).is_file():
        if not allow_incomplete:
            raise StoreError(f"{path}: not finished; run the same command again with --resume")
        root = _staged(root)
    store = Store(find_layout(root))
    if not (store.complete or allow_incomplete):
        raise StoreError(f"{path}: the manifest says that it is not complete; run the same command with --resume")
    return store


def _staged(staging: Path) -> Path:
    """The store inside a staging directory, once it has been assembled."""
    for candidate in (staging / "store" / "zarr.json", staging / "store.h5"):
        if candidate.is_file():
            return candidate.parent if candidate.name == "zarr.json" else candidate
    raise StoreError(f"{staging}: some shards are still to be written; run the same command again with --resume")


def find_layout(root: Path) -> Layout:
    """How the store at `root` is laid out, told by what is there; nothing of it has been checked."""
    if (root / "zarr.json").is_file():
        from cache.zarr_layout import ZarrLayout

        return ZarrLayout(Files(root))
    if root.is_dir():
        raise StoreFormatError(f"{root}: a directory without zarr.json; not a store")
    if not root.exists():
        raise StoreNotFoundError(f"{root}: no such store")
    files = Files(root)
    if files.size("") < len(HDF5_SIGNATURE) or files.read("", 0, len(HDF5_SIGNATURE)) != HDF5_SIGNATURE:
        raise StoreFormatError(f"{root}: neither a Zarr directory nor an HDF5 file")
    from cache.hdf5_layout import Hdf5Layout  # h5py takes a quarter of a second to import

    return Hdf5Layout(files)
