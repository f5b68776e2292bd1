"""Reading byte ranges of a store's files: by position, safe over threads and forks, with few files open at once.

`ReadableFiles` is what a layout asks of the files it reads; `Files` are those of this machine. Ranges are read with
`pread` into memory of their own rather than mapped: reading at random through a large store then leaves the process
as small as it was, and a file that shrinks is an error instead of a crash.
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
from typing import Any, BinaryIO, Protocol

from cache.errors import StoreError, StoreFormatError, StoreNotFoundError
from cache.files.location import Place

MAX_OPEN_FILES = 512


class ReadableFiles(Protocol):
    """Files named by keys, relative to `root`; the key of a store that is one file is empty.

    Safe over threads and forks, and may be pickled. Failures are `StoreError`s that name file and range.
    """

    @property
    def root(self) -> Place:
        """Where the store is."""

    def read(self, key: str, offset: int, nbytes: int) -> bytes:
        """Exactly `nbytes` bytes of file `key` from `offset`; `StoreFormatError` if it ends before."""

    def read_all(self, key: str, limit: int) -> bytes:
        """The whole file `key`, which must not have more than `limit` bytes."""

    def size(self, key: str) -> int:
        """The size of file `key` in bytes."""

    def path(self, key: str) -> Place:
        """Where file `key` is."""

    def listing(self) -> Iterator[tuple[str, bool]]:
        """Whatever lies below the root, as far as that can be listed: its key, and whether it is a regular file."""

    def source(self) -> AbstractContextManager[Path | BinaryIO]:
        """The root, which is one file, for a library that wants a path or an open file."""


class Files:
    """The files below (or, for a store of one file, at) `root`, opened lazily, once a process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()  # a new one: after a fork, the old one may be held by a thread that is gone
        self._open: OrderedDict[str, FileIO] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.root = state["root"]
        self._forget()

    def read(self, key: str, offset: int, nbytes: int) -> bytes:
        """Exactly `nbytes` bytes of file `key` from `offset`; `StoreFormatError` if it ends before."""
        file = self._file(key)  # held by name: without it, another thread could close the file between these lines
        data = self._pread(key, file, nbytes, offset)
        while len(data) < nbytes:  # a signal or a network file system may deliver less than was asked for
            more = self._pread(key, file, nbytes - len(data), offset + len(data))
            if not more:
                raise StoreFormatError(
                    f"{self.path(key)}: truncated: {nbytes} bytes wanted at {offset}, the file has {self.size(key)}"
                )
            data += more
        return data

    def _pread(self, key: str, file: FileIO, nbytes: int, offset: int) -> bytes:
        try:
            return os.pread(file.fileno(), nbytes, offset)
        except (OSError, OverflowError) as error:
            raise StoreFormatError(f"{self.path(key)}: cannot be read at {offset}: {error}") from error

    def read_all(self, key: str, limit: int) -> bytes:
        """The whole file `key`, which must not have more than `limit` bytes."""
        size = self.size(key)
        if size > limit:
            raise StoreFormatError(f"{self.path(key)}: {size} bytes, more than the {limit} that make sense")
        return self.read(key, 0, size)

    def size(self, key: str) -> int:
        """The size of file `key` in bytes."""
        file = self._file(key)
        return os.fstat(file.fileno()).st_size

    def path(self, key: str) -> Path:
        """Where file `key` is."""
        return self.root / key if key else self.root

    def listing(self) -> Iterator[tuple[str, bool]]:
        """See `ReadableFiles.listing`; directories are followed, links are not."""
        for folder, directories, files in os.walk(self.root):
            for path in (Path(folder, name) for name in [*directories, *files]):
                mode = path.lstat().st_mode
                if not stat.S_ISDIR(mode):
                    yield path.relative_to(self.root).as_posix(), stat.S_ISREG(mode)

    def source(self) -> AbstractContextManager[Path | BinaryIO]:
        """See `ReadableFiles.source`."""
        return nullcontext(self.root)

    def _file(self, key: str) -> FileIO:
        """The open file; the caller's reference keeps it open when the table drops it."""
        if self._pid != os.getpid():
            self._forget()
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
    """Open a regular file for reading; links inside a store, pipes and devices are refused."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        file = FileIO(os.open(path, flags), "rb")
    except FileNotFoundError:
        raise StoreNotFoundError(f"{path}: missing; the store is incomplete or damaged") from None
    except OSError as error:
        raise StoreFormatError(f"{path}: cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise StoreFormatError(f"{path}: not a regular file")
    return file


_BLOCK = 1 << 18


_BLOCKS_KEPT = 64  # 16 MiB


class RangeFile(io.RawIOBase):
    """File `key` of `files`, read in blocks of which the last few are kept; no read may be larger than `limit`.

    Libraries turn an exception of their file into one of their own: the first is kept as `failure`.
    """

    def __init__(self, files: ReadableFiles, key: str, limit: int = 1 << 26) -> None:
        self._where, self._size, self._limit, self._position = str(files.path(key)), files.size(key), limit, 0
        self.failure: StoreError | None = None

        def block(number: int) -> bytes:
            start = number * _BLOCK
            return files.read(key, start, min(_BLOCK, self._size - start))

        self._block = functools.lru_cache(_BLOCKS_KEPT)(block)

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(f"{self._where}: no position {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as the file goes."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1) -> bytes:
        """`size` bytes, or fewer where the file ends."""
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
            raise StoreFormatError(f"{self._where}: damaged: its structure wants {wanted} bytes at once")
        parts, position, end = [], self._position, self._position + wanted
        while position < end:
            number, start = divmod(position, _BLOCK)
            parts.append(self._block(number)[start : start + end - position])
            position += len(parts[-1])
        return b"".join(parts)
