"""One run at a time: the lock of a staging directory.

It is the kernel's lock of a file, so that it ends with the process that held it, however that ended. Whoever begins or
resumes a run must be alone for a moment, then shares the lock with the processes that join it; a second run finds it
taken. Where a file system has no locks, runs are not kept apart.
"""

import errno
import fcntl
import os
import socket
from io import FileIO
from pathlib import Path
from weakref import WeakValueDictionary

from cache.errors import StoreError

LOCK = "lock"  # a file of the staging directory; says who holds it
_WITHOUT = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)  # file systems that know no locks


class StagingLock:
    """Held until it is garbage: by the `Writer`, or by nobody once its process has ended."""

    def __init__(self, file: FileIO) -> None:
        self._file = file

    def is_of(self, path: Path) -> bool:
        """Is the locked file still the one at `path`, and not one that was deleted?"""
        return path.exists() and os.path.samestat(os.fstat(self._file.fileno()), path.stat())


_held: WeakValueDictionary[str, StagingLock] = WeakValueDictionary()  # what this process holds already


def lock(directory: Path, *, join: bool = False) -> StagingLock:
    """Take the lock of a staging directory, or share it with the run that `join` names; `StoreError` if taken."""
    path = directory.absolute() / LOCK
    held = _held.get(str(path))
    if held is not None and held.is_of(path):
        return held
    taken = StagingLock(_locked(path, join))
    if not taken.is_of(path):
        raise StoreError(f"{directory}: finished or removed by another process just now; run the command again")
    _held[str(path)] = taken
    return taken


def _locked(path: Path, join: bool) -> FileIO:
    file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b")
    try:
        if not join:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(file.fileno(), 0)
            os.pwrite(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(file.fileno(), 200, 0).decode(errors="replace") or "another process"
        raise StoreError(f"{path.parent}: being written by {holder}; let it finish, or stop it first") from None
    except OSError as error:
        if error.errno not in _WITHOUT:
            raise StoreError(f"{path}: cannot be locked: {error.strerror}") from error
    return file
