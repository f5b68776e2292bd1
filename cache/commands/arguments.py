"""Arguments and output that several commands share."""

import argparse
from collections.abc import Sequence
from typing import Final

STORE: Final = "a store: a .zarr directory, an .h5 or .zip file, or the URL of one"
"""Help text of an argument that names a store to read."""
LISTED: Final = 20
"""Lines that `print_lines` prints; --json prints all."""


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the flag ``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def add_overwrite(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the flag ``--overwrite``, which replaces `what`."""
    parser.add_argument("--overwrite", action="store_true", help=f"replace {what}, if it is a store")


def print_lines(lines: Sequence[str]) -> None:
    """Print at most `LISTED` lines, and how many more there are."""
    for line in lines[:LISTED]:
        print(line)
    if len(lines) > LISTED:
        print(f"... and {len(lines) - LISTED} more; --json lists all")
