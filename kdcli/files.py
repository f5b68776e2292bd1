"""Writing a file atomically, so that it appears under its name only when it is complete; and a file's SHA-256."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from kdcli import system

TEMPORARY_FILES: Final = ".*.tmp*"
"""Glob pattern of the temporary files that `replacing` leaves behind if the process is killed."""


def temporary_files(path: Path) -> list[Path]:
    """Find the temporary files of `path` that `replacing` left behind when a process was killed."""
    return list(path.parent.glob(f".{path.name}{TEMPORARY_FILES}"))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a temporary file and rename it to `path`.

    Yields:
        A new path in the same folder, with the same suffix, to write to. It is renamed to `path` at the end of the
        block. If the block raises, the temporary file is deleted, and an existing file at `path` stays unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        yield temporary
        system.replace(temporary, path)
    finally:
        with suppress(OSError):  # the folder itself may be the cause of the failure
            temporary.unlink()


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits; raises `OSError` if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
