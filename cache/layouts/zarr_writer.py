"""Completing the Zarr form: the shard files are in place, columns and metadata are added."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.files.durable import remove_attempts, sync_tree, write_whole, writing
from cache.format.spec import FORMAT_NAME, FORMAT_VERSION, StoreSpec, element_encoding
from cache.layouts import zarr_metadata as zarr_format
from cache.layouts.zarr_reader import CODES, FRAMES


def complete(
    shards: Path, target: Path, spec: StoreSpec, columns: Mapping[str, npt.NDArray[Any]], manifest: Mapping[str, Any]
) -> None:
    """Write columns and metadata into `target`, which is `shards`: the shard files are where they stay."""
    assert shards == target  # noqa: S101 - only our own writer calls
    remove_attempts(target)
    _write_arrays(target, spec, columns)
    write_manifest(target, manifest)


def _write_arrays(root: Path, spec: StoreSpec, columns: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write every column and every `zarr.json` but the root's; `write_manifest` brings them to the disk."""
    _write_document(root / CODES, zarr_format.codes_metadata(spec), CODES)
    if spec.frames:
        _write_document(root / FRAMES, zarr_format.frames_metadata(spec), FRAMES)
    for path, column in columns.items():
        _write_document(root / path, zarr_format.column_metadata(column.dtype.str, column.shape), path)
        if column.size:
            key = zarr_format.chunk_key(path, column.ndim)
            write_whole(root / key, [np.ascontiguousarray(column).tobytes()], durable=False)
    for group in sorted({path.partition("/")[0] for path in [*columns, CODES]}):
        write_whole(root / group / "zarr.json", [zarr_format.document(zarr_format.GROUP, {})], durable=False)


def write_manifest(root: Path, manifest: Mapping[str, Any]) -> None:
    """Write the root's `zarr.json`, which holds the manifest: with it the directory becomes a store."""
    attributes = {"encoding-type": FORMAT_NAME, "encoding-version": str(FORMAT_VERSION), "manifest": manifest}
    with writing(root, 0):
        sync_tree(root)
    write_whole(root / "zarr.json", [zarr_format.document(zarr_format.GROUP, attributes)])


def _write_document(directory: Path, metadata: Mapping[str, Any], path: str) -> None:
    write_whole(directory / "zarr.json", [zarr_format.document(metadata, element_encoding(path))], durable=False)
