"""Finding the bytes of a store in HDF5 form: h5py reads the file's structure, the bytes are read past it.

The library is open only while the structure is looked at: no handle outlives a call, none crosses a fork, and its
global lock is not held while records are read.
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
SUPERBLOCK = 8  # where the version of the superblock stands
CHECKSUMMED = 2  # the first version whose superblock, and the structures that come with it, carry checksums


class Hdf5Layout:
    """One HDF5 file. The chunk table of the codes is read when first needed and kept."""

    name = "hdf5"
    joins = False

    def __init__(self, files: ReadableFiles) -> None:
        self.files = files
        self._chunks: npt.NDArray[np.uint64] | None = None
        self._frames = Extent("", 0, 0)

    def manifest(self) -> Any:
        """See `Layout.manifest`."""
        if self.files.read("", 0, SUPERBLOCK + 1)[SUPERBLOCK] < CHECKSUMMED:
            raise StoreFormatError(
                f"{self.files.root}: of a version of HDF5's format without checksums of its structure; copy it with "
                "`h5repack --low=v110`"
            )
        with self._session() as file:
            if _text(file.attrs.get("encoding-type")) != FORMAT_NAME:
                raise StoreFormatError(f"{self.files.root}: an HDF5 file, but not a {FORMAT_NAME} store")
            return parse_document(_text(file.attrs.get("manifest")), str(self.files.root))

    def check(self, spec: StoreSpec, columns: Columns) -> dict[str, Extent]:
        """See `Layout.check`."""
        with self._session() as file:
            codes = self._dataset(file, CODES, spec.codec.dtype.str, (spec.instances, spec.views, *spec.map_shape))
            filters = codes.id.get_create_plist().get_nfilters()
            if codes.chunks != (1, 1, *spec.map_shape) or filters != 1 or codes.compression != "gzip":
                raise StoreFormatError(
                    f"{self.files.root}:/{CODES}: expected a chunk a view, deflated and nothing else"
                )
            if spec.frames:
                self._frames = self._contiguous(file, FRAMES, "|u1", None)
            return {path: self._contiguous(file, path, *declared) for path, declared in columns.items()}

    def strangers(self, spec: StoreSpec, columns: Columns) -> Iterator[str]:
        """See `Layout.strangers`."""
        expected = {*columns, CODES, *([FRAMES] if spec.frames else [])}
        expected |= {path.partition("/")[0] for path in expected}
        found: list[str] = []
        with self._session() as file:
            file.visit_links(found.append)
        return (path for path in found if path not in expected)

    def keys(self, spec: StoreSpec, columns: Columns) -> set[str]:
        """See `Layout.keys`."""
        return {""}

    def view(self, spec: StoreSpec, instance: int, view: int) -> Extent:
        """See `Layout.view`."""
        if self._chunks is None:
            self._chunks = self._chunk_table(spec)
        return Extent("", *self._chunks[instance, view].tolist())

    def frame(self, spec: StoreSpec, instance: int, offset: int, nbytes: int) -> Extent:
        """See `Layout.frame`."""
        if offset + nbytes > self._frames.nbytes:
            raise StoreFormatError(f"{self.files.root}: the frame of instance {instance} lies outside {FRAMES}")
        return Extent("", self._frames.offset + offset, nbytes)

    def decompress(self, data: bytes, nbytes: int) -> npt.NDArray[np.uint8]:
        """See `Layout.decompress`."""
        return compress.deflate_decompress(data, nbytes)

    @contextmanager
    def _session(self) -> Iterator[h5py.File]:
        """The open file; whatever HDF5 says about a damaged one becomes a `StoreFormatError`."""
        try:
            with self.files.source() as source, _open(source) as file:
                yield file
        except StoreError:
            raise
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, RecursionError) as error:
            raise StoreFormatError(f"{self.files.root}: damaged: {error}") from error

    def _chunk_table(self, spec: StoreSpec) -> npt.NDArray[np.uint64]:
        """(N, V, 2) offset and size in the file of every chunk of the codes; 0 bytes: never written."""
        table = np.zeros((spec.instances, spec.views, 2), np.uint64)
        size = self.files.size("")

        def note(chunk: Any) -> None:
            if chunk.filter_mask or chunk.byte_offset is None or chunk.byte_offset + chunk.size > size:
                raise StoreFormatError(f"{self.files.root}:/{CODES}: chunk {chunk.chunk_offset} is damaged")
            table[chunk.chunk_offset[0], chunk.chunk_offset[1]] = chunk.byte_offset, chunk.size

        with self._session() as file:
            file[CODES].id.chunk_iter(note)
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
        """The dataset at `path`, reached by hard links alone, stored in this file, with this dtype and shape."""
        where = f"{self.files.root}:/{path}"
        parts = path.split("/")
        links = [file.get("/".join(parts[: depth + 1]), getlink=True) for depth in range(len(parts))]
        if any(link is None for link in links):
            raise StoreFormatError(f"{where}: missing")
        if any(not isinstance(link, h5py.HardLink) for link in links):
            raise StoreFormatError(f"{where}: a soft or external link; the format forbids links")
        dataset = file[path]
        if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
            raise StoreFormatError(f"{where}: not a dataset of this file")
        check_encoding(path, dataset.attrs, where)
        if dataset.dtype != np.dtype(dtype) or (shape is not None and dataset.shape != shape):
            raise StoreFormatError(f"{where}: {dataset.dtype} {dataset.shape}, the manifest asks for {dtype} {shape}")
        return dataset


def _open(path: Path | BinaryIO) -> h5py.File:
    """Open for reading, without a lock where none can be had: read-only and network file systems, foreign handles."""
    try:
        return h5py.File(path, "r")
    except OSError:
        return h5py.File(path, "r", locking=False)  # a published file never changes


def _text(value: Any) -> str:
    """A string attribute, whichever of its forms HDF5 returned; anything else becomes an empty text."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else ""
