"""The columns of a store as it holds them: each is read when it is first asked for, and kept.

They know the store's files and not the store, so that a store's tables do not hold the store itself: its files are
closed when the last reference to it goes, without waiting for Python's search for cycles.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.errors import StoreError, StoreFormatError
from cache.files import ReadableFiles
from cache.layout import Extent
from cache.spec import Columns


class StoredColumns:
    """Path -> column, read-only, of the arrays that `declared` names and whose bytes lie at `extents`."""

    def __init__(self, files: ReadableFiles, declared: Columns, extents: Mapping[str, Extent]) -> None:
        self._files, self.declared, self._extents = files, declared, extents
        self._read: dict[str, npt.NDArray[Any]] = {}

    def column(self, path: str) -> npt.NDArray[Any]:
        """The column at `path`; a `StoreError` if there is none, or if it holds what is not finite."""
        found = self._read.get(path)
        if found is None:
            found = self._read[path] = self._column(path)
        return found

    def _column(self, path: str) -> npt.NDArray[Any]:
        if path not in self.declared:
            raise StoreError(f"{self._files.root}: no column {path!r}; there are {sorted(self.declared)}")
        dtype, shape = self.declared[path]
        column = np.frombuffer(self._extents[path].read(self._files), dtype).reshape(shape)
        if column.dtype.kind == "f" and not np.isfinite(column).all():
            raise StoreFormatError(f"{self._files.root}: column {path} holds values that are not finite")
        return column
