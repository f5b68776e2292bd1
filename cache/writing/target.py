"""The target path of a new store: checks of what is there, and the move of the finished store."""

import shutil
from pathlib import Path

from cache.errors import StoreError, StoreFormatError
from cache.files import durable
from cache.reading.opening import find_layout
from cache.writing import staging
from cache.writing.lock import lock

LAYOUTS = {".zarr": "zarr", ".h5": "hdf5", ".hdf5": "hdf5"}  # suffix -> layout
ROOT_ENTRIES = {"zarr.json", "heatmaps", "frames", "views", "instances", "ground_truth", "integrity"}


def layout_of(path: Path) -> str:
    """The layout that the suffix of `path` chooses: `zarr` or `hdf5`; `StoreError` for another suffix."""
    if path.suffix not in LAYOUTS:
        raise StoreError(f"{path}: the name of a store must end in one of {sorted(LAYOUTS)}, which chooses its layout")
    return LAYOUTS[path.suffix]


def prepare_target(path: Path, *, resume: bool, overwrite: bool) -> None:
    """Check that a store may be written to `path`; with `overwrite`, remove an old staging directory.

    Raises:
        StoreError: A store or staging directory exists and the flags do not allow it, or other files are there.
    """
    directory = staging.staging_path(path)
    if path.exists() and not (resume and staging.awaits_repair(path)):
        if not overwrite:
            raise StoreError(f"{path} exists; use it, or replace it with --overwrite")
        _refuse_foreign(path)
    if directory.exists() and not staging.has_no_plan(directory):
        staging.read_plan(directory)
        if overwrite and not resume:
            held = lock(directory)
            shutil.rmtree(directory)
            del held
        elif not resume:
            raise StoreError(
                f"{directory} is an unfinished run; continue it with --resume, or start again with --overwrite"
            )


def move_into_place(staged: Path, path: Path) -> None:
    """Rename the staged store to `path`; an old store there is renamed first and deleted afterwards."""
    old = path.with_name(path.name + ".replaced")
    if path.is_dir():
        if old.exists():
            _remove(old)  # left by a run that was killed in the last line of this function
        _refuse_foreign(path)
        path.rename(old)
    staged.rename(path)
    durable.sync(path.parent)
    if old.exists():
        _remove(old)


def _remove(path: Path) -> None:
    _refuse_foreign(path)
    shutil.rmtree(path)


def _refuse_foreign(path: Path) -> None:
    """Raise `StoreError` unless `path` holds a store, possibly damaged, and nothing else, so that it may be deleted."""
    try:
        find_layout(path).manifest()
    except StoreFormatError as error:
        raise StoreError(f"{path} is not a store of this program; it is not replaced") from error
    foreign = sorted({entry.name for entry in path.iterdir()} - ROOT_ENTRIES) if path.is_dir() else []
    if foreign:
        raise StoreError(f"{path} holds files that do not belong to a store ({foreign[:3]}); it is not replaced")
