"""A store of the Zarr form as one file: a ZIP archive of stored members, the same bytes for the same store.

`open_store` reads it where it lies, and so does zarr's ZipStore; no archive manager can fail to open it.
"""

import os
import secrets
import zipfile
from collections.abc import Callable
from pathlib import Path

from cache.errors import StoreError
from cache.files.durable import sync, writing
from cache.files.location import Location
from cache.reading.opening import open_store
from cache.reading.store import Store

FAT32_LIMIT = (1 << 32) - 1  # bytes of a file
_PIECE = 1 << 23
_EPOCH = (1980, 1, 1, 0, 0, 0)  # ZIP's first day: an archive says nothing of when it was made


def pack_store(
    source: str | Path | Location,
    target: str | Path,
    *,
    overwrite: bool = False,
    progress: Callable[[int], object] = lambda done: None,
) -> Path:
    """Write the store at `source` to the archive `target`, which appears when it is whole; returns the path.

    `progress` is called with the bytes that were added.

    Raises:
        StoreError: the store is an HDF5 file, which is one file already; the target exists or is no `.zip`.
    """
    store, target = open_store(source, local_bytes=0), Path(target)
    if store.form != "zarr":
        raise StoreError(f"{store.path}: an HDF5 store is one file already: copy it as it is")
    if target.suffix != ".zip":
        raise StoreError(f"{target}: the name of an archive ends in .zip")
    if target.exists() and not overwrite:
        raise StoreError(f"{target} exists; replace it with --overwrite")
    if target.exists():
        open_store(target)  # whatever is replaced is a store
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with writing(target.parent, store.nbytes):
            _write(store, beside, progress)
            sync(beside)
            os.replace(beside, target)
            sync(target.parent)
    finally:
        beside.unlink(missing_ok=True)
    return target


def _write(store: Store, path: Path, progress: Callable[[int], object]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for key in store.file_keys():
            size = store.files.size(key)
            member = zipfile.ZipInfo(key, _EPOCH)
            member.create_system, member.external_attr, member.file_size = 3, 0o100644 << 16, size
            with archive.open(member, "w", force_zip64=size > FAT32_LIMIT // 2) as out:
                for start in range(0, size, _PIECE):
                    out.write(store.files.read(key, start, min(_PIECE, size - start)))
            progress(size)
