"""How heatmaps become bytes, judged by what that does to the logits.

`RootCodec` (the default) stores the fourth root of a value in equal steps between a floor and the joint's peak. For a
spatial softmax of log logits the cost of an error is p·(d ln h)², so at T = 1 the best steps are equal in h^(1/2) and
at T = 4 in h^(1/8); the fourth root serves both, beats equal steps in ln h by 6 % of the bytes at the same divergence,
and needs nothing but square roots, which are the same on every machine. Values below the floor become code 0: log
logits remove them. The peak is kept exactly, and its code is given to no other pixel, so that the argmax survives.
The codes are stored as differences along both axes, which saves another 14 %: neighbours are alike.

`FloatCodec` stores the values themselves as float32 (exact) or float16 (rounded).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.codec.base import DEFAULT_FLOOR, DEFAULT_LEVELS, ERROR_KINDS, Encoded, check_floor, not_finite
from cache.errors import StoreFormatError

_WORD = np.dtype("<u8")


@dataclass(frozen=True)
class RootCodec:
    """Fourth-root codes of one byte.

    Code 0 is 0; code c >= 1 is (floor^(1/4) + (c - 1)·step)^4 with step = (peak^(1/4) - floor^(1/4)) / (levels - 1):
    code 1 is the floor and code `levels` the peak. A map whose peak is not above the floor is all code 0. Stored are
    the differences of the codes along rows and columns, modulo 256.
    """

    floor: float = DEFAULT_FLOOR  # taken as the nearest float32
    levels: int = DEFAULT_LEVELS

    name = "root4"
    dtype = np.dtype("|u1")

    def __post_init__(self) -> None:
        check_floor(self.floor)
        if not 3 <= self.levels <= 255:
            raise StoreFormatError(f"codec root4: levels must be in 3..255, not {self.levels}")

    def encode(self, maps: npt.NDArray[np.float32]) -> Encoded:
        """See `Codec.encode`; releases the GIL."""
        from cache.codec import kernels

        maps = np.ascontiguousarray(maps, np.float32)
        views, joints, height, width = maps.shape
        stored = np.empty((views * joints, height, width), np.uint8)
        peak = np.empty(views * joints, np.float32)
        error = np.empty((views * joints, len(ERROR_KINDS)))
        flat = maps.reshape(stored.shape)
        bad = kernels.encode_root(flat, np.float32(self.floor), self.levels, stored, peak, error)
        if bad >= 0:
            raise not_finite(bad // joints, bad % joints)
        return Encoded(stored.reshape(maps.shape), peak.reshape(maps.shape[:2]), error.reshape(views, joints, -1))

    def decode(
        self, stored: npt.NDArray[Any], peak: npt.NDArray[np.float32], out: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]:
        """See `Codec.decode`; releases the GIL. Raises `StoreFormatError` for a code or peak that cannot be."""
        from cache.codec import kernels

        maps = np.empty(stored.shape, np.float32) if out is None else out
        shape = (peak.size, *stored.shape[-2:])
        flat, floor = peak.reshape(-1), np.float32(self.floor)
        if not kernels.decode_root(stored.reshape(shape), flat, floor, self.levels, maps.reshape(shape)):
            raise self._impossible()
        return maps

    def decode_interleaved(
        self,
        stored: npt.NDArray[Any],
        peak: npt.NDArray[np.float32],
        order: npt.NDArray[np.int64],
        out: npt.NDArray[np.float32],
    ) -> None:
        """See `Codec.decode_interleaved`; releases the GIL, and raises as `decode` does."""
        from cache.codec import kernels

        if stored.shape[-1] % 8:
            out[...] = self.decode(stored, peak)[order].transpose(1, 2, 0)
        elif not kernels.decode_root_interleaved(
            stored.view(_WORD), peak, order, np.float32(self.floor), self.levels, out
        ):
            raise self._impossible()

    def _impossible(self) -> StoreFormatError:
        return StoreFormatError(f"codec root4: a code above {self.levels} or a peak that is not finite")

    def codes(self, stored: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """See `Codec.codes`; releases the GIL. Raises `StoreFormatError` for a code that cannot be."""
        from cache.codec import kernels

        codes = np.empty(stored.shape, np.uint8)
        shape = (-1, *stored.shape[-2:])
        if kernels.undo_differences(stored.reshape(shape), codes.reshape(shape)) > self.levels:
            raise StoreFormatError(f"codec root4: a code above {self.levels}")
        return codes

    def tables(self, peak: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The value of every code, (..., K, levels + 1) float32 for peaks (..., K)."""
        from cache.codec import kernels

        tables = np.empty((peak.size, self.levels + 1), np.float32)
        kernels.fill_tables(peak.reshape(-1), np.float32(self.floor), self.levels, tables)
        return tables.reshape(*peak.shape, -1)

    def to_json(self) -> dict[str, Any]:
        """The manifest's description."""
        return {"name": self.name, "version": 1, "floor": self.floor, "levels": self.levels}
