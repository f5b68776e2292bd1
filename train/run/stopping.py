"""Why a run stops early: signals, which it obeys between two steps, and problems, described in one line."""

import contextlib
import enum
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final

from cache.errors import StoreError
from kdlib.errors import KdlibError
from kdlib.samples.loader import is_bad_record

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
REPEAT_SECONDS: Final = 2.0
"""A signal within this time counts as the same request: a terminal and ``torchrun`` both forward Ctrl-C."""
COMPLETE_MESSAGES: Final = (KdlibError, StoreError, OSError)
"""Errors whose message is complete; any other error is a fault of the program and is shown with its place."""


class Vote(enum.IntEnum):
    """What each rank reports before a step; the highest vote of all ranks decides."""

    CONTINUE = 0
    STOP = 1
    """A signal asked this rank to stop."""
    FAIL = 2
    """This rank has no batch."""


class StopRequest:
    """Notes the signals SIGINT and SIGTERM.

    Args:
        announce: Answer the first signal with a line on stderr.

    Attributes:
        signal: Name of the first signal; empty before it.
    """

    def __init__(self, *, announce: bool) -> None:
        self.signal, self._announce, self._since = "", announce, 0.0

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Within this block the first signal is noted.

        Raises:
            KeyboardInterrupt: At the next signal, `REPEAT_SECONDS` later or more.
        """
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal:
            if time.monotonic() - self._since < REPEAT_SECONDS:
                return
            raise KeyboardInterrupt
        self.signal, self._since = signal.Signals(number).name, time.monotonic()
        if self._announce:
            sys.stderr.write(
                f"\n{self.signal}: stopping with a checkpoint after this step; repeat it to stop at once\n"
            )


def describe_loader_problem(problem: Exception) -> str:
    """Describe in one line why the loader could not make a batch."""
    if is_bad_record(problem):
        return f"{problem}; --skip-bad-records trains without such records"
    text = describe_problem(problem)
    return text if isinstance(problem, COMPLETE_MESSAGES) else f"a loader thread failed: {text}"


def describe_problem(problem: Exception) -> str:
    """Describe an error in one line, with its file and line number if it is a fault of the program."""
    if isinstance(problem, COMPLETE_MESSAGES):
        return str(problem)
    frame = traceback.extract_tb(problem.__traceback__)[-1]
    return f"{type(problem).__name__}: {problem} ({Path(frame.filename).name}, line {frame.lineno})"
