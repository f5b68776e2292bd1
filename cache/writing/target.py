"""The place where a store is going to be: what may already be there, and how the new one takes it."""

import shutil
from pathlib import Path

from cache.errors import StoreError, StoreFormatError
from cache.files import durable
from cache.reading.opening import find_layout
from cache.writing import staging
from cache.writing.lock import lock

FORMS = {".zarr": "zarr", ".h5": "hdf5", ".hdf5": "hdf5"}
ROOT_ENTRIES = {"zarr.json", "heatmaps", "frames", "views", "instances", "ground_truth", "integrity"}


def form_of(path: Path) -> str:
    """`zarr` or `hdf5`, as the suffix says."""
    if path.suffix not in FORMS:
        raise StoreError(f"{path}: the name of a store ends in one of {sorted(FORMS)}, which chooses its form")
    return FORMS[path.suffix]


def make_way(path: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse what neither flag allows; with `overwrite`, remove an old staging directory of ours."""
    directory = staging.staging_path(path)
    if path.exists() and not (resume and staging.awaits_repair(path)):
        if not overwrite:
            raise StoreError(f"{path} exists; use it, or replace it with --overwrite")
        _refuse_foreign(path)
    if directory.exists() and not staging.is_unbegun(directory):
        staging.read_plan(directory)
        if overwrite and not resume:
            held = lock(directory)
            shutil.rmtree(directory)
            del held
        elif not resume:
            raise StoreError(f"{directory} is an unfinished run; go on with --resume, or start anew with --overwrite")


def put_in_place(staged: Path, path: Path) -> None:
    """Give the staged store its final name; an old store is moved aside first and then deleted."""
    old = path.with_name(path.name + ".replaced")
    if path.is_dir():
        if old.exists():
            _remove(old)  # left behind by a run that was killed in the last line of this function
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
    """Raise unless `path` is recognisably a store, damaged or not, and nothing else: it is going to be deleted."""
    try:
        find_layout(path).manifest()
    except StoreFormatError as error:
        raise StoreError(f"{path} is not a store that this program could have made; it is not replaced") from error
    foreign = sorted({entry.name for entry in path.iterdir()} - ROOT_ENTRIES) if path.is_dir() else []
    if foreign:
        raise StoreError(f"{path} holds files that are no part of a store ({foreign[:3]}); it is not replaced")
