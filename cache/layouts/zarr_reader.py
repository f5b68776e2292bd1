"""Finding the bytes of a store in Zarr form, without the zarr library: `zarr.json` documents and shard indices."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.errors import StoreFormatError
from cache.files.local import ReadableFiles
from cache.format import compress
from cache.format.manifest import parse_document
from cache.format.spec import FORMAT_NAME, FRAME_CHUNK, Columns, StoreSpec, check_encoding
from cache.layouts import zarr_metadata as zarr_format
from cache.layouts.base import MAX_DOCUMENT, Extent

CODES = "heatmaps/codes"
FRAMES = "frames/data"


class ZarrLayout:
    """A Zarr v3 directory. Shard indices are read when first needed and kept."""

    name = "zarr"
    joins = True

    def __init__(self, files: ReadableFiles) -> None:
        self.files = files
        self._codes_index: dict[int, npt.NDArray[np.uint64]] = {}
        self._frame_bytes: dict[int, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["files"])  # type: ignore[misc]

    def manifest(self) -> Any:
        """See `Layout.manifest`."""
        attributes = self._document("zarr.json").get("attributes", {})
        if not isinstance(attributes, Mapping) or attributes.get("encoding-type") != FORMAT_NAME:
            raise StoreFormatError(f"{self.files.root}: a Zarr group, but not a {FORMAT_NAME} store")
        return attributes.get("manifest")

    def check(self, spec: StoreSpec, columns: Columns) -> dict[str, Extent]:
        """See `Layout.check`."""
        self._check(CODES, zarr_format.codes_metadata(spec))
        if spec.frames:
            self._check(FRAMES, zarr_format.frames_metadata(spec))
        return {path: self._column(path, *declared) for path, declared in columns.items()}

    def strangers(self, spec: StoreSpec, columns: Columns) -> Iterator[str]:
        """See `Layout.strangers`."""
        expected = self.keys(spec, columns)
        return (key for key, regular in self.files.listing() if not (regular and key in expected))

    def keys(self, spec: StoreSpec, columns: Columns) -> set[str]:
        """See `Layout.keys`."""
        arrays = [CODES, *([FRAMES] if spec.frames else []), *columns]
        shards = [codes_key(shard) for shard in range(spec.shards)]
        shards += [frames_key(shard) for shard in range(spec.shards)] if spec.frames else []
        groups = {f"{path.partition('/')[0]}/zarr.json" for path in arrays}
        chunks = [zarr_format.chunk_key(path, len(shape)) for path, (_, shape) in columns.items() if 0 not in shape]
        return {"zarr.json", *groups, *(f"{path}/zarr.json" for path in arrays), *chunks, *shards}

    def view(self, spec: StoreSpec, instance: int, view: int) -> Extent:
        """See `Layout.view`."""
        shard, row = divmod(instance, spec.shard_instances)
        index = self._codes_index.get(shard)
        if index is None:
            slots = spec.shard_instances * spec.views
            index = self._codes_index[shard] = self._index(codes_key(shard), slots)
        offset, nbytes = index[row * spec.views + view].tolist()
        if offset == zarr_format.ABSENT:
            return Extent("", 0, 0)
        return Extent(codes_key(shard), offset, nbytes)

    def frame(self, spec: StoreSpec, instance: int, offset: int, nbytes: int) -> Extent:
        """See `Layout.frame`."""
        shard = instance // spec.shard_instances
        used = self._frame_bytes.get(shard)
        if used is None:
            used = self._frame_bytes[shard] = self._used_frame_bytes(shard, spec)
        start = offset - shard * spec.shard_frame_bytes
        if start < 0 or start + nbytes > used:
            raise StoreFormatError(f"{self.files.root}: the frame of instance {instance} lies outside its shard")
        return Extent(frames_key(shard), start, nbytes)

    def decompress(self, data: bytes, nbytes: int) -> npt.NDArray[np.uint8]:
        """See `Layout.decompress`."""
        return compress.zstd_decompress(data, nbytes)

    def _column(self, path: str, dtype: str, shape: tuple[int, ...]) -> Extent:
        self._check(path, zarr_format.column_metadata(dtype, shape))
        key = zarr_format.chunk_key(path, len(shape))
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        if nbytes and self.files.size(key) != nbytes:
            raise StoreFormatError(f"{self.files.path(key)}: {self.files.size(key)} bytes, declared are {nbytes}")
        return Extent(key, 0, nbytes)

    def _used_frame_bytes(self, shard: int, spec: StoreSpec) -> int:
        """Bytes of the shard's inner chunks, which must lie in order from the start of the file, without holes."""
        index = self._index(frames_key(shard), spec.shard_frame_bytes // FRAME_CHUNK)
        used = int((index[:, 0] != zarr_format.ABSENT).sum())
        expected = np.arange(used, dtype=np.uint64) * np.uint64(FRAME_CHUNK)
        if not (index[:used, 0] == expected).all() or not (index[:used, 1] == FRAME_CHUNK).all():
            raise StoreFormatError(f"{self.files.path(frames_key(shard))}: the chunks of the frames are not in order")
        return used * FRAME_CHUNK

    def _index(self, key: str, slots: int) -> npt.NDArray[np.uint64]:
        room = self.files.size(key) - zarr_format.index_bytes(slots)
        if room < 0:
            raise StoreFormatError(f"{self.files.path(key)}: truncated: shorter than its index")
        data = self.files.read(key, room, zarr_format.index_bytes(slots))
        return zarr_format.parse_index(data, room, str(self.files.path(key)))

    def _check(self, path: str, expected: Mapping[str, Any]) -> None:
        """The array's document must say what this version writes; further attributes and keys are free."""
        found = self._document(f"{path}/zarr.json")
        attributes = found.get("attributes")
        check_encoding(path, attributes if isinstance(attributes, Mapping) else {}, str(self.files.path(path)))
        for key, value in expected.items():
            if key != "fill_value" and found.get(key, [] if key == "storage_transformers" else None) != value:
                raise StoreFormatError(
                    f"{self.files.path(path)}: {key} is {found.get(key)!r:.200}, the manifest asks for {value!r:.200}"
                )

    def _document(self, key: str) -> Mapping[str, Any]:
        found = parse_document(self.files.read_all(key, MAX_DOCUMENT), str(self.files.path(key)))
        if not isinstance(found, Mapping):
            raise StoreFormatError(f"{self.files.path(key)}: not a JSON object")
        return found


def codes_key(shard: int) -> str:
    """The file of a shard of the codes."""
    return f"{CODES}/c/{shard}/0/0/0/0"


def frames_key(shard: int) -> str:
    """The file of a shard of the frames."""
    return f"{FRAMES}/c/{shard}"
