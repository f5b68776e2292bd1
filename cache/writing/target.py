"""The target path of a new store: checks of what is there, and the move of the finished store."""

from pathlib import Path

from cache.errors import StoreError, StoreFormatError
from cache.files.durable import disk_errors
from cache.reading.opening import find_layout
from cache.writing import staging
from cache.writing.lock import lock
from kdcli import system

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
        StoreError: A store or staging directory exists and the flags do not allow it, or other files are there; or
            `path` is a symbolic link that is broken, or that leads to a name for another layout.
    """
    directory = staging.staging_path(path)
    _check_link(path)
    if path.exists() and not (resume and staging.awaits_repair(path)):
        if not overwrite:
            raise StoreError(f"{path} exists; use it, or replace it with --overwrite")
        refuse_foreign(path)
    if directory.exists() and not staging.has_no_plan(directory):
        staging.read_plan(directory)
        if overwrite and not resume:
            lock(directory).remove(directory)
        elif not resume:
            raise StoreError(
                f"{directory} is an unfinished run; continue it with --resume, or start again with --overwrite"
            )


def _check_link(path: Path) -> None:
    """Raise `StoreError` if a link's own suffix and that of the store which it leads to choose different layouts."""
    target = staging.target_of(path)
    if LAYOUTS.get(target.suffix, layout_of(path)) != layout_of(path):
        raise StoreError(
            f"{path} is a symbolic link to {target}, whose name is for another layout; name the store itself"
        )


def move_into_place(staged: Path, path: Path) -> None:
    """Rename the staged store to `path`; an old store there is renamed first and deleted afterwards.

    If `path` is a symbolic link, the link stays, and the store that it leads to is replaced.
    """
    path = staging.target_of(path)
    old = path.with_name(path.name + ".replaced")
    with disk_errors(path.parent, 0):
        if path.is_dir():
            if old.exists() or old.is_symlink():
                _remove(old)  # left by a run that was killed in the last line of this function
            refuse_foreign(path)
            system.replace(path, old)
        system.replace(staged, path)
        system.sync(path.parent)
        if old.exists() or old.is_symlink():
            _remove(old)


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
        return
    refuse_foreign(path)
    system.remove_tree(path)


def refuse_foreign(path: Path) -> None:
    """Raise `StoreError` unless `path` holds a store, possibly damaged, and nothing else, so that it may be deleted."""
    try:
        find_layout(path).manifest()
    except StoreFormatError as error:
        raise StoreError(f"{path} is not a store of this program; it is not replaced") from error
    foreign = sorted({entry.name for entry in path.iterdir()} - ROOT_ENTRIES) if path.is_dir() else []
    if foreign:
        raise StoreError(f"{path} holds files that do not belong to a store ({foreign[:3]}); it is not replaced")
