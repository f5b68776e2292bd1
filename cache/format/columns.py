"""The columns of a store: those the caller gives, checked and cast, and those the records make."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.errors import StoreError, StoreFormatError
from cache.format.spec import (
    GROUND_TRUTH_COLUMNS,
    INSTANCE_COLUMNS,
    RECORD_COLUMNS,
    SHARD_DIGESTS,
    TEXT_COLUMN,
    StoreSpec,
)

Column = npt.NDArray[Any]


def given_columns(
    spec: StoreSpec,
    instances: Mapping[str, Any],
    ground_truth: Mapping[str, Any],
    frame_affine: Column,
    view_affine: Column,
    view_flip: Column,
) -> dict[str, Column]:
    """Path -> column in its dtype on disk, for everything that is known before the teacher runs."""
    truth_rows = len(ground_truth.get("annotation_id", ()))
    affines = {"frames/affine": frame_affine, "views/affine": view_affine}
    return {
        **_table("instances", instances, INSTANCE_COLUMNS, spec, spec.instances),
        **_table("ground_truth", ground_truth, GROUND_TRUTH_COLUMNS, spec, truth_rows),
        **{path: _cast(path, values, *RECORD_COLUMNS[path], spec, spec.instances) for path, values in affines.items()},
        "views/flip": _cast("views/flip", np.asarray(view_flip) != 0, "|u1", (), spec, spec.views),
    }


def record_columns(spec: StoreSpec, form: str, receipts: Sequence[Mapping[str, Column]]) -> dict[str, Column]:
    """Path -> column of what the records of all shards, in order, brought."""
    joined = {name: np.concatenate([receipt[name] for receipt in receipts]) for name in receipts[0]}
    columns = {
        "heatmaps/peak": joined["peak"],
        "integrity/written": joined["written"],
        "integrity/checksum": joined["checksum"],
        SHARD_DIGESTS: np.stack([_shard_digest(receipt["digest"]) for receipt in receipts]),
    }
    if spec.frames:
        columns["frames/nbytes"] = joined["nbytes"]
        columns["frames/offset"] = frame_offsets(spec, form, joined["nbytes"])
    return columns


def frame_offsets(spec: StoreSpec, form: str, nbytes: Column) -> Column:
    """Where each frame begins in `frames/data`: one after the other, in Zarr anew in every shard's room.

    One that was never written has no bytes, and the place where they would be.
    """
    ends = np.cumsum(nbytes, dtype=np.uint64)
    starts = ends - nbytes
    if form == "zarr":
        shard = np.arange(spec.instances, dtype=np.uint64) // np.uint64(spec.shard_instances)
        first = starts[:: spec.shard_instances]
        starts = starts - first[shard] + shard * np.uint64(spec.shard_frame_bytes)
    return starts.astype("<u8")


def _shard_digest(digests: Column) -> Column:
    return np.frombuffer(hashlib.sha256(np.ascontiguousarray(digests).data).digest(), "|u1")


def _table(
    group: str,
    given: Mapping[str, Any],
    required: Mapping[str, tuple[str, tuple[int | str, ...]]],
    spec: StoreSpec,
    rows: int,
) -> dict[str, Column]:
    missing = sorted(set(required) - set(given))
    if missing:
        raise StoreError(f"{group}: the columns {missing} are missing; given are {sorted(given)}")
    columns = {}
    for name, values in given.items():
        path = f"{group}/{name}"
        if name == TEXT_COLUMN:
            columns[path] = _rows(path, encode_text(values), rows)
        elif name in required:
            columns[path] = _cast(path, values, *required[name], spec, rows)
        else:
            columns[path] = _rows(path, _numeric(path, values), rows)
    return columns


def _cast(path: str, values: Any, dtype: str, shape: tuple[int | str, ...], spec: StoreSpec, rows: int) -> Column:
    column = np.asarray(values)
    expected = (rows, *spec.row_shape(shape))
    if column.shape != expected or column.dtype.kind not in "biuf":
        raise StoreError(f"{path}: {column.dtype} {column.shape} was given, {dtype} {expected} is needed")
    with np.errstate(all="ignore"):  # what does not fit is found below
        cast = np.ascontiguousarray(column, dtype)
    if column.dtype.kind != "f" and not (cast == column).all():
        raise StoreError(f"{path}: a value does not fit into {dtype}")
    return _finite(path, cast)


def _numeric(path: str, values: Any) -> Column:
    """A further column in the widest dtype of its kind."""
    column = np.asarray(values)
    dtype = {"b": "|u1", "i": "<i8", "u": "<u8", "f": "<f8"}.get(column.dtype.kind)
    if dtype is None:
        raise StoreError(f"{path}: {column.dtype} cannot be stored; further columns must be numbers")
    return _finite(path, np.ascontiguousarray(column, dtype))


def _finite(path: str, column: Column) -> Column:
    if column.dtype.kind == "f" and not np.isfinite(column).all():
        row = int(np.argwhere(~np.isfinite(column))[0][0])
        raise StoreError(f"{path}: row {row} is {column[row]}, but only finite numbers can be stored")
    return column


def _rows(path: str, column: Column, rows: int) -> Column:
    if len(column) != rows:
        raise StoreError(f"{path}: {len(column)} rows were given, {rows} are needed")
    return column


def encode_text(names: Sequence[str]) -> npt.NDArray[np.uint8]:
    """(N, M) uint8 of N relative file names; `StoreFormatError` for one that leads out of its folder."""
    rows = [_checked(name).encode() for name in names]
    width = max(1, max(map(len, rows), default=1))
    return np.frombuffer(b"".join(row.ljust(width, b"\0") for row in rows), np.uint8).reshape(-1, width)


def decode_text(column: npt.NDArray[np.uint8]) -> list[str]:
    """The names of a column (N, M) uint8, checked as in `encode_text`."""
    try:
        return [_checked(bytes(row).rstrip(b"\0").decode()) for row in column]
    except UnicodeDecodeError as error:
        raise StoreFormatError(f"a file name is not UTF-8: {error}") from error


def _checked(name: str) -> str:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts or "\0" in name:
        raise StoreFormatError(f"file name {name!r}: must be a relative path inside the image folder")
    return name
