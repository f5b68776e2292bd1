"""Where the bytes of a store lie: the one thing in which its Zarr and HDF5 forms differ for a reader."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from cache.files.local import ReadableFiles
from cache.format.spec import Columns, StoreSpec

MAX_DOCUMENT = 1 << 24  # bytes of a JSON document; a manifest has a few thousand


class Extent(NamedTuple):
    """A range of bytes of one file."""

    key: str  # file below the store's root; "" for the root itself
    offset: int
    nbytes: int

    def read(self, files: ReadableFiles) -> bytes:
        """The bytes; where there are none, no file is asked for, since an empty column may have none."""
        return files.read(*self) if self.nbytes else b""


class Layout(Protocol):
    """Finds things in one form of a store and checks that they are declared as docs/format.md says."""

    name: str  # "zarr" or "hdf5"
    joins: bool  # do the compressed codes of several views, one after the other, decompress at once?
    files: ReadableFiles

    def manifest(self) -> Any:
        """The parsed manifest, not yet validated."""

    def check(self, spec: StoreSpec, columns: Columns) -> dict[str, Extent]:
        """Check the declarations of all arrays against the manifest's; returns where each column's bytes lie."""

    def strangers(self, spec: StoreSpec, columns: Columns) -> Iterator[str]:
        """What lies inside the store and is no part of it, or is a link or a device."""

    def keys(self, spec: StoreSpec, columns: Columns) -> set[str]:
        """The keys of all files of the store."""

    def view(self, spec: StoreSpec, instance: int, view: int) -> Extent:
        """Where the compressed codes of a view lie; no bytes: never written."""

    def frame(self, spec: StoreSpec, instance: int, offset: int, nbytes: int) -> Extent:
        """Where the frame lies whose columns say `offset` and `nbytes`."""

    def decompress(self, data: bytes, nbytes: int) -> npt.NDArray[np.uint8]:
        """The `nbytes` bytes of codes that `data` holds; of several views in a row, if the form `joins` them."""
