"""Completing a store in the HDF5 layout: the chunks of all shard files are copied into one new file.

Appending to an HDF5 file is not safe: after a killed writer, the file does not open. The file is therefore written at
the end from complete shard files, under a temporary name, and renamed. The chunks are not compressed again. No other
process opens the file before that, so it is not locked: some file systems have no locks.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from cache.files.durable import disk_errors
from cache.files.local import Files
from cache.format.compress import DEFLATE_LEVEL
from cache.format.spec import FORMAT_NAME, FORMAT_VERSION, StoreSpec, element_encoding
from cache.layouts import zarr_metadata
from cache.layouts.zarr_reader import CODES, FRAMES, codes_key, frames_key
from kdcli.files import replacing
from kdcli.system import sync

_VERSIONS = ("v110", "v110")  # readable by HDF5 1.10 and later; the chunk index is smaller than in older versions


def complete(
    shards: Path, target: Path, spec: StoreSpec, columns: Mapping[str, npt.NDArray[Any]], manifest: Mapping[str, Any]
) -> None:
    """Write the store to `target`, from the shard files below `shards`; `write_manifest` syncs it to the disk."""
    needed = sum(file.stat().st_size for file in shards.rglob("*") if file.is_file())
    with (
        disk_errors(target.parent, needed),
        replacing(target) as temporary,
        h5py.File(temporary, "w", libver=_VERSIONS, locking=False) as file,
    ):
        _write_columns(file, columns)
        _join_codes(file, Files(shards), spec)
        if spec.frames:
            _join_frames(file, Files(shards), spec, columns["frames/nbytes"])
        _write_manifest(file, manifest)


def write_manifest(target: Path, manifest: Mapping[str, Any]) -> None:
    """Replace the manifest of a file that is not published yet, and sync the file to the disk."""
    with disk_errors(target.parent, target.stat().st_size):
        with h5py.File(target, "r+", locking=False) as file:
            _write_manifest(file, manifest)
        sync(target)


def _write_columns(file: h5py.File, columns: Mapping[str, npt.NDArray[Any]]) -> None:
    for path, column in columns.items():
        dataset = file.create_dataset(path, data=column, track_times=False)
        dataset.attrs.update(_fixed_length(element_encoding(path)))


def _join_codes(file: h5py.File, shards: Files, spec: StoreSpec) -> None:
    dataset = file.create_dataset(
        CODES,
        shape=(spec.instances, spec.views, *spec.map_shape),
        chunks=(1, 1, *spec.map_shape),
        dtype=spec.codec.dtype,
        compression="gzip",
        compression_opts=DEFLATE_LEVEL,
        fillvalue=0,
        track_times=False,
    )
    dataset.attrs.update(_fixed_length(element_encoding(CODES)))
    for shard in range(spec.shards):
        data, index = _read_shard(shards, codes_key(shard), spec.shard_instances * spec.views)
        for slot in np.flatnonzero(index[:, 0] != zarr_metadata.ABSENT):
            row, view = divmod(int(slot), spec.views)
            offset, nbytes = map(int, index[slot])
            where = (shard * spec.shard_instances + row, view, 0, 0, 0)
            dataset.id.write_direct_chunk(where, data[offset : offset + nbytes])


def _join_frames(file: h5py.File, shards: Files, spec: StoreSpec, nbytes: npt.NDArray[np.uint32]) -> None:
    total = int(nbytes.sum(dtype=np.int64))
    dataset = file.create_dataset(FRAMES, shape=(total,), dtype="|u1", track_times=False)
    dataset.attrs.update(_fixed_length(element_encoding(FRAMES)))
    start = 0
    for shard in range(spec.shards):
        instances = spec.shard_range(shard)
        used = int(nbytes[instances.start : instances.stop].sum(dtype=np.int64))
        if used:
            dataset[start : start + used] = np.frombuffer(shards.read(frames_key(shard), 0, used), np.uint8)
        start += used


def _read_shard(shards: Files, key: str, slots: int) -> tuple[bytes, npt.NDArray[np.uint64]]:
    """The chunks of a shard file as one range of bytes, and its index (slots, 2)."""
    end = shards.size(key) - zarr_metadata.index_bytes(slots)
    index = zarr_metadata.parse_index(
        shards.read(key, end, zarr_metadata.index_bytes(slots)), end, str(shards.path(key))
    )
    return shards.read(key, 0, end), index


def _write_manifest(file: h5py.File, manifest: Mapping[str, Any]) -> None:
    text = json.dumps(manifest, indent=1, allow_nan=False)
    encoding = {"encoding-type": FORMAT_NAME, "encoding-version": str(FORMAT_VERSION)}
    file.attrs.update(_fixed_length({**encoding, "manifest": text}))


def _fixed_length(attributes: Mapping[str, str]) -> dict[str, np.bytes_]:
    """Attributes as strings of fixed length, which need neither HDF5's heap nor an object dtype."""
    return {name: np.bytes_(text.encode()) for name, text in attributes.items()}
