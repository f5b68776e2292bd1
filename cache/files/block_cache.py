"""A folder of this machine that keeps blocks of remote files, below a size, the longest unused leaving first.

    FOLDER/bytes        how many bytes the blocks have, and the lock under which it changes
    FOLDER/ab/NAME      a block and its CRC-32C (4 bytes, little-endian)

Any number of processes and threads may use one folder: a block appears whole by a rename, and one that is gone or
damaged is fetched again. A folder that cannot be written costs speed, nothing else.
"""

import fcntl
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cache.errors import StoreError
from cache.format.compress import crc32c

FOLDER_VARIABLE, BYTES_VARIABLE = "POSE_TEACHER_CACHE_DIR", "POSE_TEACHER_CACHE_BYTES"
DEFAULT_BYTES = 32 << 30
_KEPT_AFTER_ROOM = 0.9  # of the limit: room is made in large steps
_TOUCH_SECONDS = 60  # a block's last use is known this exactly
_STRIPES = 64


def default_folder() -> Path:
    """Where blocks are kept: $POSE_TEACHER_CACHE_DIR, else a folder of the user's cache directory."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen) if chosen else Path(base) / "pose-teacher-cache"


def default_bytes() -> int:
    """How many bytes may be kept: $POSE_TEACHER_CACHE_BYTES, else 32 GiB."""
    chosen = os.environ.get(BYTES_VARIABLE)
    if chosen is None:
        return DEFAULT_BYTES
    if not chosen.isdigit():
        raise StoreError(f"${BYTES_VARIABLE} is {chosen!r}; it must be a number of bytes, 0 to keep nothing")
    return int(chosen)


class BlockFolder:
    """At most `limit` bytes of blocks in `folder`; with a limit of 0 nothing is kept."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder.absolute(), limit
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._locks = [threading.Lock() for _ in range(_STRIPES)]
        self._used: dict[str, float] = {}  # blocks found sound by this process, and when their use was last noted

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "limit": self.limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def read(self, name: str, offset: int, nbytes: int, fetch: Callable[[], bytes]) -> bytes:
        """A range of block `name`; `fetch` brings the whole block if it is not here, once for all threads."""
        if self._pid != os.getpid():
            self._forget()  # a lock may be held by a thread that is gone
        data = self._held(name, offset, nbytes)
        if data is not None:
            return data
        with self._locks[hash(name) % _STRIPES]:
            data = self._held(name, offset, nbytes)
            if data is None:
                block = fetch()
                self._keep(name, block)
                data = block[offset : offset + nbytes]
        return data

    def _held(self, name: str, offset: int, nbytes: int) -> bytes | None:
        """The range, if the block is here and sound; its checksum is looked at once a process."""
        now = time.monotonic()
        try:
            handle = os.open(f"{self.folder}/{name[:2]}/{name[2:]}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            if name not in self._used and not _is_sound(handle):
                return None
            if now - self._used.get(name, -_TOUCH_SECONDS) >= _TOUCH_SECONDS:
                os.utime(handle)
                self._used[name] = now
            data = os.pread(handle, nbytes, offset)
        except OSError:
            return None
        finally:
            os.close(handle)
        return data if len(data) == nbytes else None

    def _keep(self, name: str, block: bytes) -> None:
        needed = len(block) + 4
        if needed > self.limit:
            return
        path = self._path(name)
        beside = path.with_name(f".{secrets.token_hex(8)}")
        with suppress(OSError):  # a full disk, a folder of someone else's: then the block is not kept
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._account(needed)
            try:
                beside.write_bytes(block + crc32c(block).to_bytes(4, "little"))
                beside.replace(path)
            finally:
                beside.unlink(missing_ok=True)

    def _account(self, needed: int) -> None:
        """Book `needed` bytes, after making room for them."""
        with self._ledger() as ledger:
            text = os.pread(ledger, 32, 0)
            held = int(text) if text.isdigit() else self._make_room(self.limit)
            if held + needed > self.limit:
                held = self._make_room(int(self.limit * _KEPT_AFTER_ROOM) - needed)
            os.ftruncate(ledger, 0)
            os.pwrite(ledger, str(held + needed).encode(), 0)

    @contextmanager
    def _ledger(self) -> Iterator[int]:
        handle = os.open(self.folder / "bytes", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)  # of this opening: it holds between threads too
            yield handle
        finally:
            os.close(handle)

    def _make_room(self, limit: int) -> int:
        """Delete the longest unused blocks until at most `limit` bytes are left; returns how many are."""
        found = []
        for entry in (entry for folder in self.folder.glob("??") for entry in os.scandir(folder)):
            with suppress(FileNotFoundError):
                found.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path))
        held = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if held <= limit:
                break
            with suppress(FileNotFoundError):
                os.unlink(path)
            held -= size
        return held

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name[2:]


def _is_sound(handle: int) -> bool:
    """Does the block match its checksum?"""
    size = os.fstat(handle).st_size
    data = os.pread(handle, size, 0)
    return len(data) == size >= 4 and crc32c(data[:-4]) == int.from_bytes(data[-4:], "little")
