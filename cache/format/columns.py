"""Building the columns of a store from the caller's arrays, which are checked and cast, and from all records.

A column is an array with one row per instance, per annotation, per view or per shard. The text column of file names is
UTF-8, padded with zeros to the longest name (`encode_text`, `decode_text`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
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
from kdcli.system import DEVICE_NAMES

Column = npt.NDArray[Any]


def given_columns(
    spec: StoreSpec,
    instances: Mapping[str, Any],
    ground_truth: Mapping[str, Any],
    frame_affine: Column,
    view_affine: Column,
    view_flip: Column,
) -> dict[str, Column]:
    """Check and cast the columns that are known before the teacher runs.

    Args:
        spec: Sizes of the store.
        instances: Columns of N rows, by name.
        ground_truth: Columns of M rows, by name.
        frame_affine: (N, 2, 3) image pixels -> frame pixels.
        view_affine: (N, V, 2, 3) frame pixels -> teacher input pixels.
        view_flip: (V,) nonzero for a mirrored view.

    Returns:
        Path in the store -> column in its dtype on disk.

    Raises:
        StoreError: A column is missing, or has a wrong shape, a wrong dtype or a value that cannot be stored.
    """
    truth_rows = len(ground_truth.get("annotation_id", ()))
    affines = {"frames/affine": frame_affine, "views/affine": view_affine}
    return {
        **_table("instances", instances, INSTANCE_COLUMNS, spec, spec.instances),
        **_table("ground_truth", ground_truth, GROUND_TRUTH_COLUMNS, spec, truth_rows),
        **{path: _cast(path, values, *RECORD_COLUMNS[path], spec, spec.instances) for path, values in affines.items()},
        "views/flip": _cast("views/flip", np.asarray(view_flip) != 0, "|u1", (), spec, spec.views),
    }


def record_columns(spec: StoreSpec, layout: str, receipts: Sequence[Mapping[str, Column]]) -> dict[str, Column]:
    """Path in the store -> column that follows from the records, joined from the receipts of all shards in order."""
    joined = {name: np.concatenate([receipt[name] for receipt in receipts]) for name in receipts[0]}
    columns = {
        "heatmaps/peak": joined["peak"],
        "integrity/written": joined["written"],
        "integrity/checksum": joined["checksum"],
        SHARD_DIGESTS: np.stack([_shard_digest(receipt["digest"]) for receipt in receipts]),
    }
    if spec.frames:
        columns["frames/nbytes"] = joined["nbytes"]
        columns["frames/offset"] = frame_offsets(spec, layout, joined["nbytes"])
    return columns


def frame_offsets(spec: StoreSpec, layout: str, nbytes: Column) -> Column:
    """Where each frame begins in `frames/data`, (N,) uint64 in bytes.

    Frames follow each other without gaps; in the Zarr layout, the first frame of a shard begins where the shard's range
    of bytes begins. A frame that was never written has no bytes; its offset is where they would be.
    """
    ends = np.cumsum(nbytes, dtype=np.uint64)
    starts = ends - nbytes
    if layout == "zarr":
        shard = np.arange(spec.instances, dtype=np.uint64) // np.uint64(spec.shard_instances)
        first = starts[:: spec.shard_instances]
        starts = starts - first[shard] + shard * np.uint64(spec.shard_frame_bytes)
    return starts.astype("<u8")


def encode_text(names: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Encode N file names as (N, longest) uint8; `StoreFormatError` for one that leads out of the image folder."""
    rows = [_check_name(name).encode() for name in names]
    width = max(1, max(map(len, rows), default=1))
    return np.frombuffer(b"".join(row.ljust(width, b"\0") for row in rows), np.uint8).reshape(-1, width)


def decode_text(column: npt.NDArray[np.uint8]) -> list[str]:
    """The names in a column (N, bytes) uint8, checked as in `encode_text`."""
    try:
        return [_check_name(bytes(row).rstrip(b"\0").decode()) for row in column]
    except UnicodeDecodeError as error:
        raise StoreFormatError(f"a file name is not UTF-8: {error}") from error


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
        raise StoreError(f"{group}: the columns {missing} are missing; the given columns are {sorted(given)}")
    columns = {}
    for name, values in given.items():
        path = f"{group}/{name}"
        if name == TEXT_COLUMN:
            columns[path] = _rows(path, encode_text(values), rows)
        elif name in required:
            columns[path] = _cast(path, values, *required[name], spec, rows)
        elif name.lower() in DEVICE_NAMES:
            raise StoreError(f"{path}: Windows has no files named {name}; give the column another name")
        else:
            columns[path] = _rows(path, _numeric(path, values), rows)
    return columns


def _cast(path: str, values: Any, dtype: str, shape: tuple[int | str, ...], spec: StoreSpec, rows: int) -> Column:
    column = np.asarray(values)
    expected = (rows, *spec.row_shape(shape))
    if column.shape != expected or column.dtype.kind not in "biuf":
        raise StoreError(f"{path}: {column.dtype} {column.shape} was given, {dtype} {expected} is needed")
    with np.errstate(all="ignore"):  # values that do not fit are found below
        cast = np.ascontiguousarray(column, dtype)
    if column.dtype.kind != "f" and not (cast == column).all():
        raise StoreError(f"{path}: a value does not fit into {dtype}")
    return _finite(path, cast)


def _numeric(path: str, values: Any) -> Column:
    """A further column, cast to the widest dtype of its kind."""
    column = np.asarray(values)
    dtype = {"b": "|u1", "i": "<i8", "u": "<u8", "f": "<f8"}.get(column.dtype.kind)
    if dtype is None:
        raise StoreError(f"{path}: {column.dtype} cannot be stored; further columns must hold numbers")
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


def _check_name(name: str) -> str:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or PureWindowsPath(name).drive or ".." in parts or "\0" in name:
        raise StoreFormatError(f"file name {name!r}: must be a relative path inside the image folder")
    return name
