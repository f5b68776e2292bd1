"""Locating the arrays of a store in the HDF5 layout: h5py reads the structure of the file, but not the arrays' bytes.

The file is open in h5py only while its structure is read. No handle outlives a call or crosses a fork, and the global
lock of h5py is not held while records are read.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import numpy.typing as npt

from cache.errors import StoreError, StoreFormatError
from cache.files.local import ReadableFiles
from cache.format import compress
from cache.format.manifest import parse_document
from cache.format.spec import FORMAT_NAME, Columns, StoreSpec, check_encoding
from cache.layouts.base import Extent

CODES = "heatmaps/codes"
FRAMES = "frames/data"
SUPERBLOCK = 8  # offset of the version of the superblock
CHECKSUMMED = 2  # the first version in which the superblock and the other structures have checksums


class Hdf5Layout:
    """One HDF5 file. The table of the codes' chunks is read when it is first needed, and kept."""

    name = "hdf5"
    decompresses_concatenated = False

    def __init__(self, files: ReadableFiles) -> None:
        self.files = files
        self._chunks: npt.NDArray[np.uint64] | None = None
        self._frames = Extent("", 0, 0)

    def manifest(self) -> Any:
        """The manifest, parsed but not validated; `StoreFormatError` if this is not a store."""
        if self.files.read("", 0, SUPERBLOCK + 1)[SUPERBLOCK] < CHECKSUMMED:
            raise StoreFormatError(
                f"{self.files.root}: this version of the HDF5 file format has no checksums of its structure; copy the "
                "file with `h5repack --low=v110`"
            )
        with self._session() as file:
            if _text(file.attrs.get("encoding-type")) != FORMAT_NAME:
                raise StoreFormatError(f"{self.files.root}: an HDF5 file, but not a {FORMAT_NAME} store")
            return parse_document(_text(file.attrs.get("manifest")), str(self.files.root))

    def check(self, spec: StoreSpec, columns: Columns) -> dict[str, Extent]:
        """Check the declarations of all arrays; returns path -> where the column's bytes are."""
        with self._session() as file:
            codes = self._dataset(file, CODES, spec.codec.dtype.str, (spec.instances, spec.views, *spec.map_shape))
            filters = codes.id.get_create_plist().get_nfilters()
            if codes.chunks != (1, 1, *spec.map_shape) or filters != 1 or codes.compression != "gzip":
                raise StoreFormatError(
                    f"{self.files.root}:/{CODES}: expected one chunk per view, with the deflate filter and no other"
                )
            if spec.frames:
                self._frames = self._contiguous(file, FRAMES, "|u1", None)
            return {path: self._contiguous(file, path, *declared) for path, declared in columns.items()}

    def foreign_entries(self, spec: StoreSpec, columns: Columns) -> Iterator[str]:
        """Names of entries inside the store that do not belong to it, or are links or devices."""
        expected = {*columns, CODES, *([FRAMES] if spec.frames else [])}
        expected |= {path.partition("/")[0] for path in expected}
        found: list[str] = []
        with self._session() as file:
            file.visit_links(found.append)
        return (path for path in found if path not in expected)

    def file_keys(self, spec: StoreSpec, columns: Columns) -> set[str]:
        """The keys of all files of the store."""
        return {""}

    def view_extent(self, spec: StoreSpec, instance: int, view: int) -> Extent:
        """Where the compressed codes of a stored view are; 0 bytes if it was never written."""
        if self._chunks is None:
            self._chunks = self._chunk_table(spec)
        return Extent("", *self._chunks[instance, view].tolist())

    def frame_extent(self, spec: StoreSpec, instance: int, offset: int, nbytes: int) -> Extent:
        """Where the frame with this offset and size in bytes is; `StoreFormatError` if that is outside."""
        if offset + nbytes > self._frames.nbytes:
            raise StoreFormatError(f"{self.files.root}: the frame of instance {instance} is outside {FRAMES}")
        return Extent("", self._frames.offset + offset, nbytes)

    def decompress(self, data: bytes, nbytes: int) -> npt.NDArray[np.uint8]:
        """Decompress the codes of one view to (nbytes,) uint8."""
        return compress.deflate_decompress(data, nbytes)

    @contextmanager
    def _session(self) -> Iterator[h5py.File]:
        """The open file; an error of HDF5 about a damaged file becomes a `StoreFormatError`."""
        try:
            with self.files.source() as source, _open(source) as file:
                yield file
        except StoreError:
            raise
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, RecursionError) as error:
            raise StoreFormatError(f"{self.files.root}: damaged: {error}") from error

    def _chunk_table(self, spec: StoreSpec) -> npt.NDArray[np.uint64]:
        """(N, V, 2) uint64: offset and size in the file of every chunk of the codes; size 0 if it was never written."""
        table = np.zeros((spec.instances, spec.views, 2), np.uint64)
        size = self.files.size("")

        def add(chunk: Any) -> None:
            if chunk.filter_mask or chunk.byte_offset is None or chunk.byte_offset + chunk.size > size:
                raise StoreFormatError(f"{self.files.root}:/{CODES}: chunk {chunk.chunk_offset} is damaged")
            table[chunk.chunk_offset[0], chunk.chunk_offset[1]] = chunk.byte_offset, chunk.size

        with self._session() as file:
            file[CODES].id.chunk_iter(add)
        return table

    def _contiguous(self, file: h5py.File, path: str, dtype: str, shape: tuple[int, ...] | None) -> Extent:
        dataset = self._dataset(file, path, dtype, shape)
        nbytes = dataset.size * dataset.dtype.itemsize
        offset = dataset.id.get_offset()
        if dataset.chunks is not None or (nbytes and offset is None):
            raise StoreFormatError(f"{self.files.root}:/{path}: expected a contiguous dataset")
        if nbytes and offset + nbytes > self.files.size(""):
            raise StoreFormatError(f"{self.files.root}:/{path}: truncated: the file ends before the dataset")
        return Extent("", offset or 0, nbytes)

    def _dataset(self, file: h5py.File, path: str, dtype: str, shape: tuple[int, ...] | None) -> h5py.Dataset:
        """The dataset at `path`; checks that links are hard, and dtype, shape (if given) and storage as expected."""
        where = f"{self.files.root}:/{path}"
        parts = path.split("/")
        links = [file.get("/".join(parts[: depth + 1]), getlink=True) for depth in range(len(parts))]
        if any(link is None for link in links):
            raise StoreFormatError(f"{where}: missing")
        if any(not isinstance(link, h5py.HardLink) for link in links):
            raise StoreFormatError(f"{where}: a soft or external link, which the format forbids")
        dataset = file[path]
        if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
            raise StoreFormatError(f"{where}: not a dataset of this file")
        check_encoding(path, dataset.attrs, where)
        if dataset.dtype != np.dtype(dtype) or (shape is not None and dataset.shape != shape):
            raise StoreFormatError(f"{where}: {dataset.dtype} {dataset.shape}, the manifest declares {dtype} {shape}")
        return dataset


def _open(path: Path | BinaryIO) -> h5py.File:
    """Open for reading, without a lock where none can be had: a published file never changes.

    Within a process, HDF5 opens a file only once more with the same setting of locks. The default comes first, so that
    a reader who opens the file with h5py as well needs no setting.
    """
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if "lock" not in str(error):
            raise
        return h5py.File(path, "r", locking=False)


def _text(value: Any) -> str:
    """A string attribute, which HDF5 returns as bytes or as text; '' for any other value."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else ""
