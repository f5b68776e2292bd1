"""How far long work has come: a tqdm bar on a terminal, a plain line now and then anywhere else.

teacher: 214/1918 instances, 21.3/s, 1 min 20 s to go
teacher: 1918 instances in 1 min 28 s (21.8/s)
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from tqdm import tqdm

from kdcli.words import duration

FIRST_LINE: Final = 10.0
"""Seconds before a file or a pipe hears of it, and at least between two lines: quick work needs none."""


FIRST_OF_PASSING: Final = 300.0
"""The same of works that follow each other and end in a line of their own, e.g. epochs."""


LINES: Final = 10
"""Of work that takes long: beside the first one, a line a tenth of it."""


BAR: Final = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"
"""tqdm's own, where the total is known, but for the rate, which never turns into seconds a unit."""


Tell = Callable[[int, int], None]
"""Told (done, total); a total of 0 is one that is not known."""


def silently(done: int, total: int) -> None:
    """What is told to nobody."""


@contextmanager
def progress(what: str, unit: str, begun: int = 0, *, shown: bool = True, passing: bool = False) -> Iterator[Tell]:
    """A function to be told (done, total), for the length of the block; it writes to stderr.

    Args:
        what: The work.
        unit: What is counted, in the plural.
        begun: Done before, by an earlier run: it counts as done, but neither for the rate nor for the time left.
        shown: False says nothing: of several processes, one speaks.
        passing: One of many such works, each of which ends in a line of its own: the bar goes away, and a pipe hears
            of it only if it takes many minutes.
    """
    if not shown:
        yield silently
    elif sys.stderr.isatty():
        with tqdm(desc=what, unit=f" {unit}", initial=begun, leave=not passing) as bar:

            def tell(done: int, total: int) -> None:
                if total and total != bar.total:
                    bar.total, bar.bar_format = total, BAR
                    bar.refresh()
                bar.update(done - bar.n)

            yield tell
    else:
        lines = _Lines(what, unit, begun, FIRST_OF_PASSING if passing else FIRST_LINE)
        yield lines.tell
        if not passing:
            lines.end()


class _Lines:
    """For a file or a pipe: of what takes long, a line soon, one a tenth of it (or twice as far), one at the end."""

    def __init__(self, what: str, unit: str, begun: int, pause: float) -> None:
        self.what, self.unit, self.pause = what, unit, pause
        self.begun = self.done = begun
        self.start = self.told = time.monotonic()
        self.next = begun
        """So much must be done for the next line."""

    def tell(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done < self.done:  # begun again, as a download whose server has another file by now
            self.begun, self.start, self.next = done, now, done
        self.done = done
        waited = now - self.told >= self.pause
        if waited and done > self.begun and done >= self.next and done != total:
            self.told, self.next = now, done + ((total - self.begun) // LINES if total else done - self.begun)
            self._write(self._so_far(total, self._rate(now)))

    def _so_far(self, total: int, rate: float) -> str:
        if not total:
            return f"{self.done} {self.unit}, {_short(rate)}/s"
        left = duration((total - self.done) / rate)
        return f"{self.done}/{total} {self.unit}, {_short(rate)}/s, {left} to go"

    def end(self) -> None:
        now = time.monotonic()
        if self.done > self.begun and now - self.start >= self.pause:
            took, rate = duration(now - self.start), _short(self._rate(now))
            self._write(f"{self.done - self.begun} {self.unit} in {took} ({rate}/s)")

    def _rate(self, now: float) -> float:
        return (self.done - self.begun) / max(now - self.start, 1e-9)

    def _write(self, text: str) -> None:
        sys.stderr.write(f"{self.what}: {text}\n")


def _short(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 1 else f"{rate:.2g}"


def say(line: str) -> None:
    """A line on stderr, above a progress bar if there is one."""
    tqdm.write(line, file=sys.stderr)
