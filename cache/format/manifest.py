"""The manifest of a store: what it contains, the check of a manifest that is read, and JSON documents in general.

format, version     the specification of the bytes (docs/format.md)
complete            false until everything else has been written
spec                sizes and codec
columns             path -> [dtype, shape] of every column
provenance          given to `create_store`: teacher, data set, preprocessing, views, licence, software, ...
written             number of written instances
codec_error         KL in nats between exact and stored maps: mean and worst over the store
teacher_metrics     the teacher's accuracy, measured from this store, or null
content_sha256      hash of all logical content: equal for equal stores of either layout
manifest_sha256     hash of all entries above

`check_manifest` checks a manifest and returns its spec and columns. `parse_document` reads JSON strictly, `plain_json`
checks what is going to be written, `flatten` and `differences` compare documents.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from cache.codec.base import ERROR_KINDS
from cache.errors import StoreError, StoreFormatError
from cache.format.integrity import MANIFEST_HASH, with_manifest_hash
from cache.format.spec import (
    FORMAT_NAME,
    FORMAT_VERSION,
    FRAME_BYTES_COLUMNS,
    GROUND_TRUTH_COLUMNS,
    INSTANCE_COLUMNS,
    MAX_ROWS,
    RECORD_COLUMNS,
    SHARD_DIGESTS,
    Columns,
    StoreSpec,
    spec_from_json,
)

ADDED = {"skeleton": 2}
"""Entries of the provenance without which a reader would misunderstand the arrays, and the version that added each."""
VOLATILE = ("software", "created", "noticed")  # entries of the provenance that may differ between runs of one store
MAX_ROW_BYTES = 1 << 16  # bytes per row of a column; the keypoints of 133 joints need 1,596
MAX_DEPTH = 32  # nesting of a JSON document
_ENTRIES = (
    *("complete", "spec", "columns", "provenance", "written", "codec_error", "teacher_metrics", "content_sha256"),
    MANIFEST_HASH,
)
_DTYPES = ("|u1", "<u4", "<u8", "<i4", "<i8", "<f4", "<f8")
_COLUMN_PATH = re.compile(r"(instances|ground_truth)/[a-z][a-z0-9_]{0,63}")


def fixed_columns(spec: StoreSpec) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Path -> (dtype, shape) of all columns but those of `instances` and `ground_truth`."""
    columns = {
        path: (dtype, (spec.instances, *spec.row_shape(shape)))
        for path, (dtype, shape) in RECORD_COLUMNS.items()
        if spec.frames or path not in FRAME_BYTES_COLUMNS
    }
    return {**columns, "views/flip": ("|u1", (spec.views,)), SHARD_DIGESTS: ("|u1", (spec.shards, 32))}


def version_of(provenance: Any) -> int:
    """The version of a manifest with that provenance: the lowest one whose readers understand all of its entries."""
    added = [version for entry, version in ADDED.items() if isinstance(provenance, Mapping) and entry in provenance]
    return max(added, default=FORMAT_VERSION)


def check_manifest(manifest: Any, where: str) -> tuple[StoreSpec, Columns]:
    """The spec and columns of a manifest; `StoreFormatError` if it is invalid, or of another version of the format."""
    if not isinstance(manifest, Mapping):
        raise StoreFormatError(f"{where}: no manifest")
    version = manifest.get("version")
    known = (FORMAT_VERSION, *ADDED.values())
    if manifest.get("format") != FORMAT_NAME or type(version) is not int or version not in known:
        raise StoreFormatError(
            f"{where}: {manifest.get('format')!r} version {version!r}; this program reads {FORMAT_NAME!r} versions "
            f"{' and '.join(map(str, known))}: upgrade it to read a newer store"
        )
    missing = [entry for entry in _ENTRIES if entry not in manifest]
    if missing:
        raise StoreFormatError(f"{where}: the manifest lacks the entries {missing}")
    if with_manifest_hash(manifest)[MANIFEST_HASH] != manifest[MANIFEST_HASH]:
        raise StoreFormatError(f"{where}: the manifest does not match its own SHA-256: it was damaged or edited")
    wrong = [entry for entry, is_valid in _VALID.items() if not is_valid(manifest[entry])]
    if wrong:
        raise StoreFormatError(f"{where}: the manifest's entries {wrong} are not of the types that the format defines")
    if version != version_of(manifest["provenance"]):
        raise StoreFormatError(
            f"{where}: the manifest has version {version}, but the entries of its provenance need version "
            f"{version_of(manifest['provenance'])}"
        )
    spec = spec_from_json(manifest["spec"])
    return spec, _check_columns(spec, manifest["columns"], where)


def plain_json(value: Any, what: str) -> Any:
    """`value` as it is read back from JSON; `StoreError` if JSON cannot hold it, or if it holds an absolute path."""
    try:
        plain = parse_document(json.dumps(value, allow_nan=False), what)
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"{what} must consist of JSON values (text, numbers, lists, mappings): {error}") from error
    private = [name for name, text in flatten(plain) if isinstance(text, str) and re.match(r"/\w|[A-Za-z]:\\", text)]
    if private:
        raise StoreError(f"{what}: {private[0]} is an absolute path; a store, which may be shared, must not hold one")
    return plain


def parse_document(text: bytes | str, where: str) -> Any:
    """The value of a JSON text in UTF-8; raises `StoreFormatError`, which begins with `where`, for any other text."""
    try:
        decoded = text.decode() if isinstance(text, bytes) else text
        found = json.loads(
            decoded, object_pairs_hook=_unique_names, parse_constant=_refuse_constant, parse_float=_finite_number
        )
        _check_value(found, MAX_DEPTH)
    except (ValueError, RecursionError) as error:
        raise StoreFormatError(f"{where}: not a JSON document: {str(error)!a:.200}") from error
    return found


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, leaf) of nested mappings; lists are leaves, unless they hold mappings or text."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from flatten(entry, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(entry, (Mapping, str)) for entry in value):
        for index, entry in enumerate(value):
            yield from flatten(entry, f"{name}[{index}]")
    else:
        yield name, value


def differences(old: Any, new: Any, ignore: Iterable[str] = ()) -> list[str]:
    """The differences between two documents, as `name: old -> new`, except below the names in `ignore`."""
    a, b = dict(flatten(old)), dict(flatten(new))
    names = [name for name in {**a, **b} if a.get(name) != b.get(name) or (name in a) != (name in b)]
    kept = [name for name in names if not any(re.match(re.escape(prefix) + r"($|[.\[])", name) for prefix in ignore)]
    return [f"{name}: {_brief(a, name)} -> {_brief(b, name)}" for name in kept]


def _check_columns(spec: StoreSpec, declared: Any, where: str) -> Columns:
    if not isinstance(declared, Mapping) or not all(map(_is_declaration, declared.values())):
        raise StoreFormatError(f"{where}: the manifest's columns do not have the form path -> [dtype, shape]")
    columns = {path: (dtype, tuple(shape)) for path, (dtype, shape) in declared.items()}
    for path, (dtype, shape) in _expected_columns(spec, columns):
        if path not in columns:
            raise StoreFormatError(f"{where}: the manifest declares no column {path}")
        found, sizes = columns[path]
        fits = len(sizes) == len(shape) and all(b in (a, -1) for a, b in zip(sizes, shape, strict=True))
        if math.prod(sizes[1:]) * np.dtype(dtype).itemsize > MAX_ROW_BYTES or sizes[0] > MAX_ROWS:
            raise StoreFormatError(f"{where}: column {path} is larger than any annotation: {list(sizes)}")
        if found != dtype or not fits:
            raise StoreFormatError(f"{where}: column {path} is {found} {list(sizes)}, expected {dtype} {list(shape)}")
    extra = set(columns) - set(fixed_columns(spec))
    forbidden = [path for path in extra if not _COLUMN_PATH.fullmatch(path) or columns[path][0] not in _DTYPES]
    if forbidden:
        raise StoreFormatError(f"{where}: the manifest declares columns that the format forbids: {forbidden[:5]!r}")
    return columns


def _expected_columns(spec: StoreSpec, columns: Columns) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    """(path, (dtype, shape)) of every column that must exist or whose number of rows is known; -1 is any size."""
    yield from fixed_columns(spec).items()
    rows = {"instances": spec.instances, "ground_truth": columns.get("ground_truth/annotation_id", ("", (-1,)))[1][0]}
    tables = {"instances": INSTANCE_COLUMNS, "ground_truth": GROUND_TRUTH_COLUMNS}
    for group, table in tables.items():
        for name, (dtype, shape) in table.items():
            yield f"{group}/{name}", (dtype, (rows[group], *spec.row_shape(shape)))
    for path, (dtype, shape) in columns.items():
        group, _, name = path.partition("/")
        if group in rows and name not in tables[group]:
            yield path, (dtype, (rows[group], *shape[1:]))


def _is_declaration(value: Any) -> bool:
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not isinstance(value[0], str):
        return False
    shape = value[1]
    return isinstance(shape, (list, tuple)) and 1 <= len(shape) <= 8 and all(type(s) is int and s >= 0 for s in shape)


def _is_error(value: Any) -> bool:
    return isinstance(value, Mapping) and all(type(value.get(name)) is float for name in ("mean", "worst"))


_VALID: dict[str, Callable[[Any], bool]] = {
    "provenance": lambda value: isinstance(value, Mapping),
    "written": lambda value: type(value) is int,
    "codec_error": lambda value: isinstance(value, Mapping) and all(_is_error(value.get(k)) for k in ERROR_KINDS),
    "teacher_metrics": lambda value: value is None or isinstance(value, Mapping),
    "content_sha256": lambda value: isinstance(value, str),
}


def _brief(values: Mapping[str, Any], name: str) -> str:
    text = json.dumps(values[name]) if name in values else "(absent)"
    return text if len(text) <= 80 else text[:77] + "..."


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"a name occurs twice among {[name for name, _ in pairs]}")
    return found


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


def _finite_number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.20} is out of the range of float64")
    return value


def _check_value(value: Any, depth: int) -> None:
    """Raise `ValueError` for nesting deeper than `depth`, and for text that UTF-8 cannot encode."""
    if depth < 0:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, dict):
        for name, entry in value.items():
            name.encode()
            _check_value(entry, depth - 1)
    elif isinstance(value, list):
        for entry in value:
            _check_value(entry, depth - 1)
