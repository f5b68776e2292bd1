"""Unpack an archive that `pack` has written. The .zarr directory is identical, byte for byte, to the packed store.

    python -m cache unpack val.zip val.zarr
    python -m cache unpack val.zip stores       # into a folder, under the archive's name

An archive can also be used without unpacking: every command that reads a store accepts it.
"""

import argparse

from cache.commands.arguments import add_overwrite
from cache.commands.pull import place_in, pull_store
from cache.files.location import local_target, locate, redact
from kdcli.progress import show_count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("src", metavar="ARCHIVE", help="a .zip file that pack has written: a path or a URL")
    parser.add_argument(
        "dst", metavar="STORE", help="NAME.zarr, or a folder, in which the store gets the archive's name"
    )
    add_overwrite(parser, "STORE")


def run(options: argparse.Namespace) -> int:
    """Unpack the archive and print the path of the store; returns 0."""
    folder = local_target(options.dst, f"python -m cache unpack {redact(options.src)}")
    source = locate(options.src)
    name = source.name.removesuffix(".zip").removesuffix(".zarr") + ".zarr"
    with show_count("unpack", "MB") as advance:
        path = pull_store(source, place_in(folder, name), overwrite=options.overwrite, advance=advance)
    print(path)
    return 0
