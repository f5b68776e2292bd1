"""The text column: file names as rows of UTF-8 bytes, padded with zeros to the longest."""

from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from cache.errors import StoreFormatError


def encode_text(names: Sequence[str]) -> npt.NDArray[np.uint8]:
    """(N, M) uint8 of N relative file names; `StoreFormatError` for one that leads out of its folder."""
    rows = [_checked(name).encode() for name in names]
    width = max(1, max(map(len, rows), default=1))
    return np.frombuffer(b"".join(row.ljust(width, b"\0") for row in rows), np.uint8).reshape(-1, width)


def decode_text(column: npt.NDArray[np.uint8]) -> list[str]:
    """The names of a column (N, M) uint8, checked as in `encode_text`."""
    try:
        return [_checked(bytes(row).rstrip(b"\0").decode()) for row in column]
    except UnicodeDecodeError as error:
        raise StoreFormatError(f"a file name is not UTF-8: {error}") from error


def _checked(name: str) -> str:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts or "\0" in name:
        raise StoreFormatError(f"file name {name!r}: must be a relative path inside the image folder")
    return name
