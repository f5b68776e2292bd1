"""Reading byte ranges of a store's files.

`ReadableFiles` is the interface through which a layout reads files; `Files` reads those of this machine. `RangeFile`
wraps one of them as a Python file object, for libraries that need one.

`Files` reads by position, is safe to use from threads and after a fork, and keeps few files open. It uses `pread`
(where there is one, see `kdcli.system.read_at`) rather than mapped memory: the memory of the process does not grow
while it reads a large store at random, and a file that shrinks raises an error instead of crashing the process.
"""

import functools
import io
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Protocol

from cache.errors import StoreError, StoreFormatError, StoreNotFoundError
from cache.files.location import Place
from cache.files.per_process import PerProcess
from kdcli import system

MAX_OPEN_FILES = 512
_BLOCK = 1 << 18  # bytes that a `RangeFile` reads at once
_BLOCKS_KEPT = 64  # blocks that a `RangeFile` keeps: 16 MiB


class ReadableFiles(Protocol):
    """Files named by keys, which are paths relative to `root`; the key of a store that is one file is empty.

    Implementations may be used from several threads, after a fork, and after pickling. Failures are `StoreError`s that
    name file and range.
    """

    @property
    def root(self) -> Place:
        """The path or URL of the store."""

    def read(self, key: str, offset: int, nbytes: int) -> bytes:
        """Read exactly `nbytes` bytes of file `key` from `offset`; `StoreFormatError` if the file is shorter."""

    def size(self, key: str) -> int:
        """The size of file `key` in bytes."""

    def path(self, key: str) -> Place:
        """The path or URL of file `key`."""

    def listing(self) -> Iterator[tuple[str, bool]]:
        """(key, whether it is a regular file) of everything below the root, as far as it can be listed."""

    def source(self) -> AbstractContextManager[Path | BinaryIO]:
        """The path of a store that is one file, or that file opened, for a library such as h5py."""

    def close(self) -> None:
        """Close the files of this machine that are open; a later read opens them again."""


class Files(PerProcess):
    """The local files below `root` (or, for a store of one file, at `root`), opened when needed, once per process."""

    _constants: ClassVar = ("root",)

    def __init__(self, root: Path) -> None:
        self.root = root
        self._start()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[str, FileIO] = OrderedDict()  # the most recently used file is last

    def read(self, key: str, offset: int, nbytes: int) -> bytes:
        """Read exactly `nbytes` bytes of file `key` from `offset`; `StoreFormatError` if the file is shorter."""
        file = self._file(key)  # this reference keeps the file open, even if another thread drops it from the table
        data = self._pread(key, file, nbytes, offset)
        while len(data) < nbytes:  # a signal or a network file system may shorten a read
            more = self._pread(key, file, nbytes - len(data), offset + len(data))
            if not more:
                raise StoreFormatError(
                    f"{self.path(key)}: truncated: {nbytes} bytes expected at {offset}, the file has {self.size(key)}"
                )
            data += more
        return data

    def _pread(self, key: str, file: FileIO, nbytes: int, offset: int) -> bytes:
        try:
            return system.read_at(file.fileno(), nbytes, offset)
        except (OSError, OverflowError) as error:
            raise StoreFormatError(f"{self.path(key)}: cannot be read at {offset}: {error}") from error

    def size(self, key: str) -> int:
        """The size of file `key` in bytes."""
        file = self._file(key)
        return os.fstat(file.fileno()).st_size

    def path(self, key: str) -> Path:
        """The path of file `key`."""
        return self.root / key if key else self.root

    def listing(self) -> Iterator[tuple[str, bool]]:
        """(key, whether it is a regular file) of everything below the root except folders; links are not followed."""
        for folder, directories, files in os.walk(self.root):
            for path in (Path(folder, name) for name in [*directories, *files]):
                mode = path.lstat().st_mode
                if not stat.S_ISDIR(mode):
                    yield path.relative_to(self.root).as_posix(), stat.S_ISREG(mode)

    def source(self) -> AbstractContextManager[Path | BinaryIO]:
        """The path of the root."""
        return nullcontext(self.root)

    def close(self) -> None:
        """Close all files, except those that another thread is reading; a later read opens them again."""
        with self._lock:
            self._open.clear()

    def _file(self, key: str) -> FileIO:
        """The open file; the caller's reference keeps it open when the table drops it."""
        self._renew_after_fork()
        with self._lock:
            file = self._open.get(key)
            if file is None:
                file = self._open[key] = _open_regular(self.path(key), follow=not key)
                if len(self._open) > MAX_OPEN_FILES:
                    self._open.popitem(last=False)
            else:
                self._open.move_to_end(key)
            return file


def _open_regular(path: Path, follow: bool) -> FileIO:
    """Open a regular file for reading; refuse pipes, devices and, unless `follow`, links."""
    try:
        file = FileIO(system.open_to_read(path, follow=follow), "rb")
    except FileNotFoundError:
        raise StoreNotFoundError(f"{path}: missing; the store is incomplete or damaged") from None
    except OSError as error:
        raise StoreFormatError(f"{path}: cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise StoreFormatError(f"{path}: not a regular file")
    return file


class RangeFile(io.RawIOBase):
    """The file `key` of `files` as a Python file object.

    It is read in blocks, of which the most recently used are kept; a read of more than `limit` bytes is an error.
    Libraries replace an exception that the file object raises by one of their own, so the first `StoreError` is kept as
    `failure`.
    """

    def __init__(self, files: ReadableFiles, key: str, limit: int = 1 << 26) -> None:
        self._where, self._size, self._limit, self._position = str(files.path(key)), files.size(key), limit, 0
        self.failure: StoreError | None = None

        size = self._size  # a reference to `self` would be a cycle, which keeps the file open for a while

        def block(number: int) -> bytes:
            start = number * _BLOCK
            return files.read(key, start, min(_BLOCK, size - start))

        self._block = functools.lru_cache(_BLOCKS_KEPT)(block)

    def readable(self) -> bool:
        """Whether the file can be read: always."""
        return True

    def seekable(self) -> bool:
        """Whether the file has a position that can be moved: always."""
        return True

    def tell(self) -> int:
        """The position, in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to `offset` bytes from the start, the position or the end; returns the new position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(f"{self._where}: no position {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read into `buffer`, until it is full or the file ends; returns the number of bytes."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1) -> bytes:
        """Read `size` bytes, or fewer if the file ends before; all remaining bytes if it is negative or None."""
        left = max(0, self._size - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        try:
            data = self._read(wanted)
        except StoreError as error:
            self.failure = self.failure or error
            raise
        self._position += len(data)
        return data

    def _read(self, wanted: int) -> bytes:
        if wanted > self._limit:
            raise StoreFormatError(f"{self._where}: damaged: its structure requires a read of {wanted} bytes at once")
        parts, position, end = [], self._position, self._position + wanted
        while position < end:
            number, start = divmod(position, _BLOCK)
            parts.append(self._block(number)[start : start + end - position])
            position += len(parts[-1])
        return b"".join(parts)
