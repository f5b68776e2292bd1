"""The part of Zarr v3 that a store uses: metadata documents, and the shard files of the sharding codec.

A shard file holds the bytes of its inner chunks, then an index, then the CRC-32C of the index. The index has one pair
(offset, nbytes) per inner chunk in C order, as little-endian uint64; both are 2^64 - 1 for an absent chunk.
https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/v1.0.html
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.errors import StoreFormatError
from cache.format.compress import ZSTD_LEVEL, crc32c
from cache.format.spec import FRAME_CHUNK, StoreSpec

ABSENT = np.uint64(2**64 - 1)  # offset and size of an absent chunk
GROUP = {"zarr_format": 3, "node_type": "group"}
_NAMES = {
    "|u1": "uint8",
    "<u4": "uint32",
    "<u8": "uint64",
    "<i4": "int32",
    "<i8": "int64",
    "<f2": "float16",
    "<f4": "float32",
    "<f8": "float64",
}


def column_metadata(dtype: str, shape: Sequence[int]) -> dict[str, Any]:
    """The metadata of a column: one uncompressed chunk."""
    return _array(dtype, shape, [max(1, size) for size in shape], [_bytes(dtype)])


def codes_metadata(spec: StoreSpec) -> dict[str, Any]:
    """The metadata of `heatmaps/codes`: one chunk per instance and view, zstd, sharded."""
    dtype = spec.codec.dtype.str
    zstd = {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}}
    shape = (spec.instances, spec.views, *spec.map_shape)
    shard = (spec.shard_instances, spec.views, *spec.map_shape)
    return _array(dtype, shape, shard, [_sharding((1, 1, *spec.map_shape), [_bytes(dtype), zstd])])


def frames_metadata(spec: StoreSpec) -> dict[str, Any]:
    """The metadata of `frames/data`: one dimension of bytes, uncompressed chunks, sharded."""
    room = spec.shard_frame_bytes
    return _array("|u1", [spec.shards * room], [room], [_sharding([FRAME_CHUNK], [_bytes("|u1")])])


def document(metadata: Mapping[str, Any], attributes: Mapping[str, Any]) -> bytes:
    """The bytes of a `zarr.json` file."""
    return json.dumps({**metadata, "attributes": dict(attributes)}, indent=1, allow_nan=False).encode()


def chunk_key(array: str, ndim: int, first: int = 0) -> str:
    """The key of the chunk of `array` at the grid position (first, 0, 0, ...)."""
    return "/".join([array, "c", str(first), *["0"] * (ndim - 1)])


def shard_index(nbytes: npt.NDArray[np.uint64], slots: int) -> bytes:
    """The index of a shard whose chunks follow each other without gaps, with its checksum.

    Args:
        nbytes: The size of each chunk; 0 for an absent one. Slots beyond its end are absent, too.
        slots: The number of entries of the index.
    """
    index = np.full((slots, 2), ABSENT, "<u8")
    sizes = nbytes.astype("<u8")
    present = np.flatnonzero(sizes)
    index[present, 0] = (np.cumsum(sizes) - sizes)[present]
    index[present, 1] = sizes[present]
    return index.tobytes() + int(crc32c(index.tobytes())).to_bytes(4, "little")


def index_bytes(slots: int) -> int:
    """The size in bytes of a shard's index with its checksum."""
    return slots * 16 + 4


def parse_index(data: bytes, end: int, where: str) -> npt.NDArray[np.uint64]:
    """(slots, 2) uint64 offsets and sizes of the index `data`.

    Raises:
        StoreFormatError: The checksum does not match, or a chunk does not lie in the first `end` bytes of the file.
    """
    if int.from_bytes(data[-4:], "little") != crc32c(data[:-4]):
        raise StoreFormatError(f"{where}: the shard's index does not match its checksum; the file is damaged")
    index = np.frombuffer(data[:-4], "<u8").reshape(-1, 2)
    offset, nbytes = index[(index != ABSENT).any(axis=1)].T
    if (nbytes > end).any() or (offset > end - nbytes).any():
        raise StoreFormatError(f"{where}: the shard's index points beyond the data; the file is damaged")
    return index


def _array(dtype: str, shape: Sequence[int], chunk: Sequence[int], codecs: list[Any]) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": _NAMES[dtype],
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": codecs,
        "storage_transformers": [],
    }


def _bytes(dtype: str) -> dict[str, Any]:
    return {"name": "bytes"} if dtype == "|u1" else {"name": "bytes", "configuration": {"endian": "little"}}


def _sharding(chunk: Sequence[int], codecs: list[Any]) -> dict[str, Any]:
    configuration = {
        "chunk_shape": list(chunk),
        "codecs": codecs,
        "index_codecs": [_bytes("<u8"), {"name": "crc32c"}],
        "index_location": "end",
    }
    return {"name": "sharding_indexed", "configuration": configuration}
