"""Wording that all commands share: counts, durations, percentages, and suggestions for misspelt names."""

import difflib
import math
from collections.abc import Collection


def counted(count: int, noun: str, plural: str = "") -> str:
    """``1 image`` or ``2 images``; the plural is the noun with an s, unless it is given: ``2 boxes``."""
    return f"{count} {noun}" if count == 1 else f"{count} {plural or noun + 's'}"


def duration(seconds: float) -> str:
    """``41 s``, ``3 min 52 s`` or ``2 h 05 min``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def percentage(value: float | None) -> str:
    """``61.5``, or ``-`` for a metric that does not exist (None or NaN), e.g. the PCK of persons without labels."""
    return "-" if value is None or math.isnan(value) else f"{value:.1f}"


def did_you_mean(given: str, names: Collection[str], otherwise: str, most: int = 1) -> str:
    """``did you mean NAME?`` with at most `most` similar names, or the text `otherwise` if none is similar.

    Case, leading dashes, and the difference between dashes and underscores are ignored.
    """
    plain = {_normalized(name): name for name in names}
    near = [plain[name] for name in difflib.get_close_matches(_normalized(given), plain, most)]
    return f"did you mean {' or '.join(near)}?" if near else otherwise


def _normalized(name: str) -> str:
    return name.lstrip("-").replace("_", "-").lower()
