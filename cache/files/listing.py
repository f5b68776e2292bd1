"""The list of a store's files with sizes and SHA-256, which `push` writes beside the store.

    STORE.files.json    {"format", "version", "content_sha256", "files": {key: [size, sha256]}}

With the list, `pull` checks each file as it arrives, a remote store opens without a request for the size of each file,
and kept blocks are identified by their content. The list is optional: a store is complete without it.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from cache.files.local import ReadableFiles
from kdcli.progress import Advance, no_advance

SUFFIX = ".files.json"
FORMAT, VERSION = "pose-teacher-cache-files", 1
MAX_LIST = 1 << 26  # bytes; the list of a store of a million instances takes 200 kB
_PIECE = 1 << 23  # bytes read at a time


class ListedFile(NamedTuple):
    """Size and digest of one file."""

    size: int  # bytes
    sha256: str


class FileList(NamedTuple):
    """The files of one store, by key."""

    content_sha256: str
    files: Mapping[str, ListedFile]

    def to_bytes(self) -> bytes:
        """The JSON document."""
        files = {key: list(entry) for key, entry in sorted(self.files.items())}
        document = {"format": FORMAT, "version": VERSION, "content_sha256": self.content_sha256, "files": files}
        return json.dumps(document, indent=1).encode()


def list_files(files: ReadableFiles, keys: Iterable[str], content: str, advance: Advance = no_advance) -> FileList:
    """Read and list the files `keys` of the store with hash `content`; `advance` is called with the bytes of each."""
    found = {}
    for key in sorted(keys):
        found[key] = ListedFile(files.size(key), sha256_of(files, key))
        advance(found[key].size)
    return FileList(content, found)


def sha256_of(files: ReadableFiles, key: str) -> str:
    """The SHA-256 of a file in hexadecimal; the file is read in pieces."""
    digest, size = hashlib.sha256(), files.size(key)
    for start in range(0, size, _PIECE):
        digest.update(files.read(key, start, min(_PIECE, size - start)))
    return digest.hexdigest()


def sha256_of_bytes(data: bytes) -> str:
    """The SHA-256 of bytes in memory, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def parse_file_list(data: bytes | None) -> FileList | None:
    """The list that `data` holds; None for anything else and for other versions, since the list is optional."""
    try:
        document = json.loads(data or b"")
        known = document["format"] == FORMAT and document["version"] == VERSION
        files = {key: ListedFile(*entry) for key, entry in document["files"].items()}
        valid = known and _is_sha256(document["content_sha256"]) and all(map(_is_valid, files, files.values()))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return FileList(document["content_sha256"], files) if valid else None


def _is_valid(key: str, entry: Any) -> bool:
    inside = key == "" or re.fullmatch(r"[A-Za-z0-9_]+(\.json)?(/[A-Za-z0-9_]+(\.json)?)*", key)
    return bool(inside) and type(entry.size) is int and 0 <= entry.size < 1 << 50 and _is_sha256(entry.sha256)


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None
