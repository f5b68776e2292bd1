"""Numbers as people read them; what has no value is an en dash."""

import math
from typing import Any

import console.duration
from train.report.markup import Markup, element

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def has_value(value: Any) -> bool:
    """Is it a number that is neither missing, infinite nor NaN?"""
    return isinstance(value, int | float) and math.isfinite(value)


def fixed(value: Any, digits: int = 1) -> str:
    """``54.5``."""
    return f"{value:.{digits}f}".replace("-", MINUS) if has_value(value) else DASH


def signed(value: Any, digits: int = 1) -> str:
    """``+2.6``, ``−0.4``, or ``0.0`` without a sign."""
    if not has_value(value):
        return DASH
    rounded = round(value, digits)
    return ("+" if rounded > 0 else MINUS if rounded < 0 else "") + f"{abs(rounded):.{digits}f}"


def whole(value: Any) -> str:
    """``1,234``."""
    return f"{value:,.0f}" if has_value(value) else DASH


def millions(value: Any) -> str:
    """``1.27 M``."""
    return f"{value / 1e6:.2f} M" if has_value(value) else DASH


def billions(value: Any) -> str:
    """``0.41``: multiply-adds in GMACs."""
    return f"{value / 1e9:.2f}" if has_value(value) else DASH


def size(value: Any) -> str:
    """Bytes as ``840 B``, ``35.1 kB`` or ``2.9 MB`` (powers of ten)."""
    if not has_value(value):
        return DASH
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{value / limit:.1f} {unit}"
    return f"{value:.0f} B"


def duration(seconds: Any) -> str:
    """``41 s``, ``3 min 52 s`` or ``2 h 05 min``."""
    return console.duration.duration(seconds) if has_value(seconds) else DASH


def power(value: Any) -> str:
    """``7.3 × 10⁻⁵``."""
    if not has_value(value):
        return DASH
    digits, exponent = f"{value:.1e}".split("e")
    return digits if int(exponent) == 0 else f"{digits} {TIMES} 10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def exact(value: Any, text: str) -> Markup:
    """The text, with the unrounded value beside it for whoever reads the page with a program."""
    return element("data", text, value=str(value)) if has_value(value) else element("span", text)
