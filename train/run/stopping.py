"""SIGINT and SIGTERM as a wish that training grants between two steps, where the state is whole."""

import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAME = 2.0
"""Seconds in which a second signal is the first one heard again: a terminal and ``torchrun`` both send Ctrl-C on."""


class StopRequest:
    """Has somebody asked the run to stop?

    Args:
        speak: Answer the first signal with a line on stderr.
    """

    def __init__(self, *, speak: bool) -> None:
        self.signal, self._speak, self._since = "", speak, 0.0

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Within this block the first signal is noted; a second one interrupts at once."""
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal:
            if time.monotonic() - self._since < SAME:
                return
            raise KeyboardInterrupt
        self.signal, self._since = signal.Signals(number).name, time.monotonic()
        if self._speak:
            sys.stderr.write(f"\n{self.signal}: stopping after this step with a checkpoint; again to stop at once\n")
