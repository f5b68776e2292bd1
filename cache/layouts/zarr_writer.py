"""Completing a store in the Zarr layout: columns and metadata are added beside the shard files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.files.durable import disk_errors, remove_temporary_files, sync_tree, write_atomically
from cache.format.spec import FORMAT_NAME, FORMAT_VERSION, StoreSpec, element_encoding
from cache.layouts import zarr_metadata
from cache.layouts.zarr_reader import CODES, FRAMES


def complete(
    shards: Path, target: Path, spec: StoreSpec, columns: Mapping[str, npt.NDArray[Any]], manifest: Mapping[str, Any]
) -> None:
    """Write columns and metadata into `target`, which must be `shards`."""
    assert shards == target  # noqa: S101 - only our own writer calls this
    remove_temporary_files(target)
    _write_arrays(target, spec, columns)
    write_manifest(target, manifest)


def _write_arrays(root: Path, spec: StoreSpec, columns: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write every column and every `zarr.json` except the root's; `write_manifest` syncs them to the disk."""
    _write_document(root / CODES, zarr_metadata.codes_metadata(spec), CODES)
    if spec.frames:
        _write_document(root / FRAMES, zarr_metadata.frames_metadata(spec), FRAMES)
    for path, column in columns.items():
        _write_document(root / path, zarr_metadata.column_metadata(column.dtype.str, column.shape), path)
        if column.size:
            key = zarr_metadata.chunk_key(path, column.ndim)
            write_atomically(root / key, [np.ascontiguousarray(column).tobytes()], durable=False)
    for group in sorted({path.partition("/")[0] for path in [*columns, CODES]}):
        write_atomically(root / group / "zarr.json", [zarr_metadata.document(zarr_metadata.GROUP, {})], durable=False)


def write_manifest(root: Path, manifest: Mapping[str, Any]) -> None:
    """Sync all other files, then write the root's `zarr.json` with the manifest, which makes the directory a store."""
    attributes = {"encoding-type": FORMAT_NAME, "encoding-version": str(FORMAT_VERSION), "manifest": manifest}
    with disk_errors(root, 0):
        sync_tree(root)
    write_atomically(root / "zarr.json", [zarr_metadata.document(zarr_metadata.GROUP, attributes)])


def _write_document(directory: Path, metadata: Mapping[str, Any], path: str) -> None:
    write_atomically(directory / "zarr.json", [zarr_metadata.document(metadata, element_encoding(path))], durable=False)
