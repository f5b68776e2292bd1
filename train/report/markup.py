"""HTML and SVG by function calls: text is escaped, unless it is markup already."""

import html
from typing import Any

VOID = {"meta", "link", "br"}
"""Elements of the page that have no end tag."""


class Markup(str):
    """Text that is HTML already and goes into a page as it is."""

    __slots__ = ()

    def __add__(self, other: str) -> "Markup":
        """Markup followed by a piece that is kept or escaped as a child would be."""
        return Markup(str.__add__(self, _content(other)))


def element(tag: str, /, *children: Any, **attributes: Any) -> Markup:
    """An element with its children in order.

    Args:
        tag: Its name.
        children: `Markup` is kept, None is left out, everything else is escaped.
        attributes: ``class_`` stands for ``class`` and any other underscore for a hyphen; None and False leave an
            attribute out, True gives it no value, floats are cut to two digits.
    """
    inside = "".join(_content(child) for child in children)
    start = tag + "".join(_attribute(key, value) for key, value in attributes.items())
    return Markup(f"<{start}>" if tag in VOID else f"<{start}>{inside}</{tag}>")


def join(parts: Any) -> Markup:
    """Several pieces, each kept or escaped as a child would be, one after the other."""
    return Markup("".join(_content(part) for part in parts))


def compact(value: float) -> str:
    """A coordinate with at most two digits behind the point."""
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
