"""The columns of one group as a mapping, each read when it is first asked for."""

from collections.abc import Iterator, Mapping
from typing import Any

from cache.spec import TEXT_COLUMN
from cache.stored_columns import StoredColumns
from cache.text import decode_text


class ColumnTable(Mapping[str, Any]):
    """Name -> column of `group`, an array or, for file names, a list of str."""

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
