"""The staging directory `PATH.partial`, where a store grows until it is whole.

    lock               one run at a time (cache/lock.py)
    plan.json          what is being made; a run that would make something else is refused
    receipts/K.npz     the columns of shard K, written after its files: the shard is done
    store/...          shard files where the Zarr form has them (for HDF5 they hold deflated chunks, joined at the end)
    store.h5           the HDF5 form, once joined

Every file is written beside its place, synchronised and renamed, so that what has its name is whole.
"""

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cache.errors import StoreError, StoreSpaceError


def write_whole(path: Path, parts: Iterable[bytes], *, durable: bool = True) -> None:
    """Write `path` so that it is either absent, as before, or whole and, if `durable`, on the disk."""
    parts = list(parts)
    beside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with writing(path.parent, sum(map(len, parts))):
            make_folder(path.parent, durable)
            with beside.open("wb") as file:
                file.writelines(parts)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            beside.replace(path)
            if durable:
                sync(path.parent)
    finally:
        with suppress(OSError):  # the folder itself may be what failed
            beside.unlink()


def make_folder(folder: Path, durable: bool = True) -> None:
    """Make a folder; if `durable`, the entries of all that had to be made are on the disk, too."""
    missing = [part for part in (folder, *folder.parents) if not part.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing if durable else ():
        sync(made.parent)


def remove_attempts(root: Path) -> None:
    """Remove what killed processes left beside files that they were writing below `root`; nobody may be writing now."""
    for attempt in root.rglob(".*.tmp"):
        attempt.unlink()


def sync_tree(root: Path) -> None:
    """Bring everything below `root` to the disk; many files at once cost little more than one."""
    for folder, _, files in os.walk(root):
        for name in files:
            sync(Path(folder, name))
        sync(Path(folder))


def sync(path: Path) -> None:
    """Bring a file's bytes, or a directory's entries, to the disk: a rename is durable only after the latter."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def writing(directory: Path, nbytes: int) -> Iterator[None]:
    """Turn a failure to write into a `StoreError`: a full disk into one that says what is needed and what is left."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) and "No space left" not in str(error):
            raise StoreError(f"{directory}: cannot be written: {error.strerror or error}") from error
        free = shutil.disk_usage(directory).free
        raise StoreSpaceError(
            f"{directory}: no space left: {nbytes:,} bytes were to be written, {free:,} are free; make room and run "
            "the same command with --resume, nothing finished is lost"
        ) from error


def json_bytes(document: Mapping[str, Any]) -> bytes:
    """A JSON document for people and programs."""
    return json.dumps(document, indent=1, allow_nan=False).encode()
