"""Inspect, list, verify, compare, convert and share stores.

    python -m cache info train.zarr             # show what is in the store
    python -m cache list stores                 # show which stores are in a folder, or at a URL
    python -m cache verify train.zarr           # check it for damage; exit code 1 if there is any

Commands that read a store also accept a URL: http(s)://, s3://, hf://datasets/... The --help of each command has
examples; docs/sharing.md explains how to share stores.
"""

import argparse
from collections.abc import Sequence
from typing import Final

from cache.commands import convert, diff, info, list_stores, pack, pull, push, unpack, verify
from cache.errors import StoreError
from kdcli.flags import Parser, exit_with, run_command

COMMANDS: Final = {
    "info": (info, "show what is in a store, or how much of an unfinished one is written"),
    "list": (list_stores, "list the stores below a folder, a bucket or a Hugging Face repository"),
    "verify": (verify, "read and check every record, hash and entry of the manifest"),
    "diff": (diff, "compare the content of two stores"),
    "convert": (convert, "write a store in the other layout or in another codec"),
    "push": (push, "copy a store to a folder, an s3:// or an hf:// URL"),
    "pull": (pull, "copy a store from a folder or URL, and check it"),
    "pack": (pack, "write a Zarr store as one .zip file, which can be read without unpacking"),
    "unpack": (unpack, "unpack an archive into a .zarr directory"),
}
"""Name of each command, its module, whose docstring is the --help text, and one line about it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or 1 after an error or a failed check."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: COMMANDS[options.command][0].run(options), (StoreError,))


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="python -m cache", description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, text) in COMMANDS.items():
        module.add_arguments(commands.add_parser(name, help=text, description=module.__doc__, formatter_class=raw))
    return parser


if __name__ == "__main__":
    exit_with(main)
