"""Reads JSON documents that other programs wrote: UTF-8 with or without a byte order mark, UTF-16, UTF-32, or gzip."""

import gzip
import json
import zlib
from pathlib import Path
from typing import Any, Final

from kdlib.errors import InputError

GZIP: Final = b"\x1f\x8b"
"""The first bytes of a gzip file."""


def read_json(path: Path, kind: str) -> Any:
    """Read a JSON document.

    Args:
        path: The file. The encoding is detected from its first bytes, as RFC 8259 and Python's json module do; a byte
            order mark is ignored. A gzip file is decompressed, whatever its suffix.
        kind: What the file is for messages, e.g. ``annotation file``.

    Raises:
        InputError: If there is no such file, it is a folder, it cannot be read, or it is not JSON.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"there is no {kind} at {path}") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder; give the path of a JSON file as the {kind}") from error
    except OSError as error:
        raise InputError(f"cannot read the {kind} {path}: {error.strerror}") from error
    try:
        return json.loads(gzip.decompress(content) if content.startswith(GZIP) else content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"the {kind} {path} is a damaged gzip file ({error}); it may be a partial download") from error
    except (ValueError, RecursionError) as error:  # also a number of more than 4,300 digits
        raise InputError(f"the {kind} {path} is not JSON ({error}); it may be a partial download") from error
