"""Reading the files of a store that is a ZIP archive: its members are stored uncompressed and read by range.

The archive may be a local or a remote file. Python's zipfile reads the archive's directory. All names and sizes in it
are checked before use, and members must not overlap.
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
    """The members of a ZIP file as `cache.files.local.ReadableFiles`; `archive` has that file under the empty key."""

    def __init__(self, archive: ReadableFiles) -> None:
        self.archive = archive
        self._members = _members(archive)
        self._starts: dict[str, int] = {}

    @property
    def root(self) -> Place:
        """The path or URL of the archive."""
        return self.archive.root

    def path(self, key: str) -> Place:
        """The path or URL of member `key`, as if the archive were a folder."""
        return self.archive.root / key if key else self.archive.root

    def size(self, key: str) -> int:
        """The size of member `key` in bytes."""
        return self._member(key)[1]

    def read(self, key: str, offset: int, nbytes: int) -> bytes:
        """Read exactly `nbytes` bytes of member `key` from `offset`; `StoreFormatError` if it is shorter."""
        start, size = self._member(key)
        if offset < 0 or nbytes < 0 or offset + nbytes > size:
            raise StoreFormatError(
                f"{self.path(key)}: truncated: {nbytes} bytes expected at {offset}, the file has {size}"
            )
        return self.archive.read("", start + offset, nbytes)

    def listing(self) -> Iterator[tuple[str, bool]]:
        """(key, True) of every member."""
        return ((key, True) for key in self._members)

    def source(self) -> AbstractContextManager[Path | BinaryIO]:
        """The archive, for a library that needs a path or an open file."""
        return self.archive.source()

    def close(self) -> None:
        """Close the archive; a later read opens it again."""
        self.archive.close()

    def _member(self, key: str) -> tuple[int, int]:
        """(offset in the archive, size) of a member's bytes."""
        member = self._members.get(key)
        if member is None:
            raise StoreNotFoundError(
                f"{self.path(key)}: not in the archive, which is incomplete or not an archive of a store"
            )
        header, size, end = member
        if key in self._starts:
            return self._starts[key], size
        signature, name, extra = _HEADER.unpack(self.archive.read("", header, _HEADER.size))
        start = header + _HEADER.size + name + extra
        found = self.archive.read("", header + _HEADER.size, name)
        if signature != SIGNATURE or found != key.encode() or start + size > end:
            raise StoreFormatError(f"{self.path(key)}: the header of the member does not match the archive's directory")
        self._starts[key] = start
        return start, size


def _members(archive: ReadableFiles) -> dict[str, tuple[int, int, int]]:
    """Key -> (offset of its header, its size, offset of the next member), all in bytes."""
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
    """Why a member is not allowed in an archive of a store; None if it is allowed."""
    name, mode = info.filename.removesuffix("/"), info.external_attr >> 16
    if not _NAME.fullmatch(name) or any(part in (".", "..") for part in name.split("/")):
        return "has a name that is not allowed in a store"
    if info.filename in members or len(members) >= MAX_MEMBERS:
        return "occurs twice" if info.filename in members else f"is one of more than {MAX_MEMBERS}"
    if info.flag_bits & 1 or info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        return "is compressed or encrypted; pack it with `python -m cache pack`, or with `zip -0`"
    if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) and stat.S_IFMT(mode):
        return "is a link or a device"
    if info.header_offset < 0 or info.header_offset + _HEADER.size + info.file_size > end:
        return "overlaps another member"
    return None
