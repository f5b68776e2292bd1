"""The two compressors and the checksum, bounded: a decoder never makes more bytes than a record may have."""

import contextlib
import functools
import importlib
import zlib
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from cache.errors import StoreFormatError

inflater: Any = zlib
with contextlib.suppress(ImportError):  # the same bytes in a third of the time: docs/decisions/0012-packages.md
    inflater = importlib.import_module("zlib_ng.zlib_ng")

ZSTD_LEVEL = 1  # differences hold few matches: higher levels are slower *and* up to 10 % bigger
DEFLATE_LEVEL = 6  # what HDF5 records; with the run-length strategy the level changes nothing


@functools.cache
def _zstd() -> Any:
    from numcodecs.zstd import Zstd  # a sixth of a second to import: --help does without

    return Zstd(level=ZSTD_LEVEL)


def zstd_compress(data: npt.NDArray[Any]) -> bytes:
    """One zstd frame of the array's bytes; the same bytes for the same input."""
    return bytes(_zstd().encode(np.ascontiguousarray(data)))


def zstd_decompress(data: bytes, nbytes: int) -> npt.NDArray[np.uint8]:
    """The `nbytes` decoded bytes of a zstd frame, or of several in a row: each start of the decoder takes its time."""
    out = np.empty(nbytes, np.uint8)  # a shorter frame leaves a tail, which the record's checksum rejects
    try:
        _zstd().decode(data, out=out)
    except (ValueError, RuntimeError) as error:
        raise StoreFormatError(f"zstd: {error}") from error
    return out


def deflate_compress(data: npt.NDArray[Any]) -> bytes:
    """One zlib stream of the array's bytes, as HDF5's deflate filter reads it.

    Runs and Huffman codes alone are 3 times faster and 15 % smaller here than looking for matches.
    """
    stream = zlib.compressobj(DEFLATE_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    return stream.compress(np.ascontiguousarray(data).data) + stream.flush()


def deflate_decompress(data: bytes, nbytes: int) -> npt.NDArray[np.uint8]:
    """The `nbytes` decoded bytes of a zlib stream."""
    stream = inflater.decompressobj()  # compressing stays with zlib, whose bytes are known
    try:
        decoded = stream.decompress(data, nbytes + 1)
    except inflater.error as error:
        raise StoreFormatError(f"deflate: {error}") from error
    if len(decoded) != nbytes or not stream.eof or stream.unused_data:
        raise StoreFormatError(f"deflate: {len(decoded)} bytes decoded, {nbytes} expected and nothing behind them")
    return np.frombuffer(decoded, np.uint8)


def crc32c(data: bytes | npt.NDArray[Any], start: int = 0) -> int:
    """CRC-32C (Castagnoli) of contiguous bytes, continued from `start`."""
    return google_crc32c.extend(start, data)
