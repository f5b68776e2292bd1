"""Look at stores, check them, compare them, and change their form.

python -m cache info    coco_val.zarr              # what is in it, or how far an unfinished one has come
python -m cache verify  coco_val.zarr              # read and check everything; exit 1 and the bad records
python -m cache verify  coco_val.zarr --repair     # keep what is sound; the run that made it rebuilds the rest
python -m cache diff    coco_val.zarr coco_val.h5  # the same content? exit 1 and what differs
python -m cache diff    exact.zarr coded.zarr --within-codec-error   # or as much the same as the codecs allow?
python -m cache convert coco_val.zarr coco_val.h5  # the other form, the same content hash
python -m cache convert exact.zarr small.h5 --codec root4:64         # another codec, its error measured and stated
python -m cache push    coco_val.zarr s3://team/coco/    # for the others; docs/sharing.md
python -m cache pull    s3://team/coco/coco_val.zarr .   # from the others; goes on where it was interrupted
python -m cache pack    coco_val.zarr coco_val.zip       # one file, which opens as it is; unpack takes it apart

A PATH may also be a URL: http(s)://, s3://, hf://datasets/...
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cache.errors import StoreError
from cache.location import redact
from console.flags import Parser
from console.pipe import exit_with

MEGABYTE = 1_000_000
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
    parser = Parser(prog="python -m cache", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
            command.add_argument("--codec", metavar="NAME", help="root4, root4:LEVELS, float16 or float32 (as in SRC)")
            command.add_argument("--resume", action="store_true", help="go on with an interrupted conversion")
            command.add_argument("--overwrite", action="store_true", help="replace DST, if it is a store")
        else:
            command.add_argument("--json", action="store_true", help="print one JSON document")
        if run is _verify:
            command.add_argument(
                "--repair",
                action="store_true",
                help="stage the good shards, so that precompute --resume makes the others",
            )
        if run is _diff:
            command.add_argument(
                "--within-codec-error",
                action="store_true",
                help="exit 0 also if the maps differ by no more than both codecs' stated errors explain",
            )
        command.set_defaults(run=run)
    _add_sharing(commands)
    return parser


def _add_sharing(commands: Any) -> None:
    """The commands that copy a store; all of them go on where they were interrupted, or begin anew."""
    for name, run, paths, text in (
        ("push", _push, ["STORE", "URL"], "copy a store to a folder, s3:// or hf:// URL, whole or not at all"),
        ("pull", _pull, ["URL", "STORE"], "copy a store from a folder or URL, checked, whole or not at all"),
        ("pack", _pack, ["STORE", "ARCHIVE"], "write a Zarr store as one .zip file, which opens as it is"),
        ("unpack", _pull, ["ARCHIVE", "STORE"], "write an archive as a .zarr directory again"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        for path in paths:
            command.add_argument("src" if path == paths[0] else "dst", metavar=path)
        command.add_argument("--overwrite", action="store_true", help=f"replace {paths[1]}, if it is a store")
        if name == "pull":
            command.add_argument("--split", metavar="NAME", help="URL is a folder of stores: take NAME.zarr or .h5")
            command.add_argument("--limit", metavar="N", type=int, help="the first N instances, a store of its own")
        command.set_defaults(run=run, split=None, limit=None)


def _info(options: argparse.Namespace) -> int:
    from cache.info import describe, page

    facts = describe(options.path)
    print(json.dumps(facts, indent=1) if options.json else page(facts))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from cache.hdf5_probe import crash_of
    from cache.verify import Problem, bad_shards, report, verify_store

    crash = crash_of(options.path)
    with _progress("verify") as progress:
        problems = [Problem(None, crash)] if crash else verify_store(options.path, progress)
    staged = _repair(options.path, bad_shards(problems)) if options.repair and problems and not crash else {}
    if options.json:
        print(json.dumps({**report(problems), **staged}, indent=1))
    else:
        if not problems:
            print(f"{redact(options.path)}: sound: every record, hash and entry of the manifest")
        _list([problem.what for problem in problems])
        if staged:
            print(REPAIR.format(**staged))
    return 1 if problems else 0


REPAIR = """\
{staging}: {kept} of {shards} shards are sound and staged.
Run the command that made the store, with --resume: it makes the others, then replaces the store, which stays as it is
until then."""


def _repair(path: str, bad: Sequence[int]) -> dict[str, Any]:
    """Stage what is sound; the facts for `REPAIR`."""
    from cache.repair import stage_repair
    from cache.staging import staging_path

    with _progress("repair") as progress:
        writer = stage_repair(path, bad, progress)
    shards = writer.spec.shards
    return {"staging": str(staging_path(writer.path)), "shards": shards, "kept": shards - len(writer.pending_shards())}


def _diff(options: argparse.Namespace) -> int:
    from cache.diff import diff_stores
    from cache.diff_page import findings, verdict

    found = diff_stores(options.a, options.b)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        print(f"{redact(options.a)}, {redact(options.b)}: {verdict(found)}")
        _list(findings(found))
    return 0 if found["identical"] or (options.within_codec_error and found["within_codec_error"]) else 1


def _convert(options: argparse.Namespace) -> int:
    from cache.convert import convert_store

    with _progress("convert") as progress:
        path = convert_store(
            options.src,
            options.dst,
            codec=options.codec,
            resume=options.resume,
            overwrite=options.overwrite,
            progress=progress,
        )
    print(path)
    return 0


def _push(options: argparse.Namespace) -> int:
    from cache.push import push_store

    with _progress("push", "MB") as progress:
        place = push_store(options.src, options.dst, overwrite=options.overwrite, progress=progress)
    print(place)
    return 0


def _pull(options: argparse.Namespace) -> int:
    from cache.location import locate
    from cache.part import pull_part
    from cache.pull import find_split, pull_store
    from cache.target import FORMS

    source = locate(options.src)
    if options.split:
        source = find_split(source, options.split)
    target, name = Path(options.dst), source.name
    if options.command == "unpack":
        name = name.removesuffix(".zip").removesuffix(".zarr") + ".zarr"
    if target.suffix not in (*FORMS, ".zip"):
        target = target / name
    with _progress("pull", "MB" if options.limit is None else "instances") as progress:
        if options.limit is None:
            path = pull_store(source, target, overwrite=options.overwrite, progress=progress)
        else:
            path = pull_part(source, target, options.limit, overwrite=options.overwrite, progress=progress)
    print(path)
    return 0


def _pack(options: argparse.Namespace) -> int:
    from cache.pack import FAT32_LIMIT, pack_store

    with _progress("pack", "MB") as progress:
        path = pack_store(options.src, options.dst, overwrite=options.overwrite, progress=progress)
    print(path)
    if path.stat().st_size > FAT32_LIMIT:
        print(f"{path}: larger than 4 GiB, which a FAT32 disk cannot hold; exFAT can", file=sys.stderr)
    return 0


def _list(lines: Sequence[str]) -> None:
    """A line each, up to a screenful."""
    for line in lines[:LISTED]:
        print(line)
    if len(lines) > LISTED:
        print(f"... and {len(lines) - LISTED} more; --json lists all")


@contextmanager
def _progress(what: str, unit: str = "instances") -> Iterator[Callable[[int], Any]]:
    """A function to be told how many more instances, or with the unit MB how many more bytes, are done."""
    from console.progress import progress

    with progress(what, unit) as tell:
        done, size = 0, MEGABYTE if unit == "MB" else 1

        def add(more: int) -> None:
            nonlocal done
            done += more
            tell(done // size, 0)

        yield add


if __name__ == "__main__":
    exit_with(main)
