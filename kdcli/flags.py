"""argparse as all commands use it: flags in full, and a mistake in one line that names the nearest flag.

$ python -m train distill --tempature 2
error: python -m train distill has no flag --tempature; did you mean --temperature?
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, NoReturn

from kdcli.words import did_you_mean

DEVICE: Final = "auto, cpu, cuda or cuda:N (default: auto)"
"""Help of ``--device``."""
_FLAG = re.compile(r"--?[a-zA-Z][^\s=]*(?==|$)")
"""What argparse takes for a flag: no number, and no text with spaces."""


class Parser(argparse.ArgumentParser):
    """Takes no abbreviations, which another flag would make ambiguous some day; its commands are `Parser`s, too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """See `argparse.ArgumentParser`, which calls it for every command; exit code 2 for a flag that is none."""
        self._refuse_unknown(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """End with one line, where argparse prints every flag before it."""
        self._end(f"{self.prog}: {message}; --help says what it takes")

    def _refuse_unknown(self, words: Sequence[str]) -> None:
        """Look at the flags before argparse does, which would first miss what a misspelt one was to give."""
        known = self._option_string_actions
        commands = [
            name for action in self._actions if action.nargs == argparse.PARSER for name in action.choices or ()
        ]
        for word in words:
            if word == "--" or word in commands:
                return
            if commands and not word.startswith("-"):
                self._end(no_command(self.prog, word, commands))
            found = _FLAG.match(word)
            if found and found[0] not in known:
                self._end(no_flag(self.prog, found[0], [name for name in known if name.startswith("--")]))

    def _end(self, line: str) -> NoReturn:
        self.exit(2, f"error: {line}\n")


def no_command(program: str, given: str, names: Collection[str]) -> str:
    """Why a command is refused, with the nearest of those that there are, or else all of them."""
    return f"{program} has no command {given}; {did_you_mean(given, names, _all(names))}"


def no_flag(command: str, given: str, names: Collection[str]) -> str:
    """Why a flag is refused, with the nearest of the names that there are, or else all of them."""
    return f"{command} has no flag {given}; {did_you_mean(given, names, _all(names))}"


def _all(names: Collection[str]) -> str:
    return f"it has {', '.join(sorted(names))}"


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


def positive(text: str) -> int:
    """Convert the value of a flag to an integer of at least 1, as the ``type`` of an argparse argument."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"a positive whole number is needed, got {text}")
    return number
