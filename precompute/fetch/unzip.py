"""A folder of one zip archive, whole or not at all; nothing is written outside it, and every CRC is checked."""

import os
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Final

from kdcli.progress import progress
from precompute.errors import PrecomputeError

CHUNK: Final = 1 << 20
MEGABYTE: Final = 1_000_000
DAMAGE: Final = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""What zipfile raises for archives that are cut, spoilt, encrypted, or compressed in a way it does not know."""


class ArchiveError(PrecomputeError):
    """A zip archive that is damaged, or is not what it should be."""


def unzip(
    archive: Path,
    inside: str,
    target: Path,
    wanted: Callable[[str], bool] = lambda name: True,
    count: int | None = None,
) -> list[Path]:
    """Unpack the files of one folder of an archive.

    Interrupted, it goes on: what lies in ``TARGET.partial`` with the right CRC is not unpacked again.

    Args:
        archive: Zip file.
        inside: Folder in it, e.g. ``val2017``; its files, not those of folders below, are unpacked.
        target: Folder to make; it appears when all is in it. One that exists already is filled file by file.
        wanted: Which file names to unpack.
        count: How many there must be, where that is known.

    Returns:
        The files, in the archive's order.

    Raises:
        ArchiveError: If the archive is damaged, holds names that lead elsewhere, or has not the files that it should.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [m for m in _members(opened, inside, archive) if wanted(PurePosixPath(m.filename).name)]
            if not members or len(members) != (count or len(members)):
                raise ArchiveError(f"{archive} has {len(members)} files in {inside}/, not {count or 'those wanted'}")
            beside = target.with_name(target.name + ".partial")
            beside.mkdir(parents=True, exist_ok=True)
            names = _extract(opened, members, beside, archive)
    except DAMAGE as error:
        raise ArchiveError(f"{archive} is damaged ({error}); delete it, and it is downloaded again") from error
    return _publish(beside, target, names)


def unpacked_size(archive: Path, inside: str, wanted: Callable[[str], bool] = lambda name: True) -> int:
    """Bytes of those files when unpacked; raises as `unzip`."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(opened, inside, archive)
            return sum(m.file_size for m in members if wanted(PurePosixPath(m.filename).name))
    except DAMAGE as error:
        raise ArchiveError(f"{archive} is damaged ({error}); delete it, and it is downloaded again") from error


def _members(opened: zipfile.ZipFile, inside: str, archive: Path) -> list[zipfile.ZipInfo]:
    """Plain files right in a folder of the archive, after a look at every name."""
    found = []
    for member in opened.infolist():
        path = PurePosixPath(member.filename.replace("\\", "/"))
        kind = stat.S_IFMT(member.external_attr >> 16)
        if (
            path.is_absolute()
            or ".." in path.parts
            or ":" in "".join(path.parts[:1])
            or kind not in (0, stat.S_IFREG, stat.S_IFDIR)
        ):
            raise ArchiveError(f"{archive} is refused: it holds {member.filename!r}, which leads out of its folder")
        if not member.is_dir() and path.parent == PurePosixPath(inside):
            found.append(member)
    return found


def _extract(opened: zipfile.ZipFile, members: list[zipfile.ZipInfo], folder: Path, archive: Path) -> list[str]:
    total, done = sum(m.file_size for m in members), 0
    names = []
    with progress(f"unzip {archive.name}", "MB") as tell:
        for member in members:
            name = PurePosixPath(member.filename).name
            if not _is_whole(folder / name, member):
                _write(opened, member, folder / name)
            names.append(name)
            done += member.file_size
            tell(done // MEGABYTE, total // MEGABYTE)
    return names


def _write(opened: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    with opened.open(member) as source, path.open("wb") as file:
        while chunk := source.read(CHUNK):  # zipfile compares the CRC at the end and raises BadZipFile
            file.write(chunk)


def _is_whole(path: Path, member: zipfile.ZipInfo) -> bool:
    if not path.is_file() or path.stat().st_size != member.file_size:
        return False
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc == member.CRC


def _publish(beside: Path, target: Path, names: list[str]) -> list[Path]:
    """Give the folder its name; into one that exists, the files move one by one."""
    if target.exists():
        for name in names:
            (beside / name).replace(target / name)
        beside.rmdir()
    else:
        os.replace(beside, target)
    return [target / name for name in names]
