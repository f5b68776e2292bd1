"""Writing a file whole: its name appears when it is complete, or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

ATTEMPTS: Final = ".*.tmp*"
"""Glob pattern of the temporary files that `replacing` leaves where a process is killed."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file beside its place and rename it.

    Yields:
        A path in the same folder, with the same suffix, to write to. At the end of the block it is renamed to `path`.
        If the block raises, it is deleted, and a file that was at `path` stays as it was.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        yield beside
        beside.replace(path)
    finally:
        with suppress(OSError):  # the folder itself may be the reason of the failure
            beside.unlink()
