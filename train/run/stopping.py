"""Early ends of a run: signals, which stop it between two steps, and errors, described in one line."""

import contextlib
import enum
import signal
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final

from cache.errors import StoreError
from kdcli.memory import describe_out_of_memory, is_out_of_memory
from kdcli.progress import say
from kdcli.system import STOP_SIGNALS
from kdlib.errors import KdlibError
from kdlib.samples.loader import is_bad_record
from train.errors import LESS_MEMORY

REPEAT_SECONDS: Final = 2.0
"""A signal within this time counts as the same request: a terminal and ``torchrun`` both forward Ctrl-C."""
COMPLETE_MESSAGES: Final = (KdlibError, StoreError, OSError)
"""Errors with a complete message. Any other error is a bug and is shown with its file and line number."""


class Vote(enum.IntEnum):
    """What each rank reports before a step; the highest vote of all ranks decides."""

    CONTINUE = 0
    STOP = 1
    """This rank received a signal."""
    FAIL = 2
    """This rank has no batch."""


class StopRequest:
    """Records the signals SIGINT, SIGTERM and, on Windows, SIGBREAK.

    Args:
        announce: Print a line on stderr at the first signal.

    Attributes:
        signal: Name of the first signal; empty if there was none.
    """

    def __init__(self, *, announce: bool) -> None:
        self.signal, self._announce, self._since = "", announce, 0.0

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Record the first signal within this block.

        Raises:
            KeyboardInterrupt: At the next signal, `REPEAT_SECONDS` later or more.
        """
        before = {number: signal.signal(number, self._record) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _record(self, number: int, _: FrameType | None) -> None:
        if self.signal:
            if time.monotonic() - self._since < REPEAT_SECONDS:
                return
            raise KeyboardInterrupt
        self.signal, self._since = signal.Signals(number).name, time.monotonic()
        if self._announce:
            say(f"\n{self.signal}: stopping after this step, with a checkpoint; repeat it to stop immediately")


def describe_loader_problem(problem: Exception) -> str:
    """Describe in one line why the loader could not make a batch."""
    if is_bad_record(problem):
        return f"{problem}; give --skip-bad-records to train without such records"
    text = describe_problem(problem)
    return (
        text
        if isinstance(problem, COMPLETE_MESSAGES) or is_out_of_memory(problem)
        else f"a loader thread failed: {text}"
    )


def describe_problem(problem: Exception) -> str:
    """Describe an error in one line, with its file and line number if it is a bug."""
    if isinstance(problem, COMPLETE_MESSAGES):
        return str(problem)
    if is_out_of_memory(problem):
        return f"{describe_out_of_memory(problem)}; {LESS_MEMORY}"
    frame = traceback.extract_tb(problem.__traceback__)[-1]
    return f"{type(problem).__name__}: {problem} ({Path(frame.filename).name}, line {frame.lineno})"
