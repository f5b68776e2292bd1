"""Flags of a command from a TOML file.

    epochs = 30
    learning-rate = 1e-3        # a key is the name of the flag, without the leading dashes
    compile = true              # a flag without a value

An entry means the same as the flag on the command line: relative paths start at the working folder, and `~` is the home
folder. A flag on the command line overrides the file; if several files are given, the last one wins. A key that is not
a flag of the command is an error.
"""

import argparse
import os
import tomllib
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kdcli.flags import Repeated, no_flag

_KIND_NAMES = {int: "a whole number", float: "a number", bool: "true or false"}


class ConfigError(ValueError):
    """A config file that cannot be used; the message names the file, the key, and the values it may have."""


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add ``--config FILE`` to a parser; `parse` then reads the file."""
    text = "read flags from a TOML file; the command line overrides it"
    parser.add_argument("--config", type=Path, metavar="FILE", action=_ReadFile, help=text)


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line, with the entries of its ``--config`` files as defaults.

    Raises:
        ConfigError: A file cannot be read, is not TOML, or has a key or a value that the command does not accept.
    """
    typed = parser.parse_args(argv)
    if getattr(typed, "config", None) is None:
        return typed
    arguments = parser.parse_args(argv)  # again: the entries of the files are now the parser's defaults
    for name, value in vars(typed).items():
        if isinstance(value, list) and value:  # argparse appends the typed values to those of the file
            setattr(arguments, name, value)
    return arguments


class _ReadFile(argparse.Action):
    """The action of ``--config``: makes the entries of the file the defaults of the parser."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        setattr(namespace, self.dest, values)
        for action, value in _entries(parser, values):
            action.default, action.required = value, False


def _entries(parser: argparse.ArgumentParser, path: Path) -> Iterator[tuple[argparse.Action, Any]]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # editors on Windows may write a byte order mark
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise ConfigError(f"{path} is not TOML: {error}") from error
    flags = _flags(parser)
    for key, value in content.items():
        if key == "config":
            raise ConfigError(
                f"{path}: config: a file cannot name another; repeat --config instead, the last file wins"
            )
        if key not in flags and isinstance(value, dict):
            raise ConfigError(f"{path}: [{key}] is a table; write flags at the top level of the file")
        if key not in flags:
            raise ConfigError(f"{path}: {no_flag(parser.prog, f'--{key}', flags)}")
        try:
            yield flags[key], _convert(flags[key], value)
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise ConfigError(f"{path}: {key}: {error}") from error


def _flags(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The flags that a file may contain, by name."""
    actions = [action for action in parser._actions if action.dest not in ("help", "config")]
    return {
        option[2:]: action
        for action in actions
        for option in action.option_strings
        if option.startswith("--") and not _is_negation(action, option)
    }


def _is_negation(action: argparse.Action, option: str) -> bool:
    """Whether `option` is the ``--no-...`` form of a flag; a file sets the flag to ``false`` instead."""
    return isinstance(action, argparse.BooleanOptionalAction) and option.startswith("--no-")


def _convert(action: argparse.Action, value: Any) -> Any:
    """The value that the parser would return for the same text on the command line."""
    if isinstance(action, Repeated):
        return [_convert_one(action, item) for item in (value if isinstance(value, list) else [value])]
    if isinstance(action.default, list):
        if not isinstance(value, list):
            raise ValueError(f"a list is needed, got {_as_toml(value)}")
        return [_convert_one(action, item) for item in value]
    return _convert_one(action, value)


def _convert_one(action: argparse.Action, value: Any) -> Any:
    kinds = (bool,) if action.nargs == 0 else _kinds(action.type)
    fits = type(value) in kinds or (float in kinds and type(value) is int)
    if not fits or (action.choices is not None and value not in action.choices):
        raise ValueError(f"{_expected(action, kinds)} is needed, got {_as_toml(value)}")
    if kinds == (str,) and value.startswith("~"):
        value = os.path.expanduser(value)  # as a shell does on the command line
    return value if kinds == (bool,) or action.type is None else action.type(str(value))  # type: ignore[operator]


def _kinds(convert: Any) -> tuple[type, ...]:
    """The types that TOML may have for a flag whose ``type`` is `convert`, a class or a function."""
    if convert is not None and not isinstance(convert, type):
        convert = typing.get_type_hints(convert).get("return")
    kinds = typing.get_args(convert) if isinstance(convert, types.UnionType) else (convert,)
    return kinds if set(kinds) <= {int, float, str} else (str,)


def _expected(action: argparse.Action, kinds: tuple[type, ...]) -> str:
    if action.choices is not None:
        return f"one of {', '.join(map(str, action.choices))}"
    return " or ".join(_KIND_NAMES.get(kind, "text in quotes") for kind in kinds)


def _as_toml(value: Any) -> str:
    """The value in TOML syntax, or its kind if it is a table."""
    if isinstance(value, bool):
        return str(value).lower()
    return "a table" if isinstance(value, dict) else f'"{value}"' if isinstance(value, str) else str(value)
