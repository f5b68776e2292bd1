"""Locating the arrays of a store in the Zarr layout from its `zarr.json` documents and shard indices.

The zarr library is not used: zarr-python 3.1 needs 2.9 ms per instance, of which 0.08 ms are decompressing and decoding
(docs/decisions/0004-store-in-two-layouts.md).
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from cache.errors import StoreFormatError
from cache.files.local import ReadableFiles
from cache.files.per_process import PerProcess
from cache.format import compress
from cache.format.manifest import parse_document
from cache.format.spec import FORMAT_NAME, FRAME_CHUNK, Columns, StoreSpec, check_encoding
from cache.layouts import zarr_metadata
from cache.layouts.base import MAX_DOCUMENT, Extent

CODES = "heatmaps/codes"
FRAMES = "frames/data"


class ZarrLayout(PerProcess):
    """A Zarr v3 directory. The index of a shard is read when it is first needed, and kept."""

    name = "zarr"
    decompresses_concatenated = True
    _constants: ClassVar = ("files",)

    def __init__(self, files: ReadableFiles) -> None:
        self.files = files
        self._start()

    def _reset(self) -> None:
        self._codes_index: dict[int, npt.NDArray[np.uint64]] = {}  # by shard
        self._frame_bytes: dict[int, int] = {}  # by shard

    def manifest(self) -> Any:
        """The manifest, parsed but not validated; `StoreFormatError` if this is not a store."""
        attributes = self._document("zarr.json").get("attributes", {})
        if not isinstance(attributes, Mapping) or attributes.get("encoding-type") != FORMAT_NAME:
            raise StoreFormatError(f"{self.files.root}: a Zarr group, but not a {FORMAT_NAME} store")
        return attributes.get("manifest")

    def check(self, spec: StoreSpec, columns: Columns) -> dict[str, Extent]:
        """Check the declarations of all arrays; returns path -> where the column's bytes are."""
        self._check(CODES, zarr_metadata.codes_metadata(spec))
        if spec.frames:
            self._check(FRAMES, zarr_metadata.frames_metadata(spec))
        return {path: self._column(path, *declared) for path, declared in columns.items()}

    def foreign_entries(self, spec: StoreSpec, columns: Columns) -> Iterator[str]:
        """Names of entries inside the store that do not belong to it, or are links or devices."""
        expected = self.file_keys(spec, columns)
        return (key for key, regular in self.files.listing() if not (regular and key in expected))

    def file_keys(self, spec: StoreSpec, columns: Columns) -> set[str]:
        """The keys of all files of the store."""
        arrays = [CODES, *([FRAMES] if spec.frames else []), *columns]
        shards = [codes_key(shard) for shard in range(spec.shards)]
        shards += [frames_key(shard) for shard in range(spec.shards)] if spec.frames else []
        groups = {f"{path.partition('/')[0]}/zarr.json" for path in arrays}
        chunks = [zarr_metadata.chunk_key(path, len(shape)) for path, (_, shape) in columns.items() if 0 not in shape]
        return {"zarr.json", *groups, *(f"{path}/zarr.json" for path in arrays), *chunks, *shards}

    def view_extent(self, spec: StoreSpec, instance: int, view: int) -> Extent:
        """Where the compressed codes of a stored view are; 0 bytes if it was never written."""
        shard, row = divmod(instance, spec.shard_instances)
        index = self._codes_index.get(shard)
        if index is None:
            slots = spec.shard_instances * spec.views
            index = self._codes_index[shard] = self._index(codes_key(shard), slots)
        offset, nbytes = index[row * spec.views + view].tolist()
        if offset == zarr_metadata.ABSENT:
            return Extent("", 0, 0)
        return Extent(codes_key(shard), offset, nbytes)

    def frame_extent(self, spec: StoreSpec, instance: int, offset: int, nbytes: int) -> Extent:
        """Where the frame with this offset and size in bytes is; `StoreFormatError` if that is outside."""
        shard = instance // spec.shard_instances
        used = self._frame_bytes.get(shard)
        if used is None:
            used = self._frame_bytes[shard] = self._used_frame_bytes(shard, spec)
        start = offset - shard * spec.shard_frame_bytes
        if start < 0 or start + nbytes > used:
            raise StoreFormatError(f"{self.files.root}: the frame of instance {instance} is outside its shard")
        return Extent(frames_key(shard), start, nbytes)

    def decompress(self, data: bytes, nbytes: int) -> npt.NDArray[np.uint8]:
        """Decompress the codes of one view, or of several concatenated views, to (nbytes,) uint8."""
        return compress.zstd_decompress(data, nbytes)

    def _column(self, path: str, dtype: str, shape: tuple[int, ...]) -> Extent:
        self._check(path, zarr_metadata.column_metadata(dtype, shape))
        key = zarr_metadata.chunk_key(path, len(shape))
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        if nbytes and self.files.size(key) != nbytes:
            raise StoreFormatError(f"{self.files.path(key)}: {self.files.size(key)} bytes, but {nbytes} are declared")
        return Extent(key, 0, nbytes)

    def _used_frame_bytes(self, shard: int, spec: StoreSpec) -> int:
        """The bytes of the shard's inner chunks, which must be in order from the start of the file, without gaps."""
        index = self._index(frames_key(shard), spec.shard_frame_bytes // FRAME_CHUNK)
        used = int((index[:, 0] != zarr_metadata.ABSENT).sum())
        expected = np.arange(used, dtype=np.uint64) * np.uint64(FRAME_CHUNK)
        if not (index[:used, 0] == expected).all() or not (index[:used, 1] == FRAME_CHUNK).all():
            raise StoreFormatError(f"{self.files.path(frames_key(shard))}: the chunks of the frames are not in order")
        return used * FRAME_CHUNK

    def _index(self, key: str, slots: int) -> npt.NDArray[np.uint64]:
        end = self.files.size(key) - zarr_metadata.index_bytes(slots)
        if end < 0:
            raise StoreFormatError(f"{self.files.path(key)}: truncated: shorter than its index")
        data = self.files.read(key, end, zarr_metadata.index_bytes(slots))
        return zarr_metadata.parse_index(data, end, str(self.files.path(key)))

    def _check(self, path: str, expected: Mapping[str, Any]) -> None:
        """Check the metadata of an array against `expected`; other attributes and keys are allowed."""
        found = self._document(f"{path}/zarr.json")
        attributes = found.get("attributes")
        check_encoding(path, attributes if isinstance(attributes, Mapping) else {}, str(self.files.path(path)))
        for key, value in expected.items():
            if key != "fill_value" and found.get(key, [] if key == "storage_transformers" else None) != value:
                raise StoreFormatError(
                    f"{self.files.path(path)}: {key} is {found.get(key)!r:.200}, the manifest requires {value!r:.200}"
                )

    def _document(self, key: str) -> Mapping[str, Any]:
        size = self.files.size(key)
        if size > MAX_DOCUMENT:
            raise StoreFormatError(f"{self.files.path(key)}: {size} bytes, more than the limit of {MAX_DOCUMENT}")
        found = parse_document(self.files.read(key, 0, size), str(self.files.path(key)))
        if not isinstance(found, Mapping):
            raise StoreFormatError(f"{self.files.path(key)}: not a JSON object")
        return found


def codes_key(shard: int) -> str:
    """The key of the file with a shard of the codes."""
    return f"{CODES}/c/{shard}/0/0/0/0"


def frames_key(shard: int) -> str:
    """The key of the file with a shard of the frames."""
    return f"{FRAMES}/c/{shard}"
