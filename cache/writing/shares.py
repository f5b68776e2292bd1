"""Shares of a store: N processes that do not communicate write every N-th shard each.

    shares.json        {"count": N}, written by the first of them
    share-K.lock       locked by the process that writes share K (from 0 to N - 1), with its name

Both files are in the staging folder. Shares of different counts would overlap, and so would two processes with the
same share. The lock ends with its process, however the process ends, so a share that was interrupted can be written by
another one. On file systems without locks, a second process with the same share is not detected.
"""

import json
import operator
from io import FileIO
from pathlib import Path

from cache.errors import StoreBusyError, StoreError
from cache.files.durable import disk_errors, json_bytes
from cache.writing.lock import holder_of, sign
from cache.writing.staging import staging_path
from kdcli import system
from kdcli.locks import lock_file

COUNT = "shares.json"


def claim(store: Path, index: int, count: int) -> FileIO:
    """Claim a share of a store whose writing has begun; the claim ends when the returned file is closed.

    Args:
        store: The path of the store.
        index: Number K of the share, below `count`.
        count: Number N of shares.

    Raises:
        StoreBusyError: Another process writes this share.
        StoreError: Other processes write shares of another count, or a file cannot be written.
    """
    staging = staging_path(store)
    with disk_errors(staging, 0):
        _agree_on_count(staging / COUNT, index, count)
        path = staging / f"share-{index}.lock"
        file = _open(path)
        try:
            lock_file(file.fileno())
            sign(file)
        except BlockingIOError:
            holder = holder_of(file)
            file.close()
            raise StoreBusyError(
                f"{path}: share {index}/{count} is being written by {holder}; give each process its own share, or "
                "stop that process first"
            ) from None
        except OSError:
            file.close()
            raise
    return file


def _agree_on_count(path: Path, index: int, count: int) -> None:
    """Write the count if this is the first share; or else compare it with that of the other processes."""
    with _open(path) as file:
        lock_file(file.fileno(), wait=True)
        content = system.read_at(file.fileno(), 200, 0)
        if not content:
            system.overwrite(file.fileno(), json_bytes({"count": count}))
            return
    try:
        found = operator.index(json.loads(content)["count"])
    except (ValueError, TypeError, KeyError):
        raise StoreError(f"{path}: damaged; delete it and run the command again") from None
    if found != count:
        raise StoreError(
            f"{path}: --share {index}/{count} does not match --share K/{found}, with which other processes write or "
            f"wrote this store; give every process K/{found}. If no process with N = {found} will run again, delete "
            "this file first"
        )


def _open(path: Path) -> FileIO:
    return FileIO(system.open_to_update(path, 0o644), "r+b")
