"""Pieces of Markdown: values as text without markup, values in code style, and tables."""

from collections.abc import Sequence
from typing import Any

from train.show.report.facts import Fact, Hash


def plain(value: Any) -> str:
    """A value as Markdown text without any markup."""
    text = "".join(c if c.isprintable() else " " for c in str(value))
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#~" else c for c in text)


def code(value: Any) -> str:
    """A value in code style."""
    text = "".join(c if c.isprintable() else " " for c in str(value)).replace("`", "'").replace("|", "/")
    return f"`{text}`"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fact_table(title: str, facts: Sequence[Fact]) -> str:
    """A table of names and values; hashes are in code style."""
    rows = [(plain(name), code(value) if isinstance(value, Hash) else plain(value)) for name, value in facts]
    return table((title, ""), rows)
