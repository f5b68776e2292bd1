"""Checksums and hashes, all of decoded content, so that they agree between Zarr and HDF5.

record checksum   CRC-32C of a view's stored maps, then its peaks, and of the frame's bytes: checked at every read
record digest     SHA-256 of all views' stored maps, all peaks and the frame; not stored
shard digest      SHA-256 of the digests of the shard's records, 32 zero bytes for one that was not written
content hash      SHA-256 of a canonical JSON of version, spec and the SHA-256 of every column (shard digests included)
manifest hash     SHA-256 of a canonical JSON of the manifest's other entries: provenance and metrics have no column
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.format.compress import crc32c
from cache.format.spec import FORMAT_VERSION, PLACE_COLUMNS, StoreSpec

UNWRITTEN_DIGEST = bytes(32)
SEAL = "manifest_sha256"


def view_checksum(stored: npt.NDArray[Any], peak: npt.NDArray[np.float32]) -> int:
    """CRC-32C of one view: stored maps (K, H, W) and peaks (K,)."""
    return crc32c(peak, crc32c(stored))


def record_checksums(stored: npt.NDArray[Any], peak: npt.NDArray[np.float32], frame: bytes | None) -> list[int]:
    """The row of `integrity/checksum` of a record: stored maps (V, K, H, W), peak (V, K); 0 without frame."""
    return [*map(view_checksum, stored, peak), crc32c(frame) if frame else 0]


def record_digest(stored: npt.NDArray[Any], peak: npt.NDArray[np.float32], frame: bytes | None) -> bytes:
    """The digest of a record: stored maps (V, K, H, W), peak (V, K)."""
    digest = hashlib.sha256(np.ascontiguousarray(stored).data)
    digest.update(np.ascontiguousarray(peak, "<f4").data)
    digest.update(frame or b"")
    return digest.digest()


def content_hash(spec: StoreSpec, columns: Mapping[str, npt.NDArray[Any]]) -> str:
    """The hash of a store's logical content; columns that say where bytes lie are left out."""
    described = {
        path: [column.dtype.str, list(column.shape), hashlib.sha256(np.ascontiguousarray(column).data).hexdigest()]
        for path, column in columns.items()
        if path not in PLACE_COLUMNS
    }
    content = {"version": FORMAT_VERSION, "spec": spec.to_json(), "columns": described}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def seal(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with the hash of its other entries as `SEAL`."""
    entries = {name: entry for name, entry in manifest.items() if name != SEAL}
    return {**entries, SEAL: hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()}
