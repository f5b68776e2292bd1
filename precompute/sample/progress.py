"""How far long work has come: a tqdm bar on a terminal, a plain line now and then anywhere else."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A function to be told (done, total), for the length of the block; it writes to stderr."""
    if sys.stderr.isatty():
        with tqdm(desc=what, unit=unit) as bar:

            def tell(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield tell
    else:
        yield _lines(what, unit)


def _lines(what: str, unit: str) -> Callable[[int, int], None]:
    start = told = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal told
        now = time.monotonic()
        if done == total or now - told >= _SECONDS_BETWEEN_LINES:
            told = now
            rate = max(done, 1) / max(now - start, 1e-9)
            sys.stderr.write(f"{what}: {done}/{total} {unit} ({rate:.0f}/s, {(total - done) / rate:.0f} s to go)\n")

    return tell
