"""argparse as all commands use it: flags without abbreviations, and one-line errors that name the most similar flag.

$ python -m train distill --tempature 2
error: python -m train distill has no flag --tempature; did you mean --temperature?
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

from kdcli.memory import describe_out_of_memory, is_out_of_memory
from kdcli.packages import describe_import_error
from kdcli.system import print_in_utf8
from kdcli.words import did_you_mean

DEVICE: Final = "auto, cpu, mps (GPU of a Mac), cuda or cuda:N (default: auto)"
"""Help text of ``--device``."""
PIPE_CLOSED: Final = 141
"""The exit code that a shell reports for a program that was ended by SIGPIPE."""
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+")
_WEIGHTED = re.compile(r"(.+):([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)")
_SERVER = re.compile(rf"{_SCHEME.pattern}://[^/]*")  # a number after it is a port
_FLAG = re.compile(
    r"--?[a-zA-Z][^\s=]*(?==|$)"
)  # what argparse takes for a flag: not a number, and no text with spaces


class Repeated(argparse._AppendAction):
    """The action of a flag that collects the values of several uses; a TOML file gives one value or a list."""


class Parser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` without abbreviations and with one-line errors; its subparsers are of this class.

    Abbreviations are off because a flag that is added later can make them ambiguous. A flag that names a file cannot be
    given twice, because the second file would replace the first one. Of other flags the last one counts, so that a
    script can append changes to a command.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse as `argparse.ArgumentParser` does, but exit with code 2 on an unknown or repeated flag first."""
        self._check_words(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Exit with code 2 and one line, where argparse would print the whole usage."""
        self._exit(f"{self.prog}: {message}; see --help")

    def _check_words(self, words: Sequence[str]) -> None:
        """Check the flags before argparse does, which would report a missing flag instead of the misspelt one."""
        known, given = self._option_string_actions, set[argparse.Action]()
        commands = [
            name for action in self._actions if action.nargs == argparse.PARSER for name in action.choices or ()
        ]
        for word in words:
            if word == "--" or word in commands:
                return
            if commands and not word.startswith("-"):
                self._exit(no_command(self.prog, word, commands))
            found = _FLAG.match(word)
            if not found:
                continue
            if found[0] not in known:
                self._exit(no_flag(self.prog, found[0], [name for name in known if name.startswith("--")]))
            action = known[found[0]]
            if action in given and _names_one_file(action):
                self._exit(f"{self.prog}: {found[0]} is given twice, but only one of the two could be used")
            given.add(action)

    def _exit(self, line: str) -> NoReturn:
        self.exit(2, f"error: {line}\n")


def _names_one_file(action: argparse.Action) -> bool:
    """Whether a flag keeps one path, or one list of paths."""
    return isinstance(action, argparse._StoreAction) and action.type in (Path, local_path)


def run_command(
    run: Callable[[], int | None], errors: tuple[type[Exception], ...], interrupted: str = "interrupted"
) -> int:
    """Run a command; an error of the given classes, full memory, or Ctrl-C ends in one line on stderr and exit code 1.

    Args:
        run: The command; returns its exit code, or None for 0.
        errors: The errors whose message is meant for the user. Any other error is raised.
        interrupted: The message after Ctrl-C.

    Returns:
        The exit code.

    Raises:
        BrokenPipeError: The reader of stdout is gone; `exit_with` handles it.
    """
    try:
        return run() or 0
    except BrokenPipeError:
        raise
    except errors as error:
        return refuse(describe_import_error(error) or error)
    except KeyboardInterrupt:
        return refuse(interrupted)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return refuse(
            f"{describe_out_of_memory(error)}; end other programs there, or give smaller batches or --device cpu"
        )


def refuse(reason: object) -> int:
    """Print the reason as one line on stderr; returns 1, the exit code of a refusal."""
    sys.stderr.write(f"error: {reason}\n")
    return 1


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Run `main` and exit with the code it returns, or silently with `PIPE_CLOSED` if the reader of stdout is gone.

    If an installed package cannot be imported, exit with code 1 and one line that names it.
    """
    print_in_utf8()
    try:
        try:
            code = main()
        except Exception as error:
            line = None if isinstance(error, BrokenPipeError) else describe_import_error(error)
            if line is None:
                raise
            sys.stderr.write(f"error: {line}\n")
            code = 1
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout once more at exit
        code = PIPE_CLOSED
    sys.exit(code)


def positive(text: str) -> int:
    """Convert the value of a flag to an integer of at least 1, as the ``type`` of an argparse argument."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"a positive whole number is needed, got {text}")
    return number


def positive_or_auto(text: str) -> int | str:
    """Like `positive`, but the value may also be the word ``auto``, which is returned as it is."""
    if text == "auto":
        return text
    try:
        return positive(text)
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise argparse.ArgumentTypeError(f"a positive whole number or auto is needed, got {text}") from error


def local_path(text: str) -> Path:
    """Convert the value of a flag that names what is written to a path, as the ``type`` of an argparse argument.

    A URL would otherwise become a folder named "s3:".
    """
    scheme, separator, _ = text.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        return Path(text)
    raise argparse.ArgumentTypeError(
        f"a path on this machine is needed, not a URL ({scheme}://...); write there first, then copy the result, e.g. "
        "with `aws s3 cp` or `rclone copy`"
    )


class Weighted(NamedTuple):
    """A path or URL with a weight."""

    place: str
    weight: float = 1.0


def weighted(text: str) -> Weighted:
    r"""Split ``PLACE:WEIGHT``, as the ``type`` of an argparse argument; without a weight, it is 1.

    Only a number at the end is a weight: in ``C:\a.zarr`` and ``s3://bucket/a.zarr`` there is none, and in
    ``http://host:8000`` the number is a port. An existing path wins: a file ``a:2`` is that file.

    Raises:
        argparse.ArgumentTypeError: If the weight is not above 0.
    """
    found = _WEIGHTED.fullmatch(text)
    if found is None or _SERVER.fullmatch(found[1]) or os.path.lexists(text):
        return Weighted(text)
    if not float(found[2]) > 0:
        raise argparse.ArgumentTypeError(f"the weight of {found[1]} must be above 0, got {found[2]}")
    return Weighted(found[1], float(found[2]))


def no_command(program: str, given: str, names: Collection[str]) -> str:
    """The error for an unknown command, with the most similar command or, if none is similar, all commands."""
    return f"{program} has no command {given}; {did_you_mean(given, names, _list_names(names))}"


def no_flag(command: str, given: str, names: Collection[str]) -> str:
    """The error for an unknown flag, with the most similar flag or, if none is similar, all flags."""
    return f"{command} has no flag {given}; {did_you_mean(given, names, _list_names(names))}"


def _list_names(names: Collection[str]) -> str:
    return f"it has {', '.join(sorted(names))}"
