"""Requests to where a store is: sizes, ranges, uploads, through fsspec; each is tried a few times before it fails.

No handle is carried over a fork, no message names a credential, and a server that ignores ranges is noticed.
"""

import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from cache.errors import StoreError, StoreFormatError, StoreNotFoundError
from cache.files.location import Location, redact

ATTEMPTS = 4
FIRST_PAUSE = 0.25  # seconds before the second attempt; twice as long before each further one
_CONNECT, _SILENCE = 30, 60  # seconds until a server that does not answer, or falls silent, counts as failed
_EXTRA = "pip install -e '.[share]'"
Result = TypeVar("Result")


class Stat(NamedTuple):
    """A file as its server describes it."""

    size: int
    identity: str  # changes when the content does: an entity tag, a digest, a time


class Remote:
    """The files at and below `root`."""

    def __init__(self, root: Location) -> None:
        self.root = root
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._filesystem: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["root"])  # type: ignore[misc]

    def stat(self, key: str) -> Stat | None:
        """Size and identity of a file; None: there is none."""
        try:
            found = self._try(key, "be found", _file_info)
        except StoreNotFoundError:
            return None
        names = ("ETag", "etag", "lfs", "blob_id", "Content-MD5", "LastModified", "Last-Modified")
        return Stat(int(found["size"]), "".join(f"{name}={found[name]};" for name in names if found.get(name)))

    def fetch(self, key: str, start: int, nbytes: int, size: int) -> bytes:
        """Exactly `nbytes` bytes from `start` of a file of `size` bytes.

        Raises:
            StoreNotFoundError: no such file.
            StoreError: not allowed, or all attempts failed; the message names URL, file, range and the last reason.
        """

        def once(fs: Any, path: str) -> bytes:
            with fs.open(path, "rb", block_size=max(1, nbytes), cache_type="none", size=size) as file:
                file.seek(start)
                data = bytes(file.read(nbytes))
            if len(data) != nbytes:
                raise OSError(f"{len(data)} bytes came")
            return data

        return self._try(key, f"be read, bytes {start} to {start + nbytes}", once) if nbytes else b""

    def read_whole(self, key: str, limit: int) -> bytes | None:
        """A whole small file, fresh from the server; None: there is none."""
        found = self.stat(key)
        if found is None:
            return None
        if found.size > limit:
            raise StoreFormatError(f"{self.root / key}: {found.size} bytes, more than the {limit} that make sense")
        return self.fetch(key, 0, found.size, found.size)

    def read_optional(self, key: str, limit: int) -> bytes | None:
        """As `read_whole`; None also where it cannot be had: some servers refuse what is missing."""
        try:
            return self.read_whole(key, limit)
        except StoreError:
            return None

    def listing(self) -> dict[str, int]:
        """Key -> size of what is at and below the root; nothing where the server cannot list (HTTP)."""
        if self.root.scheme in ("http", "https"):
            return {}

        def once(fs: Any, path: str) -> dict[str, int]:
            base = fs._strip_protocol(path).rstrip("/")
            found = fs.find(path, detail=True).items()
            return {name[len(base) + 1 :]: info["size"] for name, info in found if (name + "/").startswith(base + "/")}

        return self._try("", "be listed", once)

    def put(self, key: str, content: Path | bytes) -> None:
        """Upload a file, which appears whole."""

        def once(fs: Any, path: str) -> None:
            if isinstance(content, Path):
                fs.put_file(str(content), path)
            else:
                fs.pipe_file(path, content)

        self._try(key, "be written", once)

    def delete(self, key: str) -> None:
        """Delete a file that is there."""
        self._try(key, "be deleted", lambda fs, path: fs.rm_file(path))

    def commit(self, folder: Any, operations: list[Any], message: str) -> None:
        """One commit to the Hub's repository of `folder`, a resolved path."""
        self._try(
            "",
            "be committed",
            lambda fs, path: fs._api.create_commit(
                folder.repo_id, operations, repo_type=folder.repo_type, revision=folder.revision, commit_message=message
            ),
        )

    def _try(self, key: str, what: str, request: Callable[[Any, str], Result]) -> Result:
        """The result of `request`, which is repeated while it fails for a reason that may pass."""
        place = self.root / key
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return request(self.filesystem(), place.secret_url)
            except StoreError:
                raise
            except Exception as error:
                refused = _final(place, error)
                if refused is not None:
                    raise refused from None  # the cause would show the URL with its credentials
                reason = redact(f"{type(error.__cause__ or error).__name__}: {error.__cause__ or error}")
            if attempt < ATTEMPTS:
                time.sleep(FIRST_PAUSE * 2 ** (attempt - 1) * random.uniform(0.75, 1.25))
        raise StoreError(f"{place}: cannot {what}, tried {ATTEMPTS} times: {reason}; check the connection, try again")

    def filesystem(self) -> Any:
        """The fsspec filesystem, made once a process."""
        if self._pid != os.getpid():
            self._forget()
        with self._lock:
            if self._filesystem is None:
                self._filesystem = _connect(self.root)
            return self._filesystem


def _connect(root: Location) -> Any:
    try:
        import fsspec

        return fsspec.filesystem(root.scheme, **_options(root.scheme))
    except ImportError:
        raise StoreError(f"{root}: stores on {root.scheme}:// need more libraries: {_EXTRA}") from None


def _options(scheme: str) -> dict[str, Any]:
    if scheme not in ("http", "https"):
        return {"use_listings_cache": False}
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=_SILENCE)
    return {"client_kwargs": {"timeout": timeout, "trust_env": True}}  # proxies and ~/.netrc, as other programs have it


def _file_info(fs: Any, path: str) -> dict[str, Any]:
    found = dict(fs.info(path))
    if found.get("type") != "file":
        raise FileNotFoundError(path)
    if found.get("size") is None:
        raise StoreError(f"{redact(path)}: the server does not tell the size of its files: it cannot serve a store")
    return found


def _final(place: Location, error: BaseException) -> StoreError | None:
    """What `error` means for good, or None: another attempt may succeed."""
    cause = error.__cause__ or error
    status = getattr(cause, "status", None)  # aiohttp's; fsspec calls any failure of a server "not found"
    if isinstance(error, ImportError):
        return StoreError(f"{place}: stores on {place.scheme}:// need more libraries: {_EXTRA}")
    absent = isinstance(error, FileNotFoundError) and (cause is error or place.scheme in ("s3", "hf"))
    if absent or status in (404, 410):
        return StoreNotFoundError(f"{place}: missing; nothing is there, or the store is not whole")
    if status in (401, 403) or isinstance(error, PermissionError):
        return StoreError(f"{place}: access is refused ({redact(cause)}); check the credentials")
    if "range requests" in str(error):
        return StoreError(
            f"{place}: the server ignores ranges and would send the whole file for every record; fetch the store with "
            "`python -m cache pull`, or serve it with a program that knows ranges (nginx, caddy, any object store)"
        )
    return None
