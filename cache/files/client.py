"""Requests to servers and object stores through fsspec: sizes, ranges, uploads. Each request is tried up to 4 times.

Each process makes its own connection, no message contains a credential, and a server that ignores range requests is
detected.
"""

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

from cache.errors import StoreError, StoreFormatError, StoreNotFoundError
from cache.files.location import Location, redact
from cache.files.per_process import PerProcess

ATTEMPTS = 4
FIRST_PAUSE = 0.25  # seconds before the second attempt; doubled before each further attempt
_CONNECT_SECONDS, _READ_SECONDS = 30, 60  # a request fails if the server does not answer, or stops sending, for so long
_EXTRA = "pip install -e '.[share]'"
Result = TypeVar("Result")


class Stat(NamedTuple):
    """What a server reports about a file."""

    size: int  # bytes
    identity: str  # changes if the content does: an entity tag, a digest or a time


class Remote(PerProcess):
    """The files at and below `root`."""

    _constants: ClassVar = ("root",)

    def __init__(self, root: Location) -> None:
        self.root = root
        self._start()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._filesystem: Any = None

    def stat(self, key: str) -> Stat | None:
        """Size and identity of a file; None if it does not exist."""
        try:
            found = self._retry(key, "be found", _file_info)
        except StoreNotFoundError:
            return None
        names = ("ETag", "etag", "lfs", "blob_id", "Content-MD5", "LastModified", "Last-Modified")
        return Stat(int(found["size"]), "".join(f"{name}={found[name]};" for name in names if found.get(name)))

    def fetch(self, key: str, start: int, nbytes: int, size: int) -> bytes:
        """Read exactly `nbytes` bytes from `start` of a file of `size` bytes.

        Raises:
            StoreNotFoundError: The file does not exist.
            StoreError: Access is refused, or all attempts failed; the message names URL, range and last reason.
        """

        def once(fs: Any, path: str) -> bytes:
            with fs.open(path, "rb", block_size=max(1, nbytes), cache_type="none", size=size) as file:
                file.seek(start)
                data = bytes(file.read(nbytes))
            if len(data) != nbytes:
                raise OSError(f"{len(data)} bytes received")
            return data

        return self._retry(key, f"be read, bytes {start} to {start + nbytes}", once) if nbytes else b""

    def read_whole(self, key: str, limit: int) -> bytes | None:
        """Read a whole file of at most `limit` bytes from the server; None if it does not exist."""
        found = self.stat(key)
        if found is None:
            return None
        if found.size > limit:
            raise StoreFormatError(f"{self.root / key}: {found.size} bytes, more than the limit of {limit}")
        return self.fetch(key, 0, found.size, found.size)

    def read_optional(self, key: str, limit: int) -> bytes | None:
        """As `read_whole`, but None after any error: some servers refuse access to a file that does not exist."""
        try:
            return self.read_whole(key, limit)
        except StoreError:
            return None

    def listing(self) -> dict[str, int]:
        """Key -> size in bytes of the files at and below the root; empty over HTTP, which cannot list files."""
        if self.root.scheme in ("http", "https"):
            return {}

        def once(fs: Any, path: str) -> dict[str, int]:
            base = fs._strip_protocol(path).rstrip("/")
            found = fs.find(path, detail=True).items()
            return {name[len(base) + 1 :]: info["size"] for name, info in found if (name + "/").startswith(base + "/")}

        return self._retry("", "be listed", once)

    def links(self) -> list[str]:
        """The URLs that the web server's page of this folder links to."""

        def once(fs: Any, path: str) -> list[str]:
            base, mark, query = path.partition("?")
            return [str(link) for link in fs.ls(f"{base}/{mark}{query}", detail=False)]

        return self._retry("", "be listed", once)

    def put(self, key: str, content: Path | bytes) -> None:
        """Upload a file; it appears only when it is complete."""

        def once(fs: Any, path: str) -> None:
            if isinstance(content, Path):
                fs.put_file(str(content), path)
            else:
                fs.pipe_file(path, content)

        self._retry(key, "be written", once)

    def delete(self, key: str) -> None:
        """Delete an existing file."""
        self._retry(key, "be deleted", lambda fs, path: fs.rm_file(path))

    def resolve(self) -> Any:
        """The root as a path in a repository of the Hugging Face Hub: `repo_id`, `repo_type`, `path_in_repo` ..."""
        try:
            return self._retry("", "be found", lambda fs, path: fs.resolve_path(path))
        except StoreNotFoundError as error:
            raise StoreNotFoundError(f"{self.root}: no such repository; create it first, or check the name") from error

    def commit(self, folder: Any, operations: list[Any], message: str) -> None:
        """Make one commit to the Hugging Face repository of `folder`, a resolved path of its filesystem."""
        self._retry(
            "",
            "be committed",
            lambda fs, path: fs._api.create_commit(
                folder.repo_id, operations, repo_type=folder.repo_type, revision=folder.revision, commit_message=message
            ),
        )

    def _retry(self, key: str, what: str, request: Callable[[Any, str], Result]) -> Result:
        """The result of `request(filesystem, url)`, which is repeated after errors that may be temporary.

        Raises:
            StoreError: The error is permanent, or all attempts failed.
        """
        place = self.root / key
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return request(self.filesystem(), place.secret_url)
            except StoreError:
                raise
            except Exception as error:
                permanent = _permanent_error(place, error)
                if permanent is not None:
                    raise permanent from None  # the cause would show the URL with its credentials
                reason = redact(f"{type(error.__cause__ or error).__name__}: {error.__cause__ or error}")
            if attempt < ATTEMPTS:
                time.sleep(FIRST_PAUSE * 2 ** (attempt - 1) * random.uniform(0.75, 1.25))
        raise StoreError(
            f"{place}: cannot {what}, tried {ATTEMPTS} times: {reason}; check the connection and try again"
        )

    def filesystem(self) -> Any:
        """The fsspec filesystem, made once per process."""
        self._renew_after_fork()
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

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS)
    return {"client_kwargs": {"timeout": timeout, "trust_env": True}}  # use proxies and ~/.netrc, as other programs do


def _file_info(fs: Any, path: str) -> dict[str, Any]:
    found = dict(fs.info(path))
    if found.get("type") != "file":
        raise FileNotFoundError(path)
    if found.get("size") is None:
        raise StoreError(f"{redact(path)}: the server does not report file sizes, which reading a store needs")
    return found


def _permanent_error(place: Location, error: BaseException) -> StoreError | None:
    """The error to raise at once, or None if another attempt may succeed."""
    cause = error.__cause__ or error
    status = getattr(cause, "status", None)  # of aiohttp; fsspec reports any error of a server as "not found"
    if isinstance(error, ImportError):
        return StoreError(f"{place}: stores on {place.scheme}:// need more libraries: {_EXTRA}")
    absent = isinstance(error, FileNotFoundError) and (cause is error or place.scheme in ("s3", "hf"))
    if absent or status in (404, 410):
        return StoreNotFoundError(f"{place}: missing; the file does not exist, or the store is incomplete")
    if status in (401, 403) or isinstance(error, PermissionError):
        return StoreError(f"{place}: access refused ({redact(cause)}); check the credentials")
    if "range requests" in str(error):
        return StoreError(
            f"{place}: the server ignores range requests and would send the whole file for every record; copy the "
            "store with `python -m cache pull`, or use a server with range requests (nginx, caddy, any object store)"
        )
    return None
