"""Writing one shard: each record is encoded and compressed at once, and all are written at the end.

`ShardWriter` writes new records; `copy_record` copies one from another store without encoding it again.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cache.codec.base import ERROR_KINDS, Encoded
from cache.errors import StoreError, StoreFormatError
from cache.files.durable import write_atomically
from cache.format import compress
from cache.format.integrity import UNWRITTEN_DIGEST, record_checksums, record_digest
from cache.format.spec import FRAME_CHUNK, StoreSpec
from cache.layouts import zarr_metadata
from cache.layouts.zarr_reader import codes_key, frames_key
from cache.reading.store import Store
from cache.writing import staging

ErrorOf = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float64]]


class _Record(NamedTuple):
    """The record of one instance, ready to write."""

    chunks: list[bytes]  # compressed maps, one per view
    frame: bytes  # empty without frames
    peak: npt.NDArray[np.float32]  # (V, K)
    checksum: list[int]  # (V + 1)
    digest: bytes
    error: npt.NDArray[np.float64]  # (V, K, kinds)


class ShardWriter:
    """Accepts the records of one shard, in any order and from any thread; writes them at the end of its `with` block.

    After an exception in the block, nothing is written. Every instance of the shard must be put or skipped; otherwise
    the end of the block raises `StoreError`.
    """

    def __init__(self, staging_directory: Path, spec: StoreSpec, layout: str, shard: int) -> None:
        self._staging = staging_directory
        self._spec = spec
        self._compress = compress.zstd_compress if layout == "zarr" else compress.deflate_compress
        self._shard = shard
        self._range = spec.shard_range(shard)
        self._records: dict[int, _Record | None] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._commit()

    def put(self, index: int, heatmaps: npt.NDArray[np.float32], frame: bytes | None = None) -> None:
        """Encode and keep one instance: heatmaps (V, K, H, W) float32 and, if the store has frames, the frame's bytes.

        Raises:
            StoreError: The instance is not of this shard or was put before, the heatmaps have another shape or dtype or
                a value that is not finite, or the frame is missing or too large.
        """
        expected = (self._spec.views, *self._spec.map_shape)
        if heatmaps.shape != expected or heatmaps.dtype != np.float32:
            raise StoreError(
                f"instance {index}: heatmaps are {heatmaps.dtype} {heatmaps.shape}, not float32 {expected}"
            )
        try:
            encoded = self._spec.codec.encode(heatmaps)
        except StoreFormatError as error:
            raise StoreFormatError(f"instance {index}: {error}") from error
        self.put_encoded(index, encoded, frame)

    def put_encoded(self, index: int, encoded: Encoded, frame: bytes | None = None) -> None:
        """Keep one instance whose maps are already encoded, e.g. those of another store; raises as `put` does."""
        self._check_frame(index, frame)
        stored, peak, error = encoded
        chunks = [self._compress(view) for view in stored]
        checksum, digest = record_checksums(stored, peak, frame), record_digest(stored, peak, frame)
        self._add(index, _Record(chunks, frame or b"", peak, checksum, digest, error))

    def skip(self, index: int) -> None:
        """Leave an instance unwritten: it is marked in the store, and reading it raises `MissingRecordError`."""
        self._add(index, None)

    def _check_frame(self, index: int, frame: bytes | None) -> None:
        if (frame is not None) != self._spec.frames:
            wanted = "needs the frame's bytes" if self._spec.frames else "has no frames, but one was given"
            raise StoreError(f"instance {index}: the store {wanted}")
        if frame is not None and not 0 < len(frame) <= self._spec.frame_limit:
            raise StoreError(
                f"instance {index}: a frame of {len(frame)} bytes; frame_limit is {self._spec.frame_limit}"
            )

    def _add(self, index: int, record: _Record | None) -> None:
        with self._lock:
            if index not in self._range or index in self._records:
                problem = "does not belong to" if index not in self._range else "was already put in"
                raise StoreError(f"instance {index} {problem} shard {self._shard} ({self._range})")
            self._records[index] = record

    def _commit(self) -> None:
        missing = [index for index in self._range if index not in self._records]
        if missing:
            raise StoreError(
                f"shard {self._shard}: {len(missing)} instances were neither put nor skipped: {missing[:5]} ..."
            )
        records = [self._records[index] for index in self._range]
        self._write_codes(records)
        if self._spec.frames:
            self._write_frames(records)
        staging.write_receipt(self._staging, self._shard, _receipt(records, self._spec))

    def _write_codes(self, records: list[_Record | None]) -> None:
        absent = [b""] * self._spec.views
        chunks = [chunk for record in records for chunk in (record.chunks if record else absent)]
        self._write(codes_key(self._shard), chunks, self._spec.shard_instances * self._spec.views)

    def _write_frames(self, records: list[_Record | None]) -> None:
        data = b"".join(record.frame for record in records if record)
        chunks = [
            data[start : start + FRAME_CHUNK].ljust(FRAME_CHUNK, b"\0") for start in range(0, len(data), FRAME_CHUNK)
        ]
        self._write(frames_key(self._shard), chunks, self._spec.shard_frame_bytes // FRAME_CHUNK)

    def _write(self, key: str, chunks: list[bytes], slots: int) -> None:
        index = zarr_metadata.shard_index(np.array([len(chunk) for chunk in chunks], np.uint64), slots)
        write_atomically(self._staging / "store" / key, [*chunks, index])


def _unknown_error(peak: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(V, K, kinds) of nan: the error of a copy cannot be measured without the teacher's exact maps."""
    return np.full((*peak.shape, len(ERROR_KINDS)), np.nan)


def copy_record(store: Store, shard: ShardWriter, index: int, error_of: ErrorOf = _unknown_error) -> None:
    """Copy an instance from `store` as it is, after checking its checksums; skip one that was never written.

    `error_of` returns the error of the codec to record, (V, K, kinds) in nats, for peaks (V, K).
    """
    if not store.written[index]:
        shard.skip(index)
        return
    views = [store.stored(index, view) for view in range(store.spec.views)]
    stored, peak = (np.stack(parts) for parts in zip(*views, strict=True))
    shard.put_encoded(index, Encoded(stored, peak, error_of(peak)), frame_or_none(store, index))


def frame_or_none(store: Store, index: int) -> bytes | None:
    """The frame's bytes, if the store has frames."""
    return store.frame(index) if store.has_frames else None


def _receipt(records: list[_Record | None], spec: StoreSpec) -> dict[str, npt.NDArray[Any]]:
    """The shard's rows of the columns that depend on the records; zeros for a skipped instance."""
    rows = len(records)
    receipt: dict[str, npt.NDArray[Any]] = {
        "written": np.array([record is not None for record in records], "|u1"),
        "peak": np.zeros((rows, spec.views, spec.joints), "<f4"),
        "checksum": np.zeros((rows, spec.views + 1), "<u4"),
        "nbytes": np.array([len(record.frame) if record else 0 for record in records], "<u4"),
        "digest": np.frombuffer(b"".join(r.digest if r else UNWRITTEN_DIGEST for r in records), "|u1").reshape(
            rows, 32
        ),
        "error": np.zeros((rows, 3, len(ERROR_KINDS))),  # sum, worst, number of maps
    }
    for row, record in enumerate(records):
        if record:
            receipt["peak"][row] = record.peak
            receipt["checksum"][row] = record.checksum
            receipt["error"][row] = _summary(record.error.reshape(-1, len(ERROR_KINDS)))
    return receipt


def _summary(error: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(3, kinds): sum, worst and number of the divergences (n, kinds) that are not nan."""
    exists = ~np.isnan(error)
    known = np.where(exists, error, 0)
    return np.stack([known.sum(axis=0), known.max(axis=0), exists.sum(axis=0)])
