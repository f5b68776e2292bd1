"""Downloads one file completely or not at all; resumes an interrupted download and verifies the file.

A download is written to ``NAME.part``. ``NAME.part.json`` records the version of the file (ETag or date) and its
length. After a lost connection, an HTTP Range request continues the download. If the server does not support ranges,
or now has another version, the download starts again. ``NAME`` appears when length and checksum are right.
"""

import dataclasses
import errno
import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from filelock import FileLock

from kdcli import system
from kdcli.locks import WITHOUT_LOCKS
from kdcli.progress import Progress, show_progress
from precompute.errors import PrecomputeError

CHUNK: Final = 1 << 20
TIMEOUT: Final = 30.0
"""Seconds."""
ATTEMPTS: Final = 6
"""Consecutive attempts without a new byte before the download fails."""
PAUSE: Final = 1.0
"""Seconds before the second attempt; the pause doubles with each further one."""
MEGABYTE: Final = 1_000_000
DISK: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
"""Errors of the disk; another attempt would fail too."""


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """A file to download.

    Args:
        url: Its address.
        size: Bytes; None if unknown.
        digest: Algorithm, and the hexadecimal digest or its first digits, e.g. ``("sha256", "81c58e40")``.
    """

    url: str
    size: int | None = None
    digest: tuple[str, str] | None = None

    @property
    def name(self) -> str:
        """Last part of the address."""
        return self.url.rsplit("/", 1)[-1]


class DownloadError(PrecomputeError):
    """A file could not be downloaded; the message names the file, the reason and what to do."""


class _ConnectionBrokenError(Exception):
    """A connection ended early; another attempt may succeed."""


def download(remote: RemoteFile, path: Path) -> Path:
    """Download a file to ``path``, unless it is there already.

    Only one process at a time downloads a file; others wait for it. After a failure, the folder (created if necessary)
    keeps the received part and nothing else.

    Raises:
        DownloadError: If the server cannot be reached or does not have the file, or if size or digest are wrong.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(path.name + ".lock")
    with _locked(lock):
        try:
            if not path.exists():
                _fetch(remote, path)
            else:
                _verify(remote, path, path)
        finally:
            with suppress(PermissionError):  # of Windows, where an open file stays; the lock deletes it
                lock.unlink(missing_ok=True)  # deleted while it is held; waiting processes create it again
    return path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time enter the block, as far as the file system has locks."""
    lock = FileLock(path)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
    try:
        yield
    finally:
        lock.release()


def remaining_bytes(remote: RemoteFile, path: Path) -> int | None:
    """Bytes that `download` would still receive; None if the size is unknown."""
    if path.exists():
        return 0
    part = _part(path)
    received = part.stat().st_size if part.exists() else 0
    return None if remote.size is None else max(0, remote.size - received)


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _fetch(remote: RemoteFile, path: Path) -> None:
    part = _part(path)
    begun = part.stat().st_size // MEGABYTE if part.exists() else 0
    with show_progress(f"download {remote.name}", "MB", begun) as progress:
        _receive(remote, part, progress)
    _verify(remote, part, path)
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    system.replace(part, path)
    _version_file(part).unlink(missing_ok=True)


def _receive(remote: RemoteFile, part: Path, progress: Progress) -> None:
    """Send requests until the file is complete, or until `ATTEMPTS` consecutive requests deliver no new byte."""
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _request(remote, part, progress)
            return
        except urllib.error.HTTPError as error:
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                _version_file(part).unlink(missing_ok=True)  # the part does not belong to this version: start again
            elif error.code < 500 and error.code not in (408, 429):
                raise DownloadError(f"{remote.url}: the server answered {error.code} {error.reason}") from error
            reason: Exception = error
        except (OSError, http.client.HTTPException, _ConnectionBrokenError) as error:  # URLError is an OSError
            if getattr(error, "errno", None) in DISK:
                raise DownloadError(_with_progress(f"{part}: {error}", part)) from error
            reason = error
        grown = part.exists() and part.stat().st_size > before
        failures = 0 if grown else failures + 1
        if failures >= (ATTEMPTS if part.exists() else ATTEMPTS // 2):
            cause = getattr(reason, "reason", None) or reason
            raise DownloadError(_with_progress(f"cannot download {remote.url}: {cause}", part))
        time.sleep(PAUSE * 2 ** min(failures, 5))


def _with_progress(reason: str, part: Path) -> str:
    if not part.exists():
        return reason
    received = part.stat().st_size / MEGABYTE
    return f"{reason}; {received:.0f} MB were received, run the same command again to continue from there"


def _request(remote: RemoteFile, part: Path, progress: Progress) -> None:
    """Request the missing bytes.

    Raises:
        _ConnectionBrokenError: If the connection ended before the file was complete.
    """
    known = _read_version(part)
    received = part.stat().st_size if part.exists() and known else 0
    if received and received == known.get("total"):
        return
    headers = {"User-Agent": "pose-teacher-cache", "Accept-Encoding": "identity"}
    if received:
        headers |= {"Range": f"bytes={received}-", "If-Range": known["version"]}
    request = urllib.request.Request(remote.url, headers=headers)  # addresses come from this project's code or --site
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        start, total = _range_of(response, received, remote)
        version = _version(response)
        if start and version and version != known["version"]:
            _version_file(part).unlink()
            raise _ConnectionBrokenError("the file on the server has changed since the download began")
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            described = json.dumps({"version": version, "total": total})  # the part as it is now
            _version_file(part).write_text(described, encoding="utf-8")
            done = start
            while chunk := response.read(CHUNK):
                file.write(chunk)
                done += len(chunk)
                progress(done // MEGABYTE, total // MEGABYTE)
    if total and done < total:
        raise _ConnectionBrokenError(f"the connection was lost after {done} of {total} bytes")


def _range_of(response: http.client.HTTPResponse, requested: int, remote: RemoteFile) -> tuple[int, int]:
    """First byte of the response, and bytes of the whole file (0 if the server does not state it)."""
    length = int(response.headers.get("Content-Length") or 0)
    if response.status != http.client.PARTIAL_CONTENT:
        return 0, length
    span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    first = span.partition("-")[0]
    if not first.isdigit() or int(first) != requested:
        raise DownloadError(
            f"{remote.url}: bytes from {requested} were requested, the server sent {span or 'no range'}"
        )
    return requested, int(total) if total.isdigit() else requested + length


def _version_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_version(part: Path) -> dict[str, Any]:
    """Read version and size of the part's file. If they are unknown, return {}: the part is then not used."""
    try:
        known: dict[str, Any] = json.loads(_version_file(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if known.get("version") else {}


def _version(response: http.client.HTTPResponse) -> str | None:
    """The server's identifier of this version of the file, as If-Range takes it: ETag or date."""
    tag: str = response.headers.get("ETag") or ""
    weak = tag.startswith("W/") or not tag
    found: str | None = response.headers.get("Last-Modified") if weak else tag
    return found


def _verify(remote: RemoteFile, found: Path, path: Path) -> None:
    """Raise `DownloadError` unless a file has the known size and digest. A wrong download is deleted."""
    wrong = _mismatch(remote, found)
    if not wrong:
        return
    if found != path:
        found.unlink()
        _version_file(found).unlink(missing_ok=True)
        raise DownloadError(
            f"the download from {remote.url} is not the expected file and was deleted: {wrong}; try again"
        )
    raise DownloadError(f"{path} is not the file of {remote.url}: {wrong}; delete it to download it again")


def _mismatch(remote: RemoteFile, path: Path) -> str:
    size = path.stat().st_size
    if remote.size is not None and size != remote.size:
        return f"it has {size} bytes instead of {remote.size}"
    if remote.digest is None:
        return ""
    algorithm, wanted = remote.digest
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    return "" if found.startswith(wanted) else f"its {algorithm} is {found[: len(wanted)]} instead of {wanted}"
