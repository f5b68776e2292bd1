"""Progress of long work: a tqdm bar on a terminal, and a few plain lines in a file or a pipe.

    with show_progress("teacher", "instances") as progress:
        progress(done, total)

writes these lines to stderr if stderr is not a terminal:

    teacher: 214/1918 instances, 21.3/s, 1 min 20 s to go
    teacher: 1918 instances in 1 min 28 s (21.8/s)

A function that does long work takes one of two callbacks: `Progress`, which is called with (done, total), or `Advance`,
which is called with the number of units done since the last call, from several threads in any order.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from tqdm import tqdm

from kdcli.words import duration

Progress = Callable[[int, int], None]
"""Called with (done, total), in the unit of the work; a total of 0 means that the total is unknown."""
Advance = Callable[[int], object]
"""Called with the number of units that were done since the last call."""

MEGABYTE: Final = 1_000_000
FIRST_LINE: Final = 10.0
"""Seconds before the first line in a file or a pipe, and the shortest time between two lines."""
FIRST_LINE_TRANSIENT: Final = 300.0
"""The same for transient work, e.g. an epoch, which ends in a line of its own."""
LINES: Final = 10
"""Number of lines that long work writes: one per tenth of the work."""
BAR: Final = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"
"""tqdm's own format for a known total, except that the rate is always units per second, never seconds per unit."""


def no_progress(done: int, total: int) -> None:
    """Ignore the progress."""


def no_advance(count: int) -> None:
    """Ignore the progress."""


@contextmanager
def show_progress(
    what: str, unit: str, initial: int = 0, *, shown: bool = True, transient: bool = False
) -> Iterator[Progress]:
    """Show the progress of the work in the `with` block on stderr.

    Args:
        what: The name of the work.
        unit: What is counted, in the plural.
        initial: Units that an earlier run did. They count as done, but not for the rate and the time left.
        shown: Whether to show anything; of several processes, only one does.
        transient: Whether the work is one of many that each end in a line of their own. The bar is then removed at the
            end, and a file or a pipe gets lines only if the work takes more than `FIRST_LINE_TRANSIENT` seconds.

    Yields:
        The function to call with (done, total).
    """
    if not shown:
        yield no_progress
    elif sys.stderr.isatty():
        with tqdm(desc=what, unit=f" {unit}", initial=initial, leave=not transient) as bar:

            def progress(done: int, total: int) -> None:
                if total and total != bar.total:
                    bar.total, bar.bar_format = total, BAR
                    bar.refresh()
                bar.update(done - bar.n)

            yield progress
    else:
        lines = _Lines(what, unit, initial, FIRST_LINE_TRANSIENT if transient else FIRST_LINE)
        yield lines.progress
        if not transient:
            lines.end()


@contextmanager
def show_count(what: str, unit: str) -> Iterator[Advance]:
    """Show the progress of work whose total is unknown; as `show_progress`.

    Yields:
        The function to call with the number of units or, if the unit is "MB", of bytes done since the last call.
    """
    with show_progress(what, unit) as progress:
        done, size, lock = 0, MEGABYTE if unit == "MB" else 1, threading.Lock()

        def advance(count: int) -> None:
            nonlocal done
            with lock:
                done += count
                progress(done // size, 0)

        yield advance


class _Lines:
    """Progress in a file or a pipe.

    Work that takes longer than `pause` seconds gets a line then, one line per tenth of the work (or, if the total is
    unknown, whenever the amount has doubled), and one line at the end.
    """

    def __init__(self, what: str, unit: str, initial: int, pause: float) -> None:
        self.what, self.unit, self.pause = what, unit, pause
        self.initial = self.done = initial
        self.start = self.last_line = time.monotonic()
        self.next = initial  # the next line is written when this amount is done

    def progress(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done < self.done:  # the work started again, e.g. a download whose file changed on the server
            self.initial, self.start, self.next = done, now, done
        self.done = done
        waited = now - self.last_line >= self.pause
        if waited and done > self.initial and done >= self.next and done != total:
            step = (total - self.initial) // LINES if total else done - self.initial
            self.last_line, self.next = now, done + step
            self._write(self._state(total, self._rate(now)))

    def end(self) -> None:
        now = time.monotonic()
        if self.done > self.initial and now - self.start >= self.pause:
            took, rate = duration(now - self.start), _format_rate(self._rate(now))
            self._write(f"{self.done - self.initial} {self.unit} in {took} ({rate}/s)")

    def _state(self, total: int, rate: float) -> str:
        if not total:
            return f"{self.done} {self.unit}, {_format_rate(rate)}/s"
        left = duration((total - self.done) / rate)
        return f"{self.done}/{total} {self.unit}, {_format_rate(rate)}/s, {left} to go"

    def _rate(self, now: float) -> float:
        return (self.done - self.initial) / max(now - self.start, 1e-9)

    def _write(self, text: str) -> None:
        say(f"{self.what}: {text}")


def _format_rate(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 1 else f"{rate:.2g}"


def say(line: str) -> None:
    """Print a line on stderr, above a progress bar if there is one."""
    tqdm.write(line, file=sys.stderr)
