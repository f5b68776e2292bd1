"""The lock of a staging directory, which lets one run at a time write there.

It is a file lock of the kernel, so it ends with the process that holds it, however the process ends. A process that
starts or resumes a run takes the lock exclusively for a moment, and then shares it with the processes that join the
run; a second run is refused. On file systems without locks, a second run is not detected.
"""

import os
import socket
from io import FileIO
from pathlib import Path
from weakref import WeakValueDictionary

from cache.errors import StoreBusyError, StoreError
from kdcli import system
from kdcli.locks import lock_file

LOCK = "lock"  # file in the staging directory, with the name of the process that holds it


class StagingLock:
    """A lock that is held until `remove` deletes what it locks, this object is deleted, or its process ends."""

    def __init__(self, file: FileIO) -> None:
        self._file = file

    def is_of(self, path: Path) -> bool:
        """Whether the locked file is the one that is now at `path`; it may have been deleted and made again."""
        if self._file.closed or not path.exists():
            return False
        return os.path.samestat(os.fstat(self._file.fileno()), path.stat())

    def remove(self, directory: Path) -> None:
        """Delete the staging directory, and end the lock. On Windows, it must end before its file can be deleted."""
        if not system.POSIX:
            for entry in sorted(directory.iterdir(), key=Path.is_file):  # a killed process leaves the plan to the next
                if entry.is_dir():
                    system.remove_tree(entry)
                elif entry.name != LOCK:
                    entry.unlink()
            self._file.close()
        system.remove_tree(directory)
        self._file.close()


_held: WeakValueDictionary[str, StagingLock] = WeakValueDictionary()  # by path: the locks that this process holds


def lock(directory: Path, *, join: bool = False) -> StagingLock:
    """Take the lock of a staging directory, or share it with the current run if `join`.

    Raises:
        StoreBusyError: Another run holds it.
        StoreError: The directory is a symbolic link, which cannot be deleted like a directory.
    """
    if directory.is_symlink():
        raise StoreError(f"{directory} is a symbolic link; delete the link, so that a folder can be made there")
    path = directory.absolute() / LOCK
    held = _held.get(str(path))
    if held is not None and held.is_of(path):
        return held
    taken = StagingLock(_lock_file(path, join))
    if not taken.is_of(path):
        raise StoreError(f"{directory}: another process has just finished or removed it; run the command again")
    _held[str(path)] = taken
    return taken


def _lock_file(path: Path, join: bool) -> FileIO:
    file = FileIO(system.open_to_update(path, 0o644), "r+b")
    try:
        if not join and lock_file(file.fileno()):
            sign(file)
        lock_file(file.fileno(), shared=True)
    except BlockingIOError:
        raise StoreBusyError(
            f"{path.parent}: being written by {holder_of(file)}; let it finish, or stop it first"
        ) from None
    except OSError as error:
        raise StoreError(f"{path}: cannot be locked: {error.strerror}") from error
    return file


def sign(file: FileIO) -> None:
    """Write the name of this process into a file that it has locked."""
    system.overwrite(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())


def holder_of(file: FileIO) -> str:
    """The name of the process that has locked a file."""
    return system.read_at(file.fileno(), 200, 0).decode(errors="replace") or "another process"
