"""The files of a remote store as a layout reads them: in blocks that are fetched once and kept on this machine."""

import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from cache.errors import StoreFormatError, StoreNotFoundError
from cache.files.block_cache import BlockFolder
from cache.files.client import Remote, Stat
from cache.files.listing import FileList
from cache.files.local import RangeFile
from cache.files.location import Location

BLOCK = 1 << 20  # bytes: some 50 to 100 records of a view, and little beside the time that a request takes
_PREFETCHED_AT_ONCE = 16


class RemoteFiles:
    """See `cache.files.local.ReadableFiles`. `listed` are the sizes and digests that are known already."""

    def __init__(self, remote: Remote, blocks: BlockFolder, listed: FileList | None = None) -> None:
        self.remote, self.blocks, self.listed = remote, blocks, listed
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._stats: dict[str, Stat] = {}
        self._names: dict[tuple[str, int], str] = {}  # of blocks

    def __getstate__(self) -> dict[str, Any]:
        return {"remote": self.remote, "blocks": self.blocks, "listed": self.listed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def root(self) -> Location:
        """See `ReadableFiles.root`."""
        return self.remote.root

    def path(self, key: str) -> Location:
        """See `ReadableFiles.path`."""
        return self.root / key

    def size(self, key: str) -> int:
        """See `ReadableFiles.size`."""
        return self._stat(key).size

    def read(self, key: str, offset: int, nbytes: int) -> bytes:
        """See `ReadableFiles.read`; whole blocks are fetched and kept, unless nothing may be kept."""
        stat = self._stat(key)
        if offset < 0 or nbytes < 0 or offset + nbytes > stat.size:
            raise StoreFormatError(
                f"{self.path(key)}: truncated: {nbytes} bytes wanted at {offset}, the file has {stat.size}"
            )
        if not self.blocks.limit:
            return self.remote.fetch(key, offset, nbytes, stat.size)
        parts, position, end = [], offset, offset + nbytes
        while position < end:
            number, start = divmod(position, BLOCK)
            parts.append(self._block(key, stat, number, start, min(BLOCK - start, end - position)))
            position += len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_all(self, key: str, limit: int) -> bytes:
        """See `ReadableFiles.read_all`."""
        size = self.size(key)
        if size > limit:
            raise StoreFormatError(f"{self.path(key)}: {size} bytes, more than the {limit} that make sense")
        return self.read(key, 0, size)

    def listing(self) -> Iterator[tuple[str, bool]]:
        """See `ReadableFiles.listing`."""
        return ((key, True) for key in self.remote.listing() if key)

    @contextmanager
    def source(self) -> Iterator[BinaryIO]:
        """See `ReadableFiles.source`."""
        file = RangeFile(self, "")
        try:
            yield cast("BinaryIO", file)
        except Exception as error:
            raise file.failure or error from None

    def prefetch(self, keys: Iterable[str]) -> None:
        """Fetch small files at once rather than one after the other."""
        if self.blocks.limit:
            with ThreadPoolExecutor(_PREFETCHED_AT_ONCE) as pool:
                list(pool.map(lambda key: self.read(key, 0, min(BLOCK, self.size(key))), keys))

    def _block(self, key: str, stat: Stat, number: int, start: int, nbytes: int) -> bytes:
        first = number * BLOCK
        fetched = min(BLOCK, stat.size - first)
        name = self._names.get((key, number))
        if name is None:
            text = f"{stat.identity} {stat.size} {number}"
            name = self._names[key, number] = hashlib.sha256(text.encode()).hexdigest()[:40]
        return self.blocks.read(name, start, nbytes, lambda: self.remote.fetch(key, first, fetched, stat.size))

    def _stat(self, key: str) -> Stat:
        """Size and identity of a file, from the list or from the server, asked once a process."""
        if self._pid != os.getpid():
            self._forget()
        found = self._stats.get(key)
        if found is None:
            found = self._stats[key] = self._listed(key) if self.listed else self._asked(key)
        return found

    def _listed(self, key: str) -> Stat:
        entry = self.listed.files.get(key) if self.listed else None
        if entry is None:
            raise self._missing(key)
        return Stat(entry.size, entry.sha256)

    def _asked(self, key: str) -> Stat:
        found = self.remote.stat(key)
        if found is None:
            raise self._missing(key)
        version = found.identity or secrets.token_hex(8)  # without any, no block outlives this process
        return Stat(found.size, f"{self.path(key).secret_url.partition('?')[0]} {version}")

    def _missing(self, key: str) -> StoreNotFoundError:
        return StoreNotFoundError(f"{self.path(key)}: missing; the store is incomplete or damaged")
