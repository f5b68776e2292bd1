"""Writing files so that they survive a killed process, a full disk and a power cut.

`write_atomically` writes a file under a temporary name, syncs it to the disk and renames it, so a file under its own
name is complete. `disk_errors` turns the failures of the operating system into `StoreError`s.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cache.errors import StoreError, StoreSpaceError
from kdcli.files import TEMPORARY_FILES, replacing
from kdcli.system import sync


def write_atomically(path: Path, parts: Iterable[bytes], *, durable: bool = True) -> None:
    """Write `path` so that it is either unchanged or complete and, if `durable`, synced to the disk.

    Raises:
        StoreSpaceError: The disk is full.
        StoreError: The file cannot be written for another reason.
    """
    parts = list(parts)
    with disk_errors(path.parent, sum(map(len, parts))):
        make_folder(path.parent, durable)
        with replacing(path) as temporary, temporary.open("wb") as file:
            file.writelines(parts)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        if durable:
            sync(path.parent)


def make_folder(folder: Path, durable: bool = True) -> None:
    """Make a folder and its parents; if `durable`, sync the entries of all new folders to the disk."""
    missing = [part for part in (folder, *folder.parents) if not part.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing if durable else ():
        sync(made.parent)


def remove_temporary_files(root: Path) -> None:
    """Remove the temporary files of killed processes below `root`; no other process may be writing there."""
    for path in root.rglob(TEMPORARY_FILES):
        path.unlink()


def sync_tree(root: Path) -> None:
    """Sync everything below `root` to the disk; for many files together this takes little longer than for one."""
    for folder, _, files in os.walk(root):
        for name in files:
            sync(Path(folder, name))
        sync(Path(folder))


@contextmanager
def disk_errors(directory: Path, nbytes: int) -> Iterator[None]:
    """Turn an `OSError` of the block into a `StoreError` about writing to `directory`.

    Args:
        directory: Where the block writes.
        nbytes: How many bytes it writes, for the message about a full disk.

    Raises:
        StoreSpaceError: The disk is full; the message says how many bytes are needed and how many are free.
        StoreError: Any other `OSError`.
    """
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
            "the same command with --resume, all finished work is kept"
        ) from error


def json_bytes(document: Mapping[str, Any]) -> bytes:
    """A JSON document in UTF-8, indented."""
    return json.dumps(document, indent=1, allow_nan=False).encode()
