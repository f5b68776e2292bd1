"""The files of a store inside an archive: a ZIP file whose members are stored, not compressed, read by range.

The archive may be a file of this machine or a remote one. zipfile reads its directory, which is checked before any of
it is believed: names, sizes, and that no member overlaps another.
"""

import re
import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from cache.errors import StoreError, StoreFormatError, StoreNotFoundError
from cache.files.local import RangeFile, ReadableFiles
from cache.files.location import Place

SIGNATURE = b"PK\x03\x04"
MAX_MEMBERS = 1 << 17
_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of the name and of the extra field
_NAME = re.compile(r"[A-Za-z0-9_.]+(/[A-Za-z0-9_.]+)*")


class ZipFiles:
    """See `cache.files.local.ReadableFiles`; `archive` holds the ZIP file under the empty key."""

    def __init__(self, archive: ReadableFiles) -> None:
        self.archive = archive
        self._members = _members(archive)
        self._starts: dict[str, int] = {}

    @property
    def root(self) -> Place:
        """See `ReadableFiles.root`."""
        return self.archive.root

    def path(self, key: str) -> Place:
        """See `ReadableFiles.path`."""
        return self.archive.root / key if key else self.archive.root

    def size(self, key: str) -> int:
        """See `ReadableFiles.size`."""
        return self._member(key)[1]

    def read(self, key: str, offset: int, nbytes: int) -> bytes:
        """See `ReadableFiles.read`."""
        start, size = self._member(key)
        if offset < 0 or nbytes < 0 or offset + nbytes > size:
            raise StoreFormatError(
                f"{self.path(key)}: truncated: {nbytes} bytes wanted at {offset}, the file has {size}"
            )
        return self.archive.read("", start + offset, nbytes)

    def read_all(self, key: str, limit: int) -> bytes:
        """See `ReadableFiles.read_all`."""
        size = self.size(key)
        if size > limit:
            raise StoreFormatError(f"{self.path(key)}: {size} bytes, more than the {limit} that make sense")
        return self.read(key, 0, size)

    def listing(self) -> Iterator[tuple[str, bool]]:
        """See `ReadableFiles.listing`."""
        return ((key, True) for key in self._members)

    def source(self) -> AbstractContextManager[Path | BinaryIO]:
        """See `ReadableFiles.source`."""
        return self.archive.source()

    def _member(self, key: str) -> tuple[int, int]:
        """Where a member's bytes begin in the archive, and how many there are."""
        member = self._members.get(key)
        if member is None:
            raise StoreNotFoundError(f"{self.path(key)}: not in the archive; it is incomplete or no archive of a store")
        header, size, end = member
        if key in self._starts:
            return self._starts[key], size
        signature, name, extra = _HEADER.unpack(self.archive.read("", header, _HEADER.size))
        start = header + _HEADER.size + name + extra
        found = self.archive.read("", header + _HEADER.size, name)
        if signature != SIGNATURE or found != key.encode() or start + size > end:
            raise StoreFormatError(f"{self.path(key)}: the archive's directory and the member's header disagree")
        self._starts[key] = start
        return start, size


def _members(archive: ReadableFiles) -> dict[str, tuple[int, int, int]]:
    """Key -> where its header begins, its size, and where the next member begins."""
    file = RangeFile(archive, "")
    try:
        with zipfile.ZipFile(file) as opened:
            infos, directory = sorted(opened.infolist(), key=lambda info: info.header_offset), opened.start_dir
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error, StoreError) as error:
        raise (file.failure or StoreFormatError(f"{archive.root}: a damaged ZIP archive: {error}")) from None
    members: dict[str, tuple[int, int, int]] = {}
    ends = [*(info.header_offset for info in infos[1:]), directory]
    for info, end in zip(infos, ends, strict=True):
        problem = _problem(info, end, members)
        if problem:
            raise StoreFormatError(f"{archive.root}: member {info.filename!r:.80} {problem}")
        if not info.is_dir():
            members[info.filename] = info.header_offset, info.file_size, end
    return members


def _problem(info: zipfile.ZipInfo, end: int, members: dict[str, tuple[int, int, int]]) -> str | None:
    """Why a member cannot be part of a store."""
    name, mode = info.filename.removesuffix("/"), info.external_attr >> 16
    if not _NAME.fullmatch(name) or any(part in (".", "..") for part in name.split("/")):
        return "has a name that no file of a store has"
    if info.filename in members or len(members) >= MAX_MEMBERS:
        return "is there twice" if info.filename in members else "is one of too many"
    if info.flag_bits & 1 or info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        return "is compressed or encrypted; pack it with `python -m cache pack`, or with `zip -0`"
    if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) and stat.S_IFMT(mode):
        return "is a link or a device"
    if info.header_offset < 0 or info.header_offset + _HEADER.size + info.file_size > end:
        return "overlaps another member"
    return None
