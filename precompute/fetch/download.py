"""One file from the web, whole or not at all: resumed where it broke off, checked before it gets its name.

A download grows in ``NAME.part`` beside ``NAME.part.json``, which names the version it is a part of (ETag or date, and
the length). A broken connection is taken up again with an HTTP Range request; a server that does not know ranges, or
has another version by now, is asked for everything. ``NAME`` appears when length and checksum are right.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from filelock import FileLock

from kdcli.progress import progress
from precompute.errors import PrecomputeError

CHUNK: Final = 1 << 20
TIMEOUT: Final = 30.0
ATTEMPTS: Final = 6
"""Attempts in a row that bring nothing before it is given up."""
PAUSE: Final = 1.0
"""Seconds before the second attempt; they double with each further one."""
MEGABYTE: Final = 1_000_000
DISK: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
"""What no further attempt mends."""


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """What is known of a file before it is there.

    Args:
        url: Its address.
        size: Bytes; None where not known.
        digest: Algorithm and the hexadecimal digest or its beginning, e.g. ``("sha256", "81c58e40")``.
    """

    url: str
    size: int | None = None
    digest: tuple[str, str] | None = None

    @property
    def name(self) -> str:
        """Last part of the address."""
        return self.url.rsplit("/", 1)[-1]


class DownloadError(PrecomputeError):
    """A file that could not be had; the message says which, why, and what to do."""


class _BrokenError(Exception):
    """A connection ended early; worth another attempt."""


def download(remote: RemoteFile, path: Path) -> Path:
    """Have the file at ``path``: nothing is done if a right one is there.

    Only one process at a time downloads a file; others wait and find it. A failure leaves the part that came
    in the folder, which is made where it is needed, and nothing else.

    Raises:
        DownloadError: If the server cannot be reached or does not have it, or if what came is not that file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(path.name + ".lock")
    with FileLock(lock):
        try:
            if not path.exists():
                _fetch(remote, path)
            else:
                _refuse_wrong(remote, path, path)
        finally:
            lock.unlink(missing_ok=True)  # while it is held: who waits opens it anew
    return path


def bytes_to_come(remote: RemoteFile, path: Path) -> int | None:
    """Bytes that `download` would still write, None where the size is not known."""
    if path.exists():
        return 0
    part = _part(path)
    there = part.stat().st_size if part.exists() else 0
    return None if remote.size is None else max(0, remote.size - there)


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _fetch(remote: RemoteFile, path: Path) -> None:
    part = _part(path)
    begun = part.stat().st_size // MEGABYTE if part.exists() else 0
    with progress(f"download {remote.name}", "MB", begun) as tell:
        _attempts(remote, part, tell)
    _refuse_wrong(remote, part, path)
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(path)
    _note_of(part).unlink(missing_ok=True)


def _attempts(remote: RemoteFile, part: Path, tell: Callable[[int, int], None]) -> None:
    """Ask until everything is there; give up after a number of attempts in a row without a new byte."""
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _request(remote, part, tell)
            return
        except urllib.error.HTTPError as error:
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                _note_of(part).unlink(missing_ok=True)  # our part is of no use to this server: start anew
            elif error.code < 500 and error.code not in (408, 429):
                raise DownloadError(f"{remote.url}: the server says {error.code} {error.reason}") from error
            reason: Exception = error
        except (OSError, http.client.HTTPException, _BrokenError) as error:  # URLError is an OSError
            if getattr(error, "errno", None) in DISK:
                raise DownloadError(_stopped(f"{part}: {error}", part)) from error
            reason = error
        grown = part.exists() and part.stat().st_size > before
        failures = 0 if grown else failures + 1
        if failures >= (ATTEMPTS if part.exists() else ATTEMPTS // 2):
            why = getattr(reason, "reason", None) or reason
            raise DownloadError(_stopped(f"cannot download {remote.url}: {why}", part))
        time.sleep(PAUSE * 2 ** min(failures, 5))


def _stopped(why: str, part: Path) -> str:
    if not part.exists():
        return why
    return f"{why}; {part.stat().st_size / MEGABYTE:.0f} MB of it are here and the same command goes on from there"


def _request(remote: RemoteFile, part: Path, tell: Callable[[int, int], None]) -> None:
    """One request for what is missing.

    Raises:
        _BrokenError: If the connection ended before everything came.
    """
    note = _read_note(part)
    there = part.stat().st_size if part.exists() and note else 0
    if there and there == note.get("total"):
        return
    headers = {"User-Agent": "pose-teacher-cache", "Accept-Encoding": "identity"}
    if there:
        headers |= {"Range": f"bytes={there}-", "If-Range": note["version"]}
    request = urllib.request.Request(remote.url, headers=headers)  # the addresses are ours
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        start, total = _range_of(response, there, remote)
        version = _version(response)
        if start and version and version != note["version"]:
            _note_of(part).unlink()
            raise _BrokenError("the server has another file by now than the one that was begun")
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            _note_of(part).write_text(json.dumps({"version": version, "total": total}))  # of what the part holds now
            done = start
            while chunk := response.read(CHUNK):
                file.write(chunk)
                done += len(chunk)
                tell(done // MEGABYTE, total // MEGABYTE)
    if total and done < total:
        raise _BrokenError(f"the connection broke after {done} of {total} bytes")


def _range_of(response: Any, asked: int, remote: RemoteFile) -> tuple[int, int]:
    """First byte that comes, and bytes of the whole file (0 where the server does not say)."""
    length = int(response.headers.get("Content-Length") or 0)
    if response.status != http.client.PARTIAL_CONTENT:
        return 0, length
    span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    first = span.partition("-")[0]
    if not first.isdigit() or int(first) != asked:
        raise DownloadError(f"{remote.url}: asked for the bytes from {asked} on, the server sent {span or 'no range'}")
    return asked, int(total) if total.isdigit() else asked + length


def _note_of(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_note(part: Path) -> dict[str, Any]:
    """What version of the file the part belongs to; empty where that is not known, and the part is worthless then."""
    try:
        note: dict[str, Any] = json.loads(_note_of(part).read_text())
    except (OSError, ValueError):
        return {}
    return note if note.get("version") else {}


def _version(response: Any) -> str | None:
    """By what the server tells one version of the file from another: what If-Range takes."""
    tag: str = response.headers.get("ETag") or ""
    weak = tag.startswith("W/") or not tag
    found: str | None = response.headers.get("Last-Modified") if weak else tag
    return found


def _refuse_wrong(remote: RemoteFile, found: Path, path: Path) -> None:
    """Raise `DownloadError` unless a file has the size and digest that are known; a wrong download is deleted."""
    wrong = _what_is_wrong(remote, found)
    if not wrong:
        return
    if found != path:
        found.unlink()
        _note_of(found).unlink(missing_ok=True)
        raise DownloadError(f"what came from {remote.url} is not that file and was deleted: {wrong}; try again")
    raise DownloadError(f"{path} is not the file of {remote.url}: {wrong}; delete it, and it is downloaded again")


def _what_is_wrong(remote: RemoteFile, path: Path) -> str:
    size = path.stat().st_size
    if remote.size is not None and size != remote.size:
        return f"it has {size} bytes instead of {remote.size}"
    if remote.digest is None:
        return ""
    algorithm, wanted = remote.digest
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    return "" if found.startswith(wanted) else f"its {algorithm} is {found[: len(wanted)]} instead of {wanted}"
