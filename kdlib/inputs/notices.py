"""Collects what the readers of this package changed or left out, for one summary at the end of a command.

A reader that uses an input with a change, such as an area computed from the box, adds a notice instead of printing a
line per entry. `precompute` prints the notices at the end and writes them to the manifest.
"""

import dataclasses
from typing import Any, Final

EXAMPLES: Final = 3
"""Number of examples that a notice keeps; it counts all cases."""


@dataclasses.dataclass
class Notice:
    """One kind of change, and how often it was made."""

    count: int = 0
    examples: list[str] = dataclasses.field(default_factory=list)
    """The first cases, e.g. ``annotation 12``."""


class Notices:
    """The notices of one command, by kind. A kind is a phrase, e.g. ``areas computed from the box``."""

    def __init__(self) -> None:
        self._kinds: dict[str, Notice] = {}

    def add(self, kind: str, example: object, count: int = 1) -> None:
        """Count a case of a kind.

        Args:
            kind: What was done, in the plural.
            example: The entry that it was done to.
            count: Number of cases that the example stands for.
        """
        notice = self._kinds.setdefault(kind, Notice())
        notice.count += count
        if len(notice.examples) < EXAMPLES:
            notice.examples.append(str(example))

    def __bool__(self) -> bool:
        """Whether there is any notice."""
        return bool(self._kinds)

    def lines(self) -> list[str]:
        """One line per kind, e.g. ``areas computed from the box: 12 (annotation 4, annotation 9, ...)``."""
        return [f"{kind}: {notice.count:,} ({_some(notice)})" for kind, notice in self._kinds.items()]

    def to_json(self) -> dict[str, Any]:
        """The notices for a manifest: count and examples by kind."""
        return {kind: dataclasses.asdict(notice) for kind, notice in self._kinds.items()}


def _some(notice: Notice) -> str:
    return ", ".join(notice.examples) + (", ..." if notice.count > len(notice.examples) else "")
