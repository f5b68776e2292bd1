"""A local folder of limited size that keeps blocks of remote files; the least recently used ones are deleted first.

    FOLDER/bytes        the total size of the blocks in bytes; also the lock under which it changes
    FOLDER/ab/NAME      a block, followed by its CRC-32C (4 bytes, little-endian)

Any number of processes and threads may share one folder. A block appears whole, by a rename; one that is missing or
damaged is fetched again. If the folder cannot be written, blocks are fetched again whenever they
are needed.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

from cache.errors import StoreError
from cache.files.per_process import PerProcess
from cache.format.compress import crc32c
from kdcli import system
from kdcli.files import replacing
from kdcli.locks import lock_file

FOLDER_VARIABLE, BYTES_VARIABLE = "POSE_TEACHER_CACHE_DIR", "POSE_TEACHER_CACHE_BYTES"
DEFAULT_BYTES = 32 << 30
_KEPT_SHARE = 0.9  # share of the limit that remains after blocks were deleted: few large clean-ups, not many small ones
_TOUCH_SECONDS = 60  # accuracy of the time of a block's last use
_STRIPES = 64  # number of locks of a process; a hash of the block's name selects the lock
_CHECKSUM_BYTES = 4


def default_folder() -> Path:
    """The folder that keeps blocks: $POSE_TEACHER_CACHE_DIR, or a folder in the user's cache folder."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen) if chosen else Path(base) / "pose-teacher-cache"


def default_bytes() -> int:
    """The limit in bytes: $POSE_TEACHER_CACHE_BYTES, or 32 GiB; `StoreError` if the variable is not a number."""
    chosen = os.environ.get(BYTES_VARIABLE)
    if chosen is None:
        return DEFAULT_BYTES
    if not chosen.isdigit():
        raise StoreError(f"${BYTES_VARIABLE} is {chosen!r}; it must be a number of bytes, 0 to keep nothing")
    return int(chosen)


class BlockFolder(PerProcess):
    """At most `limit` bytes of blocks in `folder`; a limit of 0 keeps nothing."""

    _constants: ClassVar = ("folder", "limit")

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder.absolute(), limit
        self._start()

    def _reset(self) -> None:
        self._locks = [threading.Lock() for _ in range(_STRIPES)]
        self._total = threading.Lock()
        self._used: dict[str, float] = {}  # blocks that this process has checked -> when it last touched their files

    def read(self, name: str, offset: int, nbytes: int, fetch: Callable[[], bytes]) -> bytes:
        """Read a range of the block `name`; if it is not kept, `fetch` gets the whole block, once for all threads."""
        self._renew_after_fork()
        data = self._read_kept(name, offset, nbytes)
        if data is not None:
            return data
        with self._locks[hash(name) % _STRIPES]:
            data = self._read_kept(name, offset, nbytes)
            if data is None:
                block = fetch()
                self._keep(name, block)
                data = block[offset : offset + nbytes]
        return data

    def _read_kept(self, name: str, offset: int, nbytes: int) -> bytes | None:
        """The range, if the block is kept and intact; its checksum is verified once per process."""
        now, path = time.monotonic(), f"{self.folder}/{name[:2]}/{name[2:]}"
        try:
            handle = system.open_to_read(path)
        except OSError:
            return None
        try:
            if name not in self._used and not _is_intact(handle):
                return None
            if now - self._used.get(name, -_TOUCH_SECONDS) >= _TOUCH_SECONDS:
                os.utime(path)
                self._used[name] = now
            data = system.read_at(handle, nbytes, offset)
        except OSError:
            return None
        finally:
            os.close(handle)
        return data if len(data) == nbytes else None

    def _keep(self, name: str, block: bytes) -> None:
        needed = len(block) + _CHECKSUM_BYTES
        if needed > self.limit:
            return
        path = self._path(name)
        with suppress(OSError):  # a full disk or a folder without permission: the block is then not kept
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._reserve(needed)
            with replacing(path) as temporary:
                temporary.write_bytes(block + crc32c(block).to_bytes(_CHECKSUM_BYTES, "little"))

    def _reserve(self, needed: int) -> None:
        """Add `needed` bytes to the total, after deleting blocks if there is not enough room."""
        with self._locked_total() as total:
            text = system.read_at(total, 32, 0)
            kept = int(text) if text.isdigit() else self._make_room(self.limit)
            if kept + needed > self.limit:
                kept = self._make_room(int(self.limit * _KEPT_SHARE) - needed)
            system.overwrite(total, str(kept + needed).encode())

    @contextmanager
    def _locked_total(self) -> Iterator[int]:
        """The handle of the file `bytes`, locked; without locks, the total of several processes is approximate."""
        handle = system.open_to_update(self.folder / "bytes", 0o600)
        try:
            with self._total:
                lock_file(handle, wait=True)
                yield handle
        finally:
            os.close(handle)

    def _make_room(self, limit: int) -> int:
        """Delete the least recently used blocks until at most `limit` bytes remain; returns how many remain."""
        found = []
        for entry in (entry for folder in self.folder.glob("??") for entry in os.scandir(folder)):
            with suppress(FileNotFoundError):
                found.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path))
        kept = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if kept <= limit:
                break
            with suppress(PermissionError):  # of Windows: another process is reading it
                with suppress(FileNotFoundError):
                    os.unlink(path)
                kept -= size
        return kept

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name[2:]


def _is_intact(handle: int) -> bool:
    """Whether the block matches its checksum."""
    size = os.fstat(handle).st_size
    data = system.read_at(handle, size, 0)
    stored = int.from_bytes(data[-_CHECKSUM_BYTES:], "little")
    return len(data) == size >= _CHECKSUM_BYTES and crc32c(data[:-_CHECKSUM_BYTES]) == stored
