"""Reading a store that `cache.open_store` has opened.

A `Store` may be pickled, used by several threads and used after a fork: it keeps no handle of a library and no mapped
memory, and reads ranges of bytes by position. Every record is checked against its checksum when it is read.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.codec.base import Codec
from cache.errors import MissingRecordError, StoreFormatError
from cache.files.local import ReadableFiles
from cache.files.location import Location, Place
from cache.format.integrity import crc32c, view_checksum
from cache.format.manifest import check_manifest
from cache.format.spec import Columns, StoreSpec
from cache.layouts.base import Extent, Layout
from cache.reading.tables import ColumnTable, StoredColumns

KEPT_PEAKS = 16 << 20  # bytes: up to this size, all peaks of a local store are read at once; larger ones per record
DECOMPRESSED_AT_ONCE = 16  # views: the start of the decompressor then takes little of the time, and the maps 1 MB
Stored = tuple[npt.NDArray[Any], npt.NDArray[np.float32]]
"""Maps (K, H, W) in the codec's dtype, and their peaks (K,)."""


class Store:
    """A store that `cache.open_store` has opened for reading.

    `len(store)` is the number of instances N; an index is the row of an instance, 0..N - 1. V is the number of stored
    views, K of joints, (H, W) the size of a heatmap. Methods that read a record raise `MissingRecordError` if there is
    no such instance or stored view or if it was never written, and `StoreFormatError` if it is damaged.

    Attributes:
        spec: The sizes N, V, K, H, W and the codec.
        manifest: Entries of the manifest by name, e.g. `provenance` (docs/format.md lists them).
        instances: Columns of the N instances by name, e.g. `bbox` (N, 4) float64: x, y, width, height in image pixels.
        ground_truth: The same columns for all annotations of the images, including crowds and unlabelled instances.
    """

    spec: StoreSpec
    manifest: Mapping[str, Any]  # see cache/format/manifest.py

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.manifest = MappingProxyType(_as_mapping(layout.manifest(), layout))
        self.spec, self._columns = check_manifest(self.manifest, str(self.path))
        self._extents = layout.check(self.spec, self._columns)
        self._start()

    def _start(self) -> None:
        self._stored = StoredColumns(self._layout.files, self._columns, self._extents)
        self.instances: Mapping[str, Any] = ColumnTable("instances", self._stored)
        self.ground_truth: Mapping[str, Any] = ColumnTable("ground_truth", self._stored)
        self._peaks: npt.NDArray[np.float32] | None = None

    def __getstate__(self) -> dict[str, Any]:
        kept = ("_layout", "spec", "_columns", "_extents")
        return {**{name: self.__dict__[name] for name in kept}, "manifest": dict(self.manifest)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, manifest=MappingProxyType(state["manifest"]))
        self._start()

    def __len__(self) -> int:
        return self.spec.instances

    def __repr__(self) -> str:
        return f"<Store {self.path}: {self.spec.instances} instances, {self.spec.views} views, {self.codec.name}>"

    @property
    def path(self) -> Place:
        """The path or URL of the store; `str()` of a URL shows no credentials, and `name` is its last part."""
        return self._layout.files.root

    @property
    def is_remote(self) -> bool:
        """Whether records are fetched over a network, unless they are kept on this machine already."""
        return isinstance(self.path, Location)

    @property
    def files(self) -> ReadableFiles:
        """The files of the store."""
        return self._layout.files

    def close(self) -> None:
        """Close the files that are open, so that Windows lets them be replaced; a later read opens them again."""
        self.files.close()

    def file_keys(self) -> list[str]:
        """The keys of the store's files, sorted; for a store that is one file, the empty key."""
        return sorted(self._layout.file_keys(self.spec, self._columns))

    @property
    def nbytes(self) -> int:
        """The size of all files in bytes."""
        return sum(self.files.size(key) for key in self.file_keys())

    def shard_of(self, indices: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The shard of each instance (n,); reading shard after shard is fastest for a remote store."""
        return np.asarray(indices, np.int64) // self.spec.shard_instances

    @property
    def layout(self) -> str:
        """How the arrays are arranged in files: `zarr` or `hdf5`."""
        return self._layout.name

    @property
    def codec(self) -> Codec:
        """The codec of the heatmaps; `store.codec.floor` is the floor of log logits, in heatmap units."""
        return self.spec.codec

    @property
    def complete(self) -> bool:
        """Whether the store is finished."""
        return self.manifest["complete"] is True

    @property
    def has_frames(self) -> bool:
        """Whether the store holds the frames' bytes."""
        return self.spec.frames

    @property
    def columns(self) -> Columns:
        """Path in the store -> (dtype, shape) of every column."""
        return self._columns

    @property
    def written(self) -> npt.NDArray[np.bool_]:
        """(N,) bool: which instances have heatmaps and, if the store has frames, a frame."""
        return self.column("integrity/written") != 0

    @property
    def frame_affine(self) -> npt.NDArray[np.float64]:
        """(N, 2, 3) image pixels -> frame pixels."""
        return self.column("frames/affine")

    @property
    def view_affine(self) -> npt.NDArray[np.float64]:
        """(N, V, 2, 3) frame pixels -> teacher input pixels, including the mirroring of a flipped view."""
        return self.column("views/affine")

    @property
    def view_flip(self) -> npt.NDArray[np.bool_]:
        """(V,) bool: which stored views are mirrored."""
        return self.column("views/flip") != 0

    def column(self, path: str) -> npt.NDArray[Any]:
        """The column at `path`, read-only; it is read once and kept. `StoreError` if there is none."""
        return self._stored.column(path)

    def heatmaps(
        self, indices: Sequence[int] | npt.NDArray[np.integer[Any]], views: Sequence[int] | None = None
    ) -> npt.NDArray[np.float32]:
        """(n, V, K, H, W) float32 heatmaps of n instances, in the order of `indices` (n,), which may repeat.

        With `views` (v,), (n, v, K, H, W): only those stored views are read.
        """
        views = range(self.spec.views) if views is None else views
        maps = np.empty((len(indices), len(views), *self.spec.map_shape), np.float32)
        records = [(int(index), int(view)) for index in indices for view in views]
        outs = list(maps.reshape(-1, *self.spec.map_shape))
        try:
            for (stored, peak), out in zip(self.stored_many(records), outs, strict=True):
                self.codec.decode(stored, peak, out)
        except (StoreFormatError, MissingRecordError):  # one by one: the error is then that of the first wrong record
            for record, out in zip(records, outs, strict=True):
                self.heatmap(*record, out)
        return maps

    def heatmap(self, index: int, view: int = 0, out: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float32]:
        """(K, H, W) float32 heatmaps of one stored view of one instance, written to `out` (contiguous) if given.

        With the codec `root4`, values below the floor are 0.
        """
        stored, peak = self.stored(index, view)
        try:
            return self.codec.decode(stored, peak, out)
        except StoreFormatError as error:
            raise self._damaged_error(index, f"view {view}", error) from error

    def codes(self, index: int, view: int = 0) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
        """Codes (K, H, W) and peaks (K,) float32 of one stored view; `RootCodec.tables` has the values of the codes."""
        stored, peak = self.stored(index, view)
        try:
            return self.codec.codes(stored), peak
        except StoreFormatError as error:
            raise self._damaged_error(index, f"view {view}", error) from error

    def stored(self, index: int, view: int = 0) -> Stored:
        """One view as on disk, decompressed: maps (K, H, W) for `codec.decode` or `codec.codes`, and peaks (K,)."""
        data, peak = self._packed(index, view)
        try:
            (stored,) = self._decompress(data, 1)
        except StoreFormatError as error:
            raise self._damaged_error(index, f"view {view}", error) from error
        if not self._matches_checksum(index, view, stored, peak):
            raise self._damaged_error(index, f"view {view}", "maps or peaks do not match their checksum")
        return stored, peak

    def stored_many(self, records: Sequence[tuple[int, int]]) -> Iterator[Stored]:
        """Yield the result of `stored` for each (index, view) of `records`, in their order.

        If the layout allows it, all records are read first and several are decompressed at once, which is faster.
        """
        if not self._layout.decompresses_concatenated:
            yield from itertools.starmap(self.stored, records)
            return
        packed = list(itertools.starmap(self._packed, records))
        for start in range(0, len(records), DECOMPRESSED_AT_ONCE):
            part = slice(start, start + DECOMPRESSED_AT_ONCE)
            yield from self._unpack(records[part], packed[part])

    def decode_interleaved(
        self, index: int, view: int, stored: Stored, order: npt.NDArray[np.int64], out: npt.NDArray[np.float32]
    ) -> None:
        """Decode a result of `stored` into `out` (H, W, K) float32, any strides; its map k is stored map order[k]."""
        out[...] = 0
        try:
            self.codec.decode_interleaved(*stored, order, out)
        except StoreFormatError as error:
            raise self._damaged_error(index, f"view {view}", error) from error

    def _packed(self, index: int, view: int) -> tuple[bytes, npt.NDArray[np.float32]]:
        """The compressed codes of a view, and its peaks (K,)."""
        self._check_written(index, view)
        extent = self._layout.view_extent(self.spec, index, view)
        if not extent.nbytes or extent.nbytes > 2 * self.spec.map_bytes + 1024:
            raise self._damaged_error(index, f"view {view}", f"{extent.nbytes} compressed bytes")
        return extent.read(self._layout.files), self._peak(index, view)

    def _unpack(
        self, records: Sequence[tuple[int, int]], packed: Sequence[tuple[bytes, npt.NDArray[np.float32]]]
    ) -> Iterator[Stored]:
        """Decompress several views at once; where something is wrong, `stored` reads them one by one and raises."""
        try:
            maps = self._decompress(b"".join([data for data, _ in packed]), len(packed))
        except StoreFormatError:
            yield from itertools.starmap(self.stored, records)
            return
        for (index, view), stored, (_, peak) in zip(records, maps, packed, strict=True):
            yield (stored, peak) if self._matches_checksum(index, view, stored, peak) else self.stored(index, view)

    def _decompress(self, data: bytes, count: int) -> npt.NDArray[Any]:
        """The maps (count, K, H, W) of `count` concatenated views."""
        maps = self._layout.decompress(data, count * self.spec.map_bytes)
        return maps.view(self.codec.dtype).reshape(count, *self.spec.map_shape)

    def _matches_checksum(self, index: int, view: int, stored: npt.NDArray[Any], peak: npt.NDArray[np.float32]) -> bool:
        return view_checksum(stored, peak) == self.column("integrity/checksum").item(index, view)

    def frame(self, index: int) -> bytes:
        """The bytes of an instance's frame, an encoded image (JPEG).

        Raises:
            MissingRecordError: The store has no frames, or the instance does not exist or was never written.
            StoreFormatError: The frame is damaged.
        """
        self._check_written(index, 0)
        if not self.has_frames:
            raise MissingRecordError(
                f"{self.path}: the store has no frames; give the folder of the original images (--images DIR)"
            )
        offset, nbytes = self.column("frames/offset").item(index), self.column("frames/nbytes").item(index)
        if not 0 < nbytes <= self.spec.frame_limit:
            raise self._damaged_error(index, "frame", f"{nbytes} bytes")
        data = self._layout.frame_extent(self.spec, index, offset, nbytes).read(self._layout.files)
        if crc32c(data) != self.column("integrity/checksum").item(index, -1):
            raise self._damaged_error(index, "frame", "the bytes do not match their checksum")
        return data

    def stored_bytes(self, index: int) -> int:
        """The compressed size in bytes of an instance's heatmaps, all views."""
        return sum(self._layout.view_extent(self.spec, index, view).nbytes for view in range(self.spec.views))

    def foreign_entries(self) -> list[str]:
        """Names of entries inside the store that do not belong to it, or are links or devices."""
        return list(self._layout.foreign_entries(self.spec, self._columns))

    def _peak(self, index: int, view: int) -> npt.NDArray[np.float32]:
        """(K,) peaks, unchecked: the checksum of the record covers them."""
        record, joints, extent = index * self.spec.views + view, self.spec.joints, self._extents["heatmaps/peak"]
        if self._peaks is None and not self.is_remote and extent.nbytes <= KEPT_PEAKS:
            with suppress(StoreFormatError):  # if some cannot be read, the others are read per record below
                self._peaks = np.frombuffer(extent.read(self._layout.files), "<f4").reshape(-1, joints)
        if self._peaks is not None:
            return self._peaks[record]
        part = Extent(extent.key, extent.offset + 4 * record * joints, 4 * joints)
        return np.frombuffer(part.read(self._layout.files), "<f4")

    def _check_written(self, index: int, view: int) -> None:
        """Raise `MissingRecordError` unless instance and view exist and were written."""
        if not (0 <= index < self.spec.instances and 0 <= view < self.spec.views):
            raise MissingRecordError(
                f"{self.path}: no instance {index}, view {view}: the store has {self.spec.instances} instances and "
                f"{self.spec.views} stored views"
            )
        if not self.column("integrity/written")[index]:
            raise MissingRecordError(f"{self.path}: instance {index}{self._annotation(index)} was never written")

    def _damaged_error(self, index: int, part: str, reason: object) -> StoreFormatError:
        return StoreFormatError(
            f"{self.path}: instance {index}{self._annotation(index)}, {part}: {reason}; the store is damaged; run "
            "`python -m cache verify` on it"
        )

    def _annotation(self, index: int) -> str:
        return f" (annotation {self.column('instances/annotation_id')[index]})"


def _as_mapping(manifest: Any, layout: Layout) -> Mapping[str, Any]:
    if not isinstance(manifest, Mapping):
        raise StoreFormatError(f"{layout.files.root}: no manifest")
    return manifest
