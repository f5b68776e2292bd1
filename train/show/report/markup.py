"""Builds HTML and SVG from function calls, which escape text but not markup; and formats numbers."""

import html
import math
from typing import Any, Final

import kdcli.words

VOID: Final = frozenset({"meta", "link", "br"})
"""Elements of the page that have no end tag."""
DASH: Final = "\N{EN DASH}"
MINUS: Final = "\N{MINUS SIGN}"
TIMES: Final = "\N{MULTIPLICATION SIGN}"
_SUPERSCRIPTS: Final = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


# --- elements ---------------------------------------------------------------------------------------------------------


class Markup(str):
    """HTML that goes into a page without escaping."""

    __slots__ = ()

    def __add__(self, other: str) -> "Markup":
        """Append a piece, which is escaped unless it is markup."""
        return Markup(str.__add__(self, _content(other)))


def element(tag: str, /, *children: Any, **attributes: Any) -> Markup:
    """Build an element.

    Args:
        tag: Name of the element.
        children: Content in order. `Markup` is kept, None is left out, everything else is escaped.
        attributes: ``class_`` stands for ``class`` and any other underscore for a hyphen. None and False leave an
            attribute out, True gives it no value, floats are rounded to two digits.
    """
    inside = "".join(_content(child) for child in children)
    start = tag + "".join(_attribute(key, value) for key, value in attributes.items())
    return Markup(f"<{start}>" if tag in VOID else f"<{start}>{inside}</{tag}>")


def join(parts: Any) -> Markup:
    """Join pieces, each of which is escaped unless it is markup."""
    return Markup("".join(_content(part) for part in parts))


def compact(value: float) -> str:
    """Format a coordinate with at most two digits after the decimal point."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _content(child: Any) -> str:
    if child is None:
        return ""
    return str(child) if isinstance(child, Markup) else html.escape(str(child))


def _attribute(key: str, value: Any) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    if value is True:
        return f" {name}"
    text = compact(value) if isinstance(value, float) else str(value)
    return f' {name}="{html.escape(text)}"'


# --- numbers ----------------------------------------------------------------------------------------------------------


def has_value(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def fixed(value: Any, digits: int = 1) -> str:
    """Format a number as ``54.5``."""
    return f"{value:.{digits}f}".replace("-", MINUS) if has_value(value) else DASH


def signed(value: Any, digits: int = 1) -> str:
    """Format a number as ``+2.6``, ``−0.4``, or ``0.0`` without a sign."""
    if not has_value(value):
        return DASH
    rounded = round(value, digits)
    return ("+" if rounded > 0 else MINUS if rounded < 0 else "") + f"{abs(rounded):.{digits}f}"


def whole(value: Any) -> str:
    """Format a number as ``1,234``."""
    return f"{value:,.0f}" if has_value(value) else DASH


def millions(value: Any) -> str:
    """Format a number in millions as ``1.27 M``."""
    return f"{value / 1e6:.2f} M" if has_value(value) else DASH


def billions(value: Any) -> str:
    """Format multiply-adds in GMACs as ``0.41``."""
    return f"{value / 1e9:.2f}" if has_value(value) else DASH


def size(value: Any) -> str:
    """Format bytes as ``840 B``, ``35.1 kB`` or ``2.9 MB`` (powers of ten)."""
    if not has_value(value):
        return DASH
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{value / limit:.1f} {unit}"
    return f"{value:.0f} B"


def duration(seconds: Any) -> str:
    """Format seconds as ``41 s``, ``3 min 52 s`` or ``2 h 05 min``."""
    return kdcli.words.duration(seconds) if has_value(seconds) else DASH


def power(value: Any) -> str:
    """Format a number as ``7.3 × 10⁻⁵``."""
    if not has_value(value):
        return DASH
    digits, exponent = f"{value:.1e}".split("e")
    return digits if int(exponent) == 0 else f"{digits} {TIMES} 10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def exact(value: Any, text: str) -> Markup:
    """Build an element with a text and, for programs that read the page, the unrounded value."""
    return element("data", text, value=str(value)) if has_value(value) else element("span", text)
