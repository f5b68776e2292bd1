"""A command whose reader has gone, as in `python -m cache info STORE | head -1`, ends quietly."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn

PIPE_CLOSED = 141  # what a shell reports of a program that SIGPIPE ended


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Run a command and exit with its code; `PIPE_CLOSED`, without a word, if nobody reads its output to the end."""
    try:
        try:
            code = main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        code = PIPE_CLOSED
    sys.exit(code)
