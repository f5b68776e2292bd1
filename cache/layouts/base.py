"""The interface of a layout: how the arrays of a store are arranged in files. Zarr and HDF5 stores differ only in this.

`Layout` locates and checks the arrays of an existing store; `LayoutWriter` completes a new one.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
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
        """Read the range; an empty range needs no file."""
        return files.read(*self) if self.nbytes else b""


class Layout(Protocol):
    """Locates the arrays of a store, and checks that they are declared as docs/format.md requires."""

    name: str  # "zarr" or "hdf5"
    decompresses_concatenated: bool  # whether `decompress` accepts the codes of several views, one after the other
    files: ReadableFiles

    def manifest(self) -> Any:
        """The manifest, parsed but not validated."""

    def check(self, spec: StoreSpec, columns: Columns) -> dict[str, Extent]:
        """Check that all arrays are declared as the manifest says; returns path -> where the column's bytes are.

        Raises:
            StoreFormatError: An array is missing, damaged, or declared otherwise.
        """

    def foreign_entries(self, spec: StoreSpec, columns: Columns) -> Iterator[str]:
        """Names of entries inside the store that do not belong to it, or are links or devices."""

    def file_keys(self, spec: StoreSpec, columns: Columns) -> set[str]:
        """The keys of all files of the store."""

    def view_extent(self, spec: StoreSpec, instance: int, view: int) -> Extent:
        """Where the compressed codes of a stored view are; 0 bytes if it was never written."""

    def frame_extent(self, spec: StoreSpec, instance: int, offset: int, nbytes: int) -> Extent:
        """Where the frame with these entries of `frames/offset` and `frames/nbytes` is."""

    def decompress(self, data: bytes, nbytes: int) -> npt.NDArray[np.uint8]:
        """Decompress codes to (nbytes,) uint8."""


class LayoutWriter(Protocol):
    """Completes a new store whose shards are written; the modules `zarr_writer` and `hdf5_writer` implement it."""

    def complete(
        self,
        shards: Path,
        target: Path,
        spec: StoreSpec,
        columns: Mapping[str, npt.NDArray[Any]],
        manifest: Mapping[str, Any],
    ) -> None:
        """Write the whole store to `target`, from the shard files below `shards`."""

    def write_manifest(self, target: Path, manifest: Mapping[str, Any]) -> None:
        """Replace the manifest of the store at `target`, and sync the whole store to the disk."""
