"""One file of a store as the open file that a library wants: h5py for its structure, zipfile for its directory."""

import functools
import io
from typing import Any

from cache.errors import StoreError, StoreFormatError
from cache.files import ReadableFiles

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
