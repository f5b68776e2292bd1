"""The compressors (zstd for Zarr, deflate for HDF5) and the checksum CRC-32C.

A decoder never produces more bytes than the record may have, whatever size the compressed data declares.
"""

import contextlib
import functools
import importlib
import zlib
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from cache.errors import StoreError, StoreFormatError
from kdcli.packages import describe_import_error

inflater: Any = zlib
with contextlib.suppress(ImportError):  # zlib-ng needs a third of the time: docs/decisions/0012-packages.md
    inflater = importlib.import_module("zlib_ng.zlib_ng")

ZSTD_LEVEL = 1  # differences have few repetitions: higher levels are slower and compress up to 10 % worse
DEFLATE_LEVEL = 6  # HDF5 stores this number in the file; with the run-length strategy it has no effect


@functools.cache
def _zstd() -> Any:
    try:  # imported here: the import takes a sixth of a second, and --help does not need it
        from numcodecs.zstd import Zstd
    except Exception as error:  # numcodecs imports the libraries of all its codecs, which can fail with anything
        raise StoreError(describe_import_error(error) or str(error)) from error
    return Zstd(level=ZSTD_LEVEL)


def zstd_compress(data: npt.NDArray[Any]) -> bytes:
    """Compress the array's bytes to one zstd frame; deterministic."""
    return bytes(_zstd().encode(np.ascontiguousarray(data)))


def zstd_decompress(data: bytes, nbytes: int) -> npt.NDArray[np.uint8]:
    """Decompress one zstd frame, or several concatenated ones, to (nbytes,) uint8; `StoreFormatError` if damaged."""
    out = np.empty(nbytes, np.uint8)  # if the frame is too short, the record's checksum does not match
    codec = _zstd()
    try:
        codec.decode(data, out=out)
    except (ValueError, RuntimeError) as error:
        raise StoreFormatError(f"zstd: {error}") from error
    return out


def deflate_compress(data: npt.NDArray[Any]) -> bytes:
    """Compress the array's bytes to one zlib stream, as HDF5's deflate filter reads it; deterministic.

    Run-length and Huffman coding alone are 3 times faster here than deflate's search for matches, and the result is
    15 % smaller.
    """
    stream = zlib.compressobj(DEFLATE_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    return stream.compress(np.ascontiguousarray(data).data) + stream.flush()


def deflate_decompress(data: bytes, nbytes: int) -> npt.NDArray[np.uint8]:
    """Decompress a zlib stream to (nbytes,) uint8; `StoreFormatError` if it is damaged or has another length."""
    stream = inflater.decompressobj()  # compression always uses zlib, so that the bytes do not depend on zlib-ng
    try:
        decoded = stream.decompress(data, nbytes + 1)
    except inflater.error as error:
        raise StoreFormatError(f"deflate: {error}") from error
    if len(decoded) != nbytes or not stream.eof or stream.unused_data:
        raise StoreFormatError(
            f"deflate: {len(decoded)} bytes decoded; expected exactly {nbytes} and no data after them"
        )
    return np.frombuffer(decoded, np.uint8)


def crc32c(data: bytes | npt.NDArray[Any], start: int = 0) -> int:
    """CRC-32C (Castagnoli) of contiguous bytes, continued from the checksum `start` of the bytes before."""
    return google_crc32c.extend(start, data)
