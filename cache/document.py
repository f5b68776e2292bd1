"""JSON as a store may hold it: what every parser reads alike, and nothing that surprises the code behind it.

Refused are what RFC 8259 calls unpredictable (repeated names, lone surrogates, NaN and infinities, numbers beyond
float64) and nesting that recursive code could not follow.
"""

import json
import math
from typing import Any

from cache.errors import StoreFormatError

MAX_DEPTH = 32


def parse_document(text: bytes | str, where: str) -> Any:
    """The value of a JSON text in UTF-8; `StoreFormatError`, beginning with `where`, if it is not one."""
    try:
        decoded = text.decode() if isinstance(text, bytes) else text
        found = json.loads(decoded, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
        _check(found, MAX_DEPTH)
    except (ValueError, RecursionError) as error:
        raise StoreFormatError(f"{where}: not a JSON document: {str(error)!a:.200}") from error
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"a name occurs twice among {[name for name, _ in pairs]}")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.20} is beyond float64")
    return value


def _check(value: Any, depth: int) -> None:
    """Raise `ValueError` for nesting deeper than `depth` and text that UTF-8 cannot say."""
    if depth < 0:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, dict):
        for name, entry in value.items():
            name.encode()
            _check(entry, depth - 1)
    elif isinstance(value, list):
        for entry in value:
            _check(entry, depth - 1)
