"""Checksums and hashes, all of decompressed content, so that they are equal for both layouts.

record checksums  CRC-32C of each view's stored maps followed by its peaks, and of the frame; checked at every read
record digest     SHA-256 of all views' stored maps, all peaks and the frame's bytes; not stored
shard digest      SHA-256 of the digests of the shard's records; an unwritten record counts as 32 zero bytes
content hash      SHA-256 of a canonical JSON of version, spec and the SHA-256 of every column, shard digests included
manifest hash     SHA-256 of a canonical JSON of all other entries of the manifest
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
MANIFEST_HASH = "manifest_sha256"  # entry of the manifest


def view_checksum(stored: npt.NDArray[Any], peak: npt.NDArray[np.float32]) -> int:
    """CRC-32C of one view: stored maps (K, H, W), then peaks (K,)."""
    return crc32c(peak, crc32c(stored))


def record_checksums(stored: npt.NDArray[Any], peak: npt.NDArray[np.float32], frame: bytes | None) -> list[int]:
    """A row of `integrity/checksum`, from stored maps (V, K, H, W), peaks (V, K) and frame (None: 0)."""
    return [*map(view_checksum, stored, peak), crc32c(frame) if frame else 0]


def record_digest(stored: npt.NDArray[Any], peak: npt.NDArray[np.float32], frame: bytes | None) -> bytes:
    """The digest (32 bytes) of a record, from stored maps (V, K, H, W), peaks (V, K) and the frame's bytes."""
    digest = hashlib.sha256(np.ascontiguousarray(stored).data)
    digest.update(np.ascontiguousarray(peak, "<f4").data)
    digest.update(frame or b"")
    return digest.digest()


def content_hash(spec: StoreSpec, columns: Mapping[str, npt.NDArray[Any]]) -> str:
    """The hash of a store's logical content, in hexadecimal; columns that only locate bytes are left out."""
    described = {
        path: [column.dtype.str, list(column.shape), hashlib.sha256(np.ascontiguousarray(column).data).hexdigest()]
        for path, column in columns.items()
        if path not in PLACE_COLUMNS
    }
    content = {"version": FORMAT_VERSION, "spec": spec.to_json(), "columns": described}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def with_manifest_hash(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with the hash of all its other entries as the entry `MANIFEST_HASH`."""
    entries = {name: entry for name, entry in manifest.items() if name != MANIFEST_HASH}
    return {**entries, MANIFEST_HASH: hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()}
