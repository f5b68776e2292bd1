"""Collects what the readers of this package changed or left out, for one summary at the end of a command.

A reader that uses an input with a change, such as an area computed from the box, adds a notice instead of printing a
line per entry. `precompute` prints the notices at the end and writes their counts to the manifest; `predict` prints
them.
"""

import dataclasses
import threading
from collections.abc import Iterable
from typing import Final

EXAMPLES: Final = 3
"""Number of examples that a notice keeps; it counts all cases."""


@dataclasses.dataclass
class Notice:
    """One kind of change, and how often it was made."""

    count: int = 0
    examples: list[str] = dataclasses.field(default_factory=list)
    """The first cases, e.g. ``annotation 12``."""


class Notices:
    """The notices of one command, by kind, in the order in which the kinds were first added. Threads may share it.

    Attributes:
        warnings: Lines that a long command prints before it begins, because the input is probably wrong.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, Notice] = {}
        self._lock = threading.Lock()
        self.warnings: list[str] = []

    def add(self, kind: str, example: object, count: int = 1) -> None:
        """Count a case of a kind.

        Args:
            kind: What was done, as a phrase in the plural without paths, e.g. ``areas computed from the box``.
            example: The entry that it was done to.
            count: Number of cases that the example stands for.
        """
        self.add_all(kind, [example], count)

    def add_all(self, kind: str, examples: Iterable[object], count: int | None = None) -> None:
        """Count cases of a kind; adds nothing if there is none.

        Args:
            kind: As in `add`.
            examples: The entries, or the first of them.
            count: Number of cases; the number of examples if None.
        """
        given = list(examples)
        number = len(given) if count is None else count
        if not number:
            return
        with self._lock:
            notice = self._kinds.setdefault(kind, Notice())
            notice.count += number
            notice.examples += map(str, given[: EXAMPLES - len(notice.examples)])

    def warn(self, line: str) -> None:
        """Add a line to ``warnings``."""
        self.warnings.append(line)

    def __bool__(self) -> bool:
        """Whether there is any notice."""
        return bool(self._kinds)

    def lines(self) -> list[str]:
        """One line per kind, e.g. ``areas computed from the box: 12 (annotation 4, annotation 9, ...)``."""
        return [f"{kind}: {notice.count:,} ({_some(notice)})" for kind, notice in self._kinds.items()]

    def to_json(self) -> dict[str, int]:
        """The count of each kind, for a manifest. The examples are left out: they may be names of private files."""
        return {kind: notice.count for kind, notice in self._kinds.items()}


def _some(notice: Notice) -> str:
    return ", ".join(notice.examples) + (", ..." if notice.count > len(notice.examples) else "")
