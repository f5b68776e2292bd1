"""Look at stores, check them, compare them, and change their form.

python -m cache info    coco_val.zarr              # what is in it, or how far an unfinished one has come
python -m cache verify  coco_val.zarr              # read and check everything; exit 1 and the bad records
python -m cache diff    coco_val.zarr coco_val.h5  # the same content? exit 1 and what differs
python -m cache convert coco_val.zarr coco_val.h5  # the other form, the same content hash
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cache.errors import StoreError

LISTED = 20  # problems printed for a person; --json has all


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or 1 for a refusal or a failed check."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except StoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cache", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, run, paths, text in (
        ("info", _info, ["PATH"], "what is in a store, or how far an unfinished one has come"),
        ("verify", _verify, ["PATH"], "read and check every record, the mask, the hashes and the manifest"),
        ("diff", _diff, ["A", "B"], "do two stores hold the same? if not, what differs"),
        ("convert", _convert, ["SRC", "DST"], "write a store in the form that the suffix of DST names"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        for path in paths:
            command.add_argument(path.lower(), metavar=path, help="a .zarr directory or an .h5 file")
        if run is _convert:
            command.add_argument("--resume", action="store_true", help="go on with an interrupted conversion")
            command.add_argument("--overwrite", action="store_true", help="replace DST, if it is a store")
        else:
            command.add_argument("--json", action="store_true", help="print one JSON document")
        command.set_defaults(run=run)
    return parser


def _info(options: argparse.Namespace) -> int:
    from cache.info import describe, page

    facts = describe(options.path)
    print(json.dumps(facts, indent=1) if options.json else page(facts))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from cache.verify import report, verify_store

    with _progress("verify") as progress:
        problems = verify_store(options.path, progress)
    if options.json:
        print(json.dumps(report(problems), indent=1))
    else:
        _list(options.path, "sound: every record, hash and entry of the manifest", [p.what for p in problems])
    return 1 if problems else 0


def _diff(options: argparse.Namespace) -> int:
    from cache.diff import diff_stores

    found = diff_stores(options.a, options.b)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        columns = [f"column {path}: {change}" for path, change in found["columns"].items()]
        records = [f"records: {name} {value:g}" for name, value in found.get("records", {}).items() if value]
        if "records" not in found:
            records = ["the records were not compared: instances or sizes differ"]
        _list(options.a, "identical", [*records, *found["manifest"], *columns])
    return 0 if found["identical"] else 1


def _convert(options: argparse.Namespace) -> int:
    from cache.convert import convert_store

    with _progress("convert") as progress:
        path = convert_store(
            options.src, options.dst, resume=options.resume, overwrite=options.overwrite, progress=progress
        )
    print(path)
    return 0


def _list(path: str, good: str, problems: Sequence[str]) -> None:
    """One line if there is nothing to say, else every problem on its own line, up to a screenful."""
    if not problems:
        print(f"{path}: {good}")
    for problem in problems[:LISTED]:
        print(problem)
    if len(problems) > LISTED:
        print(f"... and {len(problems) - LISTED} more; --json lists all")


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int], Any]]:
    """A bar on a terminal, nothing elsewhere."""
    from tqdm import tqdm

    with tqdm(desc=what, unit=" instances", disable=not sys.stderr.isatty()) as bar:
        yield bar.update


if __name__ == "__main__":
    sys.exit(main())
