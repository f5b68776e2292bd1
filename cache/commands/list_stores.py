"""List the stores below a folder, a bucket, a web folder or a repository of the Hugging Face Hub.

    python -m cache list stores
    python -m cache list s3://team/coco
    python -m cache list hf://datasets/team/coco-teacher
    python -m cache list https://host/coco      # if the server lists its files
    python -m cache list stores --json          # all facts as JSON, for programs

Only the manifests are read. Stores that cannot be used (unfinished, damaged, a broken link) are listed with the reason.
"""

import argparse
import json
from collections.abc import Sequence

from cache.commands.arguments import add_json
from cache.files.location import redact
from cache.sharing.finding import FoundStore, find_stores

_DIGITS = 12  # of the content hash; --json prints all 64
_HEADER = ("store", "instances", "teacher", "size", "content", "state")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("place", metavar="URL", help="a folder, or an http(s)://, s3:// or hf://datasets/ URL")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print the stores; returns 0, also if there are none."""
    found = find_stores(options.place)
    if options.json:
        print(json.dumps([store.to_json() for store in found], indent=1))
    elif found:
        print(format_table(found))
    else:
        print(f"{redact(options.place)}: no stores")
    return 0


def format_table(found: Sequence[FoundStore]) -> str:
    """One line per store, below a header."""
    rows = [_HEADER, *(tuple(map(_printable, _row(store))) for store in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    right = (_HEADER.index("instances"), _HEADER.index("size"))
    return "\n".join(
        "  ".join(
            text.rjust(width) if column in right else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _row(store: FoundStore) -> tuple[str, ...]:
    facts = store.to_json()
    instances, content = facts["instances"], facts["content_sha256"]
    return (
        store.name,
        "-" if instances is None else f"{instances:,}",
        facts["teacher"] or "-",
        format_size(store.nbytes),
        content[:_DIGITS] if content else "-",
        store.problem or "complete",
    )


def _printable(text: str) -> str:
    """The text without characters that could change the terminal: names and manifests may come from anybody."""
    return "".join(character if character.isprintable() else "?" for character in text)


def format_size(nbytes: int | None) -> str:
    """A size in kB, MB or GB (powers of 1000) with three digits; ``-`` if it is unknown."""
    if nbytes is None:
        return "-"
    size, units = float(nbytes), ["B", "kB", "MB", "GB", "TB"]
    while size >= 999.5 and len(units) > 1:
        size, units = size / 1000, units[1:]
    digits = 0 if units[0] == "B" or size >= 99.95 else 1 if size >= 9.995 else 2
    return f"{size:.{digits}f} {units[0]}"
