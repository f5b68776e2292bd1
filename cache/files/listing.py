"""The list of a store's files, which `push` writes beside it: their sizes and SHA-256.

    STORE.files.json    {"format", "version", "content_sha256", "files": {key: [size, sha256]}}

With it a pulled file is checked as it comes, a remote store opens without asking for the size of each of its files,
and blocks kept on a trainer's disk are known by their content. It is a convenience: a store is whole without it.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from cache.files.local import ReadableFiles

SUFFIX = ".files.json"
FORMAT, VERSION = "pose-teacher-cache-files", 1
MAX_LIST = 1 << 26  # bytes; a store of a million instances has 200 kB
_PIECE = 1 << 23


class ListedFile(NamedTuple):
    """What is known of one file."""

    size: int
    sha256: str


class FileList(NamedTuple):
    """The files of one store, by key."""

    content_sha256: str
    files: Mapping[str, ListedFile]

    def to_bytes(self) -> bytes:
        """The document."""
        files = {key: list(entry) for key, entry in sorted(self.files.items())}
        document = {"format": FORMAT, "version": VERSION, "content_sha256": self.content_sha256, "files": files}
        return json.dumps(document, indent=1).encode()


def list_files(
    files: ReadableFiles, keys: Iterable[str], content: str, progress: Callable[[int], object] = lambda done: None
) -> FileList:
    """The list of the files `keys`, all of which are read; `progress` is called with the bytes of each."""
    found = {}
    for key in sorted(keys):
        found[key] = ListedFile(files.size(key), sha256_of(files, key))
        progress(found[key].size)
    return FileList(content, found)


def sha256_of(files: ReadableFiles, key: str) -> str:
    """The SHA-256 of a file, read in pieces."""
    digest, size = hashlib.sha256(), files.size(key)
    for start in range(0, size, _PIECE):
        digest.update(files.read(key, start, min(_PIECE, size - start)))
    return digest.hexdigest()


def sha256_of_bytes(data: bytes) -> str:
    """The SHA-256 of a file that is in memory."""
    return hashlib.sha256(data).hexdigest()


def parse_file_list(data: bytes | None) -> FileList | None:
    """The list that `data` holds; None for anything else, and for a newer version: one does without."""
    try:
        document = json.loads(data or b"")
        known = document["format"] == FORMAT and document["version"] == VERSION
        files = {key: ListedFile(*entry) for key, entry in document["files"].items()}
        sound = known and _is_text(document["content_sha256"]) and all(map(_is_sound, files, files.values()))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return FileList(document["content_sha256"], files) if sound else None


def _is_sound(key: str, entry: Any) -> bool:
    inside = key == "" or re.fullmatch(r"[A-Za-z0-9_]+(\.json)?(/[A-Za-z0-9_]+(\.json)?)*", key)
    return bool(inside) and type(entry.size) is int and 0 <= entry.size < 1 << 50 and _is_text(entry.sha256)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None
