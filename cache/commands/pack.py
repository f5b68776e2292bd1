"""Write a store in the Zarr layout as one .zip file, which every command can read without unpacking it.

    python -m cache pack val.zarr val.zip
    python -m cache pack s3://team/coco/val.zarr val.zip        # directly from a URL

One file is easier to copy to a USB stick or to archive. An .h5 store is one file already. The same store always gives
the same bytes.
"""

import argparse
import sys
import zipfile
from pathlib import Path

from cache.commands.arguments import add_overwrite
from cache.errors import StoreError
from cache.files.durable import disk_errors
from cache.files.location import Location, local_target, redact
from cache.reading.opening import open_store
from cache.reading.store import Store
from cache.writing.staging import target_of
from kdcli.files import replacing
from kdcli.progress import Advance, no_advance, show_count
from kdcli.system import sync

FAT32_LIMIT = (1 << 32) - 1  # bytes of a file
_PIECE = 1 << 23  # bytes copied at a time
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first date of the ZIP format: the time of packing is not recorded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("src", metavar="STORE", help="a store in the Zarr layout: a path or a URL")
    parser.add_argument("dst", metavar="ARCHIVE", help="the file to write: NAME.zip")
    add_overwrite(parser, "ARCHIVE")


def run(options: argparse.Namespace) -> int:
    """Pack the store and print the path of the archive; returns 0."""
    with show_count("pack", "MB") as advance:
        path = pack_store(options.src, options.dst, overwrite=options.overwrite, advance=advance)
    print(path)
    if path.stat().st_size > FAT32_LIMIT:
        print(f"{path}: larger than 4 GiB, the limit of FAT32 disks; exFAT has no such limit", file=sys.stderr)
    return 0


def pack_store(
    source: str | Path | Location, target: str | Path, *, overwrite: bool = False, advance: Advance = no_advance
) -> Path:
    """Write the store at `source` to the archive `target`, which appears when it is complete; returns the path.

    The members are stored uncompressed, so `open_store` and zarr's ZipStore read the archive directly. `advance` is
    called with the number of bytes of each file that was added.

    Raises:
        StoreError: The store is an HDF5 file, or the target exists or does not end in `.zip`.
    """
    target = local_target(target, f"python -m cache pack {redact(source)}")
    store = open_store(source, local_bytes=0)
    if store.layout != "zarr":
        raise StoreError(f"{store.path}: an HDF5 store is one file already: copy it as it is")
    if target.suffix != ".zip":
        raise StoreError(f"{target}: the name of an archive must end in .zip")
    if target.exists() and not overwrite:
        raise StoreError(f"{target} exists; replace it with --overwrite")
    if target.exists():
        open_store(target)  # raises unless it is a store: nothing else is replaced
    place = target_of(target)
    with disk_errors(place.parent, store.nbytes):
        with replacing(place) as temporary:
            _write(store, temporary, advance)
            sync(temporary)
        sync(place.parent)
    return target


def _write(store: Store, path: Path, advance: Advance) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for key in store.file_keys():
            size = store.files.size(key)
            member = zipfile.ZipInfo(key, _EPOCH)
            member.create_system, member.external_attr, member.file_size = 3, 0o100644 << 16, size
            with archive.open(member, "w", force_zip64=size > FAT32_LIMIT // 2) as out:
                for start in range(0, size, _PIECE):
                    out.write(store.files.read(key, start, min(_PIECE, size - start)))
            advance(size)
