"""The flags of a command from a TOML file.

    epochs = 30
    learning-rate = 1e-3        # a key is the flag's name, without its dashes in front
    compile = true              # a flag without a value

A file says what would otherwise be typed, and means the same: paths count from the working folder, `~` is home. Flags
on the command line win over the file, of several files the last one wins. What the command's parser does not know is
refused.
"""

import argparse
import os
import tomllib
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kdcli.flags import no_flag

_WORDS = {int: "a whole number", float: "a number", bool: "true or false"}


class ConfigError(ValueError):
    """A file that cannot be taken as flags; the message names the file, the key, and what it may be."""


def add_config(parser: argparse.ArgumentParser) -> None:
    """Give a parser ``--config FILE``; `parse` then reads the file."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", action=_ReadFile, help="flags from a TOML file; those typed win"
    )


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line whose ``--config`` files are the defaults of what it does not say.

    Raises:
        ConfigError: If a file cannot be read, is no TOML, or has a key or a value that the command does not take.
    """
    typed = parser.parse_args(argv)
    if getattr(typed, "config", None) is None:
        return typed
    arguments = parser.parse_args(argv)  # again: now the files' entries are the parser's defaults
    for name, value in vars(typed).items():
        if isinstance(value, list) and value:  # argparse would add what was typed to the file's
            setattr(arguments, name, value)
    return arguments


class _ReadFile(argparse.Action):
    """Makes the entries of a file the defaults of the parser that met ``--config``."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        setattr(namespace, self.dest, values)
        for action, value in _entries(parser, values):
            action.default, action.required = value, False


def _entries(parser: argparse.ArgumentParser, path: Path) -> Iterator[tuple[argparse.Action, Any]]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Windows' editors put a mark in front
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # of TOML or of UTF-8
        raise ConfigError(f"{path} is not TOML: {error}") from error
    flags = _flags(parser)
    for key, value in content.items():
        if key == "config":
            raise ConfigError(f"{path}: config: a file cannot name another; give --config for each, the last wins")
        if key not in flags and isinstance(value, dict):
            raise ConfigError(f"{path}: [{key}] is a table; flags stand alone, without one above them")
        if key not in flags:
            raise ConfigError(f"{path}: {no_flag(parser.prog, f'--{key}', flags)}")
        try:
            yield flags[key], _converted(flags[key], value)
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise ConfigError(f"{path}: {key}: {error}") from error


def _flags(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The flags that a file may give, by name."""
    actions = [action for action in parser._actions if action.dest not in ("help", "config")]
    return {
        option[2:]: action
        for action in actions
        for option in action.option_strings
        if option.startswith("--") and not _says_no(action, option)
    }


def _says_no(action: argparse.Action, option: str) -> bool:
    """Is it the ``--no-...`` of a flag that has one? In a file that is ``false``."""
    return isinstance(action, argparse.BooleanOptionalAction) and option.startswith("--no-")


def _converted(action: argparse.Action, value: Any) -> Any:
    """The value as the parser would have made it of the typed one."""
    if isinstance(action.default, list):
        if not isinstance(value, list):
            raise ValueError(f"a list is needed, got {_shown(value)}")
        return [_single(action, item) for item in value]
    return _single(action, value)


def _single(action: argparse.Action, value: Any) -> Any:
    kind = bool if action.nargs == 0 else _kind(action.type)
    fits = type(value) is kind or (kind is float and type(value) is int)
    if not fits or (action.choices is not None and value not in action.choices):
        raise ValueError(f"{_may_be(action, kind)} is needed, got {_shown(value)}")
    if kind is str and value.startswith("~"):
        value = os.path.expanduser(value)  # as a shell does with what is typed
    return value if kind is bool or action.type is None else action.type(str(value))  # type: ignore[operator]


def _kind(convert: Any) -> type:
    """What TOML must hold for a flag that makes its value with a type or a function."""
    made = convert if isinstance(convert, type) else typing.get_type_hints(convert).get("return") if convert else str
    return made if made in (int, float) else str


def _may_be(action: argparse.Action, kind: type) -> str:
    if action.choices is not None:
        return f"one of {', '.join(map(str, action.choices))}"
    return _WORDS.get(kind, "text in quotes")


def _shown(value: Any) -> str:
    """A value as TOML spells it, short."""
    if isinstance(value, bool):
        return str(value).lower()
    return "a table" if isinstance(value, dict) else f'"{value}"' if isinstance(value, str) else str(value)
