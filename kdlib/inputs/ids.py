"""Turns the ids of annotation files into 64-bit integers, and compares ids that are written in different ways."""

import math
import re
import unicodedata
from collections.abc import Hashable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kdlib.inputs.notices import Notices

LOWEST: Final = -(2**63)
HIGHEST: Final = 2**63 - 1
"""Integer ids are kept if they fit into 64 bits; the store's columns are int64."""

_DIGITS: Final = 40
"""Longer runs of digits are compared as text; Python refuses to convert very long ones."""
_WHOLE: Final = re.compile(rf"[+-]?[0-9]{{1,{_DIGITS}}}(\.0*)?")


def check_id(value: object) -> str | None:
    """What is wrong with an id, as the end of a sentence; None if it can be used.

    An id is a text or a finite number. Booleans are refused, because True equals 1.
    """
    if isinstance(value, str) or (type(value) is int):
        return None
    if isinstance(value, float) and math.isfinite(value):
        return None
    return f"has the id {shorten(value)}; an id must be a number or a text"


def assign_ids(ids: Sequence[Hashable], kind: str, notices: Notices | None = None) -> NDArray[np.int64]:
    """Give each id an int64: the ids themselves if all are whole numbers that fit, else 1, 2, ... in their order.

    Args:
        ids: N ids that `check_id` accepts, each once.
        kind: What the ids belong to, in the plural, for the notice: ``images`` or ``annotations``.
        notices: Receives a notice if the ids are replaced.
    """
    whole = [_to_int(value) for value in ids]
    try:
        first = whole.index(None)
    except ValueError:
        return np.array(whole, np.int64)
    if notices is not None:
        notices.add(
            f"{kind} numbered 1, 2, ... because an id is no 64-bit integer", f"id {shorten(ids[first])}", len(ids)
        )
    return np.arange(1, len(ids) + 1, dtype=np.int64)


def canonical_text(value: object) -> str:
    """The text by which ids of different types are compared: 139, 139.0, ``"139"`` and ``"000139"`` are equal."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = unicodedata.normalize("NFC", value).strip() if isinstance(value, str) else str(value)
    return str(int(text.partition(".")[0])) if _WHOLE.fullmatch(text) else text


def shorten(value: Any, length: int = 60) -> str:
    """An entry of a file for a message, at most about ``length`` characters long."""
    text = repr(value)
    return text if len(text) <= length else text[:length] + "..."


def _to_int(value: object) -> int | None:
    if type(value) is int:
        return value if LOWEST <= value <= HIGHEST else None
    if isinstance(value, float) and value.is_integer():
        return _to_int(int(value))
    return None
