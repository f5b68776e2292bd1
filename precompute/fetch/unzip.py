"""Unpacks one folder of a zip archive, completely or not at all; checks CRCs, writes nothing outside the target."""

import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Final

from kdcli import system
from kdcli.progress import show_progress
from precompute.errors import PrecomputeError
from precompute.fetch.download import CHUNK, MEGABYTE

DAMAGE: Final = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""Exceptions of zipfile for archives that are truncated, damaged, encrypted, or use an unknown compression."""


class ArchiveError(PrecomputeError):
    """A zip archive is damaged, or not the expected one."""


def unzip(
    archive: Path,
    inside: str,
    target: Path,
    wanted: Callable[[str], bool] = lambda name: True,
    count: int | None = None,
) -> list[Path]:
    """Unpack the files of one folder of an archive.

    After an interruption, files in ``TARGET.partial`` with the right CRC are not unpacked again.

    Args:
        archive: Zip file.
        inside: Folder in the archive, e.g. ``val2017``. Its files are unpacked, but not those of its subfolders.
        target: Folder to create; it appears when it is complete. If it exists already, files are moved into it.
        wanted: Selects the file names to unpack.
        count: Expected number of files, if known.

    Returns:
        The unpacked files, in the order of the archive.

    Raises:
        ArchiveError: If the archive is damaged, contains paths outside its folder, or lacks the expected files.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [m for m in _members(opened, inside, archive) if wanted(PurePosixPath(m.filename).name)]
            if not members or len(members) != (count or len(members)):
                raise ArchiveError(
                    f"{archive} has {len(members)} files in {inside}/, expected {count or 'at least one'}"
                )
            partial = target.with_name(target.name + ".partial")
            partial.mkdir(parents=True, exist_ok=True)
            names = _extract(opened, members, partial, archive)
    except DAMAGE as error:
        raise ArchiveError(f"{archive} is damaged ({error}); delete it to download it again") from error
    return _publish(partial, target, names)


def unpacked_size(archive: Path, inside: str, wanted: Callable[[str], bool] = lambda name: True) -> int:
    """Bytes of the files that `unzip` would unpack; raises ArchiveError if the archive is damaged."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(opened, inside, archive)
            return sum(m.file_size for m in members if wanted(PurePosixPath(m.filename).name))
    except DAMAGE as error:
        raise ArchiveError(f"{archive} is damaged ({error}); delete it to download it again") from error


def _members(opened: zipfile.ZipFile, inside: str, archive: Path) -> list[zipfile.ZipInfo]:
    """Regular files directly in a folder of the archive. All names of the archive are checked first."""
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
            raise ArchiveError(
                f"{archive} is refused: it contains {member.filename!r}, which points outside its folder"
            )
        if not member.is_dir() and path.parent == PurePosixPath(inside):
            found.append(member)
    return found


def _extract(opened: zipfile.ZipFile, members: list[zipfile.ZipInfo], folder: Path, archive: Path) -> list[str]:
    total, done = sum(m.file_size for m in members), 0
    names = []
    with show_progress(f"unzip {archive.name}", "MB") as progress:
        for member in members:
            name = PurePosixPath(member.filename).name
            if not _is_unpacked(folder / name, member):
                _write(opened, member, folder / name)
            names.append(name)
            done += member.file_size
            progress(done // MEGABYTE, total // MEGABYTE)
    return names


def _write(opened: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    with opened.open(member) as source, path.open("wb") as file:
        while chunk := source.read(CHUNK):  # at the end, zipfile checks the CRC and raises BadZipFile
            file.write(chunk)


def _is_unpacked(path: Path, member: zipfile.ZipInfo) -> bool:
    if not path.is_file() or path.stat().st_size != member.file_size:
        return False
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc == member.CRC


def _publish(partial: Path, target: Path, names: list[str]) -> list[Path]:
    """Rename the folder to its target, or move its files into a target that exists."""
    if target.exists():
        for name in names:
            system.replace(partial / name, target / name)
        partial.rmdir()
    else:
        system.replace(partial, target)
    return [target / name for name in names]
