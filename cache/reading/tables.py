"""The columns of an open store; each is read when it is first used, and kept.

`StoredColumns` reads any column by its path; `ColumnTable` is the mapping of one group, e.g. `store.instances`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.errors import StoreError, StoreFormatError
from cache.files.local import ReadableFiles
from cache.format.columns import decode_text
from cache.format.spec import TEXT_COLUMN, Columns
from cache.layouts.base import Extent


class StoredColumns:
    """Path -> column, read-only; `declared` has the dtypes and shapes, `extents` where the bytes are."""

    def __init__(self, files: ReadableFiles, declared: Columns, extents: Mapping[str, Extent]) -> None:
        self._files, self.declared, self._extents = files, declared, extents
        self._read: dict[str, npt.NDArray[Any]] = {}

    def column(self, path: str) -> npt.NDArray[Any]:
        """The column at `path`; `StoreError` if there is none, or if a value is not finite."""
        found = self._read.get(path)
        if found is None:
            found = self._read[path] = self._read_column(path)
        return found

    def _read_column(self, path: str) -> npt.NDArray[Any]:
        if path not in self.declared:
            raise StoreError(f"{self._files.root}: no column {path!r}; there are {sorted(self.declared)}")
        dtype, shape = self.declared[path]
        column = np.frombuffer(self._extents[path].read(self._files), dtype).reshape(shape)
        if column.dtype.kind == "f" and not np.isfinite(column).all():
            raise StoreFormatError(f"{self._files.root}: column {path} holds values that are not finite")
        return column


class ColumnTable(Mapping[str, Any]):
    """Name -> column of `group`: an array or, for file names, a list of str."""

    def __init__(self, group: str, stored: StoredColumns) -> None:
        self._group = group
        self._stored = stored
        self._names = [path.partition("/")[2] for path in stored.declared if path.startswith(group + "/")]
        self._texts: list[str] | None = None

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(f"no column {name!r} of {self._group}; there are {self._names}")
        column = self._stored.column(f"{self._group}/{name}")
        if name != TEXT_COLUMN:
            return column
        if self._texts is None:
            self._texts = decode_text(column)
        return self._texts

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
