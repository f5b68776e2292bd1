"""The staging directory `PATH.partial`, where a store is written until it is complete.

    lock               held by the current run (cache/writing/lock.py)
    plan.json          identifies the run; a run with another plan is refused
    receipts/K.npz     the columns of shard K, written after its files: the shard is done
    store/...          shard files in the Zarr layout (for HDF5 they hold deflated chunks, which are copied at the end)
    store.h5           the store in the HDF5 layout, once assembled
    shares.json, share-K.lock      of processes that write shares of the store (cache/writing/shares.py)

Every file is written under a temporary name, synced and renamed, so a file under its own name is complete.
"""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.errors import StoreError, StoreFormatError, StoreNotFoundError
from cache.files.durable import write_atomically
from cache.format.manifest import VOLATILE, differences
from cache.format.spec import FORMAT_NAME, PLAN
from cache.writing.lock import LOCK

REPAIR = "repair"  # entry of the plan: facts about the damaged store that the new one replaces
Receipt = Mapping[str, npt.NDArray[Any]]  # name -> the shard's rows of a column


def target_of(path: Path) -> Path:
    """Where the store `path` is written: `path` itself or, if it is a symbolic link, the place that it leads to.

    Raises:
        StoreError: The link leads nowhere: into a folder that does not exist, or to itself.
    """
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if target.is_symlink() or not target.parent.is_dir():
        raise StoreError(f"{path} is a broken symbolic link to {path.readlink()}; delete it, or name the store itself")
    return target


def staging_path(path: Path) -> Path:
    """The staging directory of the store `path`: beside the store itself if `path` is a symbolic link."""
    target = target_of(path)
    return target.with_name(target.name + ".partial")


def make_plan(
    layout: str, spec: Mapping[str, Any], provenance: Any, columns: Mapping[str, npt.NDArray[Any]] | None
) -> dict[str, Any]:
    """The document that identifies a run, with the SHA-256 of the columns that the caller gave (None if unknown)."""
    hashes = {name: hashlib.sha256(column.data).hexdigest() for name, column in (columns or {}).items()} or None
    return {"format": FORMAT_NAME, "form": layout, "spec": spec, "columns": hashes, "provenance": provenance}


def read_plan(staging: Path) -> dict[str, Any]:
    """The plan of a staging directory; `StoreError` if it is not the staging directory of a store."""
    try:
        plan = json.loads((staging / PLAN).read_bytes())
    except FileNotFoundError:
        raise StoreNotFoundError(f"{staging}: not a staging directory of a store: it has no {PLAN}") from None
    except (OSError, ValueError) as error:
        raise StoreFormatError(f"{staging}: not a staging directory of a store: {error}") from error
    if not isinstance(plan, dict) or plan.get("format") != FORMAT_NAME:
        raise StoreFormatError(f"{staging}: not a staging directory of a store")
    return plan


def awaits_repair(path: Path) -> bool:
    """Whether a repair of the store `path` is staged: good shards are kept, and the others must be written again."""
    staging = staging_path(path)
    return (staging / PLAN).is_file() and REPAIR in read_plan(staging)


def has_no_plan(staging: Path, plan: str = PLAN) -> bool:
    """Whether there is only a lock and temporary files: the run was killed before its plan was written."""
    return staging.is_dir() and all(
        entry.name == LOCK or entry.name.startswith(f".{plan}.") for entry in staging.iterdir()
    )


def refuse_changed_plan(staging: Path, plan: Mapping[str, Any]) -> None:
    """Raise `StoreError` if `plan` differs from the plan of the staging directory; the message names the fields."""
    begun = read_plan(staging)
    ignored = [REPAIR, *(f"provenance.{name}" for name in VOLATILE)]
    if begun.get("columns") is None:  # a repair of a store whose columns may be damaged
        ignored.append("columns")
    changed = differences(begun, plan, ignore=ignored)
    if changed:
        listed = "; ".join(changed[:6]) + (f"; and {len(changed) - 6} more" if len(changed) > 6 else "")
        raise StoreError(
            f"{staging} was started by a different run, and resuming would mix the two: {listed}. Repeat the first "
            "command, or start again with --overwrite"
        )


def write_receipt(staging: Path, shard: int, receipt: Receipt) -> None:
    """Mark a shard as done; its files must have been synced to the disk."""
    buffer = io.BytesIO()
    np.savez(buffer, **receipt)  # type: ignore[arg-type]
    write_atomically(_receipt_path(staging, shard), [buffer.getvalue()])


def read_receipt(staging: Path, shard: int) -> dict[str, npt.NDArray[Any]]:
    """The columns of a finished shard."""
    path = _receipt_path(staging, shard)
    try:
        with np.load(path, allow_pickle=False) as receipt:
            return dict(receipt)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise StoreFormatError(f"{path}: damaged; delete it and run again with --resume: {error}") from error


def has_receipt(staging: Path, shard: int) -> bool:
    """Whether the shard is done."""
    return _receipt_path(staging, shard).is_file()


def _receipt_path(staging: Path, shard: int) -> Path:
    return staging / "receipts" / f"{shard:05d}.npz"
