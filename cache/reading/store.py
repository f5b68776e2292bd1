"""Reading a store: what one can ask of it once `cache.open_store` has found it.

A `Store` may be pickled, used by several threads and carried over a fork; it holds no library's handle and no mapping,
reads ranges of bytes by position, and checks every record against its checksum.
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

KEPT_PEAKS = 16 << 20  # bytes: up to there one read of a local file serves for all peaks; others are read by record
DECOMPRESSED_AT_ONCE = 16  # views: the decoder's start is then a small part, their maps a megabyte
Stored = tuple[npt.NDArray[Any], npt.NDArray[np.float32]]
"""Maps (K, H, W) in the codec's dtype, and their peaks (K,)."""


class Store:
    """A store opened for reading. `len(store)` is its number of instances; indices are positions in its fixed order."""

    spec: StoreSpec
    manifest: Mapping[str, Any]  # see cache/format/manifest.py

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.manifest = MappingProxyType(_mapping(layout.manifest(), layout))
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
        """Where the store is; of a remote one, `str()` shows no credentials and `name` is the last part of the URL."""
        return self._layout.files.root

    @property
    def is_remote(self) -> bool:
        """Do records come over a network, unless they are kept on this machine already?"""
        return isinstance(self.path, Location)

    @property
    def files(self) -> ReadableFiles:
        """The files that the store is made of."""
        return self._layout.files

    def file_keys(self) -> list[str]:
        """The keys of `files` that the store has, in order; of a store that is one file, the empty one."""
        return sorted(self._layout.keys(self.spec, self._columns))

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(self.files.size(key) for key in self.file_keys())

    def shard_of(self, indices: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The shard of each instance: reading shard after shard is kind to a remote store."""
        return np.asarray(indices, np.int64) // self.spec.shard_instances

    @property
    def form(self) -> str:
        """`zarr` or `hdf5`."""
        return self._layout.name

    @property
    def codec(self) -> Codec:
        """How the heatmaps are coded; `store.codec.floor` is the floor of log logits."""
        return self.spec.codec

    @property
    def complete(self) -> bool:
        """Was the store finished and given its final name?"""
        return self.manifest["complete"] is True

    @property
    def has_frames(self) -> bool:
        """Are the frames' bytes in the store?"""
        return self.spec.frames

    @property
    def columns(self) -> Columns:
        """Path -> (dtype, shape) of every column."""
        return self._columns

    @property
    def written(self) -> npt.NDArray[np.bool_]:
        """(N,) which instances have heatmaps (and frames)."""
        return self.column("integrity/written") != 0

    @property
    def frame_affine(self) -> npt.NDArray[np.float64]:
        """(N, 2, 3) image pixels -> frame pixels."""
        return self.column("frames/affine")

    @property
    def view_affine(self) -> npt.NDArray[np.float64]:
        """(N, V, 2, 3) frame pixels -> teacher input pixels, including the mirror of a flipped view."""
        return self.column("views/affine")

    @property
    def view_flip(self) -> npt.NDArray[np.bool_]:
        """(V,) which views are mirrored."""
        return self.column("views/flip") != 0

    def column(self, path: str) -> npt.NDArray[Any]:
        """The column at `path`, read once and kept; read-only."""
        return self._stored.column(path)

    def heatmaps(self, indices: Sequence[int] | npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32]:
        """(n, V, K, H, W) float32 heatmaps of the instances, in the order asked; indices may repeat."""
        maps = np.empty((len(indices), self.spec.views, *self.spec.map_shape), np.float32)
        for row, index in enumerate(indices):
            for view in range(self.spec.views):
                self.heatmap(int(index), view, out=maps[row, view])
        return maps

    def heatmap(self, index: int, view: int = 0, out: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float32]:
        """(K, H, W) float32 heatmaps of one view of one instance, in `out` (contiguous) if given.

        Values below the floor are 0 (codec root4).
        """
        stored, peak = self.stored(index, view)
        try:
            return self.codec.decode(stored, peak, out)
        except StoreFormatError as error:
            raise self._damaged(index, f"view {view}", error) from error

    def codes(self, index: int, view: int = 0) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
        """Codes (K, H, W) and peaks (K,) float32 of one view; the value of a code is in `codec.tables(peaks)`."""
        stored, peak = self.stored(index, view)
        try:
            return self.codec.codes(stored), peak
        except StoreFormatError as error:
            raise self._damaged(index, f"view {view}", error) from error

    def stored(self, index: int, view: int = 0) -> Stored:
        """One view as it is on disk, decompressed: (K, H, W) for `codec.decode` or `codec.codes`, and peaks (K,)."""
        data, peak = self._packed(index, view)
        try:
            (stored,) = self._decompress(data, 1)
        except StoreFormatError as error:
            raise self._damaged(index, f"view {view}", error) from error
        if not self._is_sound(index, view, stored, peak):
            raise self._damaged(index, f"view {view}", "maps or peaks do not match their checksum")
        return stored, peak

    def stored_many(self, records: Sequence[tuple[int, int]]) -> Iterator[Stored]:
        """What `stored` gives of many instances and views, in their order.

        Where the form allows, all are read first and then some at once decompressed: less work than one by one.
        """
        if not self._layout.joins:
            yield from itertools.starmap(self.stored, records)
            return
        packed = list(itertools.starmap(self._packed, records))
        for start in range(0, len(records), DECOMPRESSED_AT_ONCE):
            part = slice(start, start + DECOMPRESSED_AT_ONCE)
            yield from self._unpack(records[part], packed[part])

    def decode_interleaved(
        self, index: int, view: int, stored: Stored, order: npt.NDArray[np.int64], out: npt.NDArray[np.float32]
    ) -> None:
        """Fill `out` (H, W, K), which may have any strides, with the maps of a view that `stored` gave.

        Its map k is map order[k] of those stored.
        """
        out[...] = 0
        try:
            self.codec.decode_interleaved(*stored, order, out)
        except StoreFormatError as error:
            raise self._damaged(index, f"view {view}", error) from error

    def _packed(self, index: int, view: int) -> tuple[bytes, npt.NDArray[np.float32]]:
        """The compressed codes of a view, and peaks (K,)."""
        self._require(index, view)
        extent = self._layout.view(self.spec, index, view)
        if not extent.nbytes or extent.nbytes > 2 * self.spec.map_bytes + 1024:
            raise self._damaged(index, f"view {view}", f"{extent.nbytes} compressed bytes")
        return extent.read(self._layout.files), self._peak(index, view)

    def _unpack(
        self, records: Sequence[tuple[int, int]], packed: Sequence[tuple[bytes, npt.NDArray[np.float32]]]
    ) -> Iterator[Stored]:
        """What `stored` gives, which is asked itself wherever something is wrong: it says what."""
        try:
            maps = self._decompress(b"".join([data for data, _ in packed]), len(packed))
        except StoreFormatError:
            yield from itertools.starmap(self.stored, records)
            return
        for (index, view), stored, (_, peak) in zip(records, maps, packed, strict=True):
            yield (stored, peak) if self._is_sound(index, view, stored, peak) else self.stored(index, view)

    def _decompress(self, data: bytes, count: int) -> npt.NDArray[Any]:
        """The maps (count, K, H, W) of that many views in a row."""
        maps = self._layout.decompress(data, count * self.spec.map_bytes)
        return maps.view(self.codec.dtype).reshape(count, *self.spec.map_shape)

    def _is_sound(self, index: int, view: int, stored: npt.NDArray[Any], peak: npt.NDArray[np.float32]) -> bool:
        return view_checksum(stored, peak) == self.column("integrity/checksum").item(index, view)

    def frame(self, index: int) -> bytes:
        """The encoded image (JPEG) of an instance's frame."""
        self._require(index, 0)
        if not self.has_frames:
            raise MissingRecordError(f"{self.path}: made without frames; give the trainer the image folder")
        offset, nbytes = self.column("frames/offset").item(index), self.column("frames/nbytes").item(index)
        if not 0 < nbytes <= self.spec.frame_limit:
            raise self._damaged(index, "frame", f"{nbytes} bytes")
        data = self._layout.frame(self.spec, index, offset, nbytes).read(self._layout.files)
        if crc32c(data) != self.column("integrity/checksum").item(index, -1):
            raise self._damaged(index, "frame", "the bytes do not match their checksum")
        return data

    def stored_bytes(self, index: int) -> int:
        """Bytes that the heatmaps of an instance take on disk."""
        return sum(self._layout.view(self.spec, index, view).nbytes for view in range(self.spec.views))

    def strangers(self) -> list[str]:
        """What lies inside the store and is no part of it, or is a link or a device."""
        return list(self._layout.strangers(self.spec, self._columns))

    def _peak(self, index: int, view: int) -> npt.NDArray[np.float32]:
        """(K,) peaks, as they are: the record's checksum says whether they are right."""
        record, joints, extent = index * self.spec.views + view, self.spec.joints, self._extents["heatmaps/peak"]
        if self._peaks is None and not self.is_remote and extent.nbytes <= KEPT_PEAKS:
            with suppress(StoreFormatError):  # some cannot be read: that is no matter of the others
                self._peaks = np.frombuffer(extent.read(self._layout.files), "<f4").reshape(-1, joints)
        if self._peaks is not None:
            return self._peaks[record]
        part = Extent(extent.key, extent.offset + 4 * record * joints, 4 * joints)
        return np.frombuffer(part.read(self._layout.files), "<f4")

    def _require(self, index: int, view: int) -> None:
        """Raise unless instance and view exist and were written."""
        if not (0 <= index < self.spec.instances and 0 <= view < self.spec.views):
            raise MissingRecordError(
                f"{self.path}: no instance {index}, view {view}; there are {self.spec.instances} and {self.spec.views}"
            )
        if not self.column("integrity/written")[index]:
            raise MissingRecordError(f"{self.path}: instance {index}{self._annotation(index)} was never written")

    def _damaged(self, index: int, part: str, reason: object) -> StoreFormatError:
        return StoreFormatError(
            f"{self.path}: instance {index}{self._annotation(index)}, {part}: {reason}; the store is damaged, see "
            "`python -m cache verify`"
        )

    def _annotation(self, index: int) -> str:
        return f" (annotation {self.column('instances/annotation_id')[index]})"


def _mapping(manifest: Any, layout: Layout) -> Mapping[str, Any]:
    if not isinstance(manifest, Mapping):
        raise StoreFormatError(f"{layout.files.root}: no manifest")
    return manifest
