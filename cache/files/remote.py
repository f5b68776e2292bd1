"""Reading the files of a remote store in blocks, which are fetched once and kept on this machine."""

import hashlib
import secrets
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import BinaryIO, ClassVar, cast

from cache.errors import StoreFormatError, StoreNotFoundError
from cache.files.block_cache import BlockFolder
from cache.files.client import Remote, Stat
from cache.files.listing import FileList
from cache.files.local import RangeFile
from cache.files.location import Location
from cache.files.per_process import PerProcess

BLOCK = 1 << 20  # bytes: 50 to 100 records of one view; transferring them takes little longer than an empty request
_PREFETCHED_AT_ONCE = 16
REPOSITORY_FILES = (".gitattributes", "README.md")


class RemoteFiles(PerProcess):
    """The files of a remote store, as `cache.files.local.ReadableFiles`.

    `listed` has the sizes and digests of all files if they are known; otherwise sizes are requested from the server.
    """

    _constants: ClassVar = ("remote", "blocks", "listed")

    def __init__(self, remote: Remote, blocks: BlockFolder, listed: FileList | None = None) -> None:
        self.remote, self.blocks, self.listed = remote, blocks, listed
        self._start()

    def _reset(self) -> None:
        self._stats: dict[str, Stat] = {}
        self._names: dict[tuple[str, int], str] = {}  # (key, number of the block) -> name of the block

    @property
    def root(self) -> Location:
        """The URL of the store."""
        return self.remote.root

    def path(self, key: str) -> Location:
        """The URL of file `key`."""
        return self.root / key

    def size(self, key: str) -> int:
        """The size of file `key` in bytes."""
        return self._stat(key).size

    def read(self, key: str, offset: int, nbytes: int) -> bytes:
        """Read exactly `nbytes` bytes of file `key` from `offset`, through kept blocks unless the limit is 0."""
        stat = self._stat(key)
        if offset < 0 or nbytes < 0 or offset + nbytes > stat.size:
            raise StoreFormatError(
                f"{self.path(key)}: truncated: {nbytes} bytes expected at {offset}, the file has {stat.size}"
            )
        if not self.blocks.limit:
            return self.remote.fetch(key, offset, nbytes, stat.size)
        parts, position, end = [], offset, offset + nbytes
        while position < end:
            number, start = divmod(position, BLOCK)
            parts.append(self._block(key, stat, number, start, min(BLOCK - start, end - position)))
            position += len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def listing(self) -> Iterator[tuple[str, bool]]:
        """(key, True) of every file below the root; empty over HTTP, which cannot list files.

        Two files that every repository of the Hugging Face Hub has at its root are left out.
        """
        repository_files = REPOSITORY_FILES if self.root.scheme == "hf" else ()
        return ((key, True) for key in self.remote.listing() if key and key not in repository_files)

    def close(self) -> None:
        """Do nothing: blocks are open only while they are read."""

    @contextmanager
    def source(self) -> Iterator[BinaryIO]:
        """A store that is one file, as an open file."""
        file = RangeFile(self, "")
        try:
            yield cast("BinaryIO", file)
        except Exception as error:
            raise file.failure or error from None

    def prefetch(self, keys: Iterable[str]) -> None:
        """Fetch small files in parallel, for the reads that follow."""
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
        """Size and identity of a file, from the list or, once per process, from the server."""
        self._renew_after_fork()
        found = self._stats.get(key)
        if found is None:
            found = self._stats[key] = self._listed_stat(key) if self.listed else self._query_stat(key)
        return found

    def _listed_stat(self, key: str) -> Stat:
        entry = self.listed.files.get(key) if self.listed else None
        if entry is None:
            raise self._missing_error(key)
        return Stat(entry.size, entry.sha256)

    def _query_stat(self, key: str) -> Stat:
        found = self.remote.stat(key)
        if found is None:
            raise self._missing_error(key)
        # Without an identity, other processes cannot use the blocks.
        version = found.identity or secrets.token_hex(8)
        return Stat(found.size, f"{self.path(key).secret_url.partition('?')[0]} {version}")

    def _missing_error(self, key: str) -> StoreNotFoundError:
        return StoreNotFoundError(f"{self.path(key)}: missing; the store is incomplete or damaged")
