"""Look at stores, check them, compare them, change their form, and pass them on.

    python -m cache info train.zarr             # what is in it?
    python -m cache verify train.zarr           # is it sound? exit code 1 if not

A store that is read may be named by a URL, too: http(s)://, s3://, hf://datasets/... The --help of each command has
examples; docs/sharing.md says how stores travel.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cache.commands import help as manual
from cache.errors import StoreError
from cache.files.location import redact
from kdcli.flags import Parser, exit_with

MEGABYTE = 1_000_000
LISTED = 20  # problems printed for a person; --json has all
READ = "a store: a .zarr directory, an .h5 or .zip file, or the URL of one"
JSON = "print one JSON document"


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
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="python -m cache", description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, add_arguments, text, taught in (
        ("info", _add_info, "what is in a store, or how far an unfinished one has come", manual.INFO),
        ("verify", _add_verify, "read and check every record, the mask, the hashes and the manifest", manual.VERIFY),
        ("diff", _add_diff, "do two stores hold the same? if not, what differs", manual.DIFF),
        ("convert", _add_convert, "write a store in its other form or in another codec", manual.CONVERT),
        ("push", _add_push, "copy a store to a folder, s3:// or hf:// URL, whole or not at all", manual.PUSH),
        ("pull", _add_pull, "copy a store from a folder or URL, checked, whole or not at all", manual.PULL),
        ("pack", _add_pack, "write a Zarr store as one .zip file, which opens as it is", manual.PACK),
        ("unpack", _add_unpack, "write an archive as a .zarr directory again", manual.UNPACK),
    ):
        add_arguments(commands.add_parser(name, help=text, description=taught, formatter_class=raw))
    return parser


def _add_info(info: argparse.ArgumentParser) -> None:
    info.add_argument("path", metavar="PATH", help=f"{READ}, or what is there of an unfinished one")
    info.add_argument("--json", action="store_true", help=JSON)
    info.set_defaults(run=_info)


def _add_verify(verify: argparse.ArgumentParser) -> None:
    verify.add_argument("path", metavar="PATH", help=READ)
    verify.add_argument("--json", action="store_true", help=JSON)
    verify.add_argument(
        "--repair", action="store_true", help="stage the good shards, so that precompute --resume makes the others"
    )
    verify.set_defaults(run=_verify)


def _add_diff(diff: argparse.ArgumentParser) -> None:
    diff.add_argument("a", metavar="A", help=READ)
    diff.add_argument("b", metavar="B", help="the same")
    diff.add_argument("--json", action="store_true", help=JSON)
    diff.add_argument(
        "--within-codec-error",
        action="store_true",
        help="exit 0 also if the maps differ by no more than both codecs' stated errors explain",
    )
    diff.set_defaults(run=_diff)


def _add_convert(convert: argparse.ArgumentParser) -> None:
    convert.add_argument("src", metavar="SRC", help=READ)
    convert.add_argument("dst", metavar="DST", help="the new store: NAME.zarr, a directory, or NAME.h5, one file")
    convert.add_argument("--codec", metavar="NAME", help="root4, root4:LEVELS, float16 or float32 (as in SRC)")
    convert.add_argument("--resume", action="store_true", help="go on with an interrupted conversion")
    _add_overwrite(convert, "DST")
    convert.set_defaults(run=_convert)


def _add_push(push: argparse.ArgumentParser) -> None:
    push.add_argument("src", metavar="STORE", help="a store of this machine: a .zarr directory, an .h5 or a .zip file")
    push.add_argument(
        "dst",
        metavar="URL",
        help="a folder, s3:// or hf://datasets/ URL; one that ends in .zarr, .h5 or .zip is the store itself",
    )
    _add_overwrite(push, "the store at URL")
    push.set_defaults(run=_push)


def _add_pull(pull: argparse.ArgumentParser) -> None:
    pull.add_argument("src", metavar="URL", help=f"{READ}; with --split the folder that holds it")
    pull.add_argument("dst", metavar="STORE", help="the copy, or a folder, where it gets the source's name")
    pull.add_argument("--split", metavar="NAME", help="URL is a folder of stores: take NAME.zarr, .h5 or .zip")
    pull.add_argument("--limit", metavar="N", type=int, help="the first N instances, a store of its own")
    _add_overwrite(pull, "STORE")
    pull.set_defaults(run=_pull)


def _add_pack(pack: argparse.ArgumentParser) -> None:
    pack.add_argument("src", metavar="STORE", help="a store of the Zarr form, here or at a URL")
    pack.add_argument("dst", metavar="ARCHIVE", help="the file to write: NAME.zip")
    _add_overwrite(pack, "ARCHIVE")
    pack.set_defaults(run=_pack)


def _add_unpack(unpack: argparse.ArgumentParser) -> None:
    unpack.add_argument("src", metavar="ARCHIVE", help="a .zip file that pack has written, here or at a URL")
    unpack.add_argument("dst", metavar="STORE", help="NAME.zarr, or a folder, where it gets the archive's name")
    _add_overwrite(unpack, "STORE")
    unpack.set_defaults(run=_pull, split=None, limit=None)


def _add_overwrite(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--overwrite", action="store_true", help=f"replace {what}, if it is a store")


def _info(options: argparse.Namespace) -> int:
    from cache.commands.info import describe, page

    facts = describe(options.path)
    print(json.dumps(facts, indent=1) if options.json else page(facts))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from cache.commands.hdf5_probe import crash_of
    from cache.commands.verify import Problem, bad_shards, report, verify_store

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
    from cache.commands.repair import stage_repair
    from cache.writing.staging import staging_path

    with _progress("repair") as progress:
        writer = stage_repair(path, bad, progress)
    shards = writer.spec.shards
    return {"staging": str(staging_path(writer.path)), "shards": shards, "kept": shards - len(writer.pending_shards())}


def _diff(options: argparse.Namespace) -> int:
    from cache.commands.diff import diff_stores, findings, verdict

    found = diff_stores(options.a, options.b)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        print(f"{redact(options.a)}, {redact(options.b)}: {verdict(found)}")
        _list(findings(found))
    return 0 if found["identical"] or (options.within_codec_error and found["within_codec_error"]) else 1


def _convert(options: argparse.Namespace) -> int:
    from cache.commands.convert import convert_store

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
    from cache.commands.push import push_store

    with _progress("push", "MB") as progress:
        place = push_store(options.src, options.dst, overwrite=options.overwrite, progress=progress)
    print(place)
    return 0


def _pull(options: argparse.Namespace) -> int:
    from cache.commands.pull import find_split, pull_store
    from cache.commands.subset import pull_part
    from cache.files.location import locate
    from cache.writing.target import FORMS

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
    from cache.commands.pack import FAT32_LIMIT, pack_store

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
    from kdcli.progress import progress

    with progress(what, unit) as tell:
        done, size = 0, MEGABYTE if unit == "MB" else 1

        def add(more: int) -> None:
            nonlocal done
            done += more
            tell(done // size, 0)

        yield add


if __name__ == "__main__":
    exit_with(main)
