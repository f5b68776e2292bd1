"""The staging directory `PATH.partial`, where a store grows until it is whole.

    lock               one run at a time (cache/lock.py)
    plan.json          what is being made; a run that would make something else is refused
    receipts/K.npz     the columns of shard K, written after its files: the shard is done
    store/...          shard files where the Zarr form has them (for HDF5 they hold deflated chunks, joined at the end)
    store.h5           the HDF5 form, once joined

Every file is written beside its place, synchronised and renamed, so that what has its name is whole.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.errors import StoreError, StoreFormatError, StoreNotFoundError
from cache.files.durable import write_whole
from cache.format.manifest import VOLATILE, differences
from cache.format.spec import FORMAT_NAME, PLAN
from cache.writing.lock import LOCK

REPAIR = "repair"  # entry of the plan: what is known of the damaged store that this one replaces


Receipt = Mapping[str, npt.NDArray[Any]]


def staging_path(path: Path) -> Path:
    """Where the store `path` is staged."""
    return path.with_name(path.name + ".partial")


def make_plan(
    form: str, spec: Mapping[str, Any], provenance: Any, columns: Mapping[str, npt.NDArray[Any]] | None
) -> dict[str, Any]:
    """The document that identifies a run, with the SHA-256 of the columns that the caller gave, if they are known."""
    hashes = {name: hashlib.sha256(column.data).hexdigest() for name, column in (columns or {}).items()} or None
    return {"format": FORMAT_NAME, "form": form, "spec": spec, "columns": hashes, "provenance": provenance}


def read_plan(staging: Path) -> dict[str, Any]:
    """The plan of a staging directory; `StoreFormatError` if it is not one of ours."""
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
    """Is the store `path` a damaged one whose repair was begun: good shards are staged, the others to be made again?"""
    staging = staging_path(path)
    return (staging / PLAN).is_file() and REPAIR in read_plan(staging)


def is_unbegun(staging: Path, plan: str = PLAN) -> bool:
    """Was the run killed before its plan was whole, so that there is nothing but an attempt at it?"""
    return staging.is_dir() and all(
        entry.name == LOCK or entry.name.startswith(f".{plan}.") for entry in staging.iterdir()
    )


def refuse_changed_plan(staging: Path, plan: Mapping[str, Any]) -> None:
    """Raise `StoreError` naming the fields in which `plan` differs from the one that the directory was begun with."""
    begun = read_plan(staging)
    ignored = [REPAIR, *(f"provenance.{name}" for name in VOLATILE)]
    if begun.get("columns") is None:  # a repair that cannot tell whether the store's columns are sound
        ignored.append("columns")
    changed = differences(begun, plan, ignore=ignored)
    if changed:
        listed = "; ".join(changed[:6]) + (f"; and {len(changed) - 6} more" if len(changed) > 6 else "")
        raise StoreError(
            f"{staging} was begun by a different run, resuming would mix the two: {listed}. Repeat the first command, "
            "or start again with --overwrite"
        )


def write_receipt(staging: Path, shard: int, receipt: Receipt) -> None:
    """Mark a shard, whose files are on the disk, as done."""
    buffer = io.BytesIO()
    np.savez(buffer, **receipt)  # type: ignore[arg-type]
    write_whole(_receipt_path(staging, shard), [buffer.getvalue()])


def read_receipt(staging: Path, shard: int) -> dict[str, npt.NDArray[Any]]:
    """The columns of a finished shard."""
    path = _receipt_path(staging, shard)
    try:
        with np.load(path, allow_pickle=False) as receipt:
            return dict(receipt)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise StoreFormatError(f"{path}: damaged; delete it and run again with --resume: {error}") from error


def has_receipt(staging: Path, shard: int) -> bool:
    """Is the shard done?"""
    return _receipt_path(staging, shard).is_file()


def _receipt_path(staging: Path, shard: int) -> Path:
    return staging / "receipts" / f"{shard:05d}.npz"
