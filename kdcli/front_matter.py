"""The YAML header of a card: the lines between two ``---`` at the top of a Markdown file, which hubs read.

It is written with a few rules of YAML 1.2, so that no YAML package is needed: texts are plain words or JSON strings.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

_PLAIN: Final = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)+|[a-z]{4,}")
"""Texts that YAML reads as text without quotes; shorter words may be numbers or truth values, e.g. ``no``."""
_RESERVED: Final = frozenset(("true", "false", "null"))


def front_matter(values: Mapping[str, Any]) -> str:
    """Write mappings, sequences, texts, finite numbers, truth values and None as a header, with its ``---`` lines."""
    return "\n".join(["---", *_mapping(values), "---", ""])


def _mapping(values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        yield from _entry(f"{_scalar(key)}:", value)


def _entry(start: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        yield start
        yield from (f"  {line}" for line in _mapping(value))
    elif isinstance(value, Sequence) and not isinstance(value, str) and value:
        yield start
        for item in value:
            lines = list(_mapping(item)) if isinstance(item, Mapping) and item else [_scalar(item)]
            yield from (f"{'  - ' if i == 0 else '    '}{line}" for i, line in enumerate(lines))
    else:
        yield f"{start} {_scalar(value)}"


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        if _PLAIN.fullmatch(value) and value not in _RESERVED:
            return value
        value = "".join(c if c.isprintable() else " " for c in value)
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if isinstance(value, float) and "." not in text:  # YAML 1.1 reads 1e-05 as text
        return text.replace("e", ".0e")
    return text
