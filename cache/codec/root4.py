"""The codec `root4`, the default: the fourth root of a value, in equal steps from the floor to the peak of the map.

For a spatial softmax of log logits the cost of an error is p·(d ln h)². Equal steps in h^(1/2) are therefore best at
T = 1, and equal steps in h^(1/8) at T = 4. The fourth root is a compromise between the two. At the same divergence it
needs 6 % fewer bytes than equal steps in ln h, and it needs only square roots, which every machine rounds identically.

Values below the floor get code 0, because log logits remove them. The peak is kept exactly, and no other pixel gets its
code, so the argmax does not change. The codes are stored as differences along both axes, which saves another 14 % of
the bytes because neighbouring codes are similar. Measurements: docs/decisions/0005-codec-fourth-root.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.codec.base import DEFAULT_FLOOR, ERROR_KINDS, Encoded, check_floor, not_finite, read_number
from cache.errors import StoreFormatError

DEFAULT_LEVELS = 127  # 1/34 of the bytes of float32; error 4e-5 nats on average, 9e-5 at worst (teacher: COCO)
_WORD = np.dtype("<u8")


@dataclass(frozen=True)
class RootCodec:
    """One-byte codes of the fourth root of a value.

    Code 0 is 0; code c >= 1 is (floor^(1/4) + (c - 1)·step)^4 with step = (peak^(1/4) - floor^(1/4)) / (levels - 1).
    Code 1 is thus the floor, and code `levels` the peak. A map whose peak is not above the floor has code 0 everywhere.
    The store holds the differences of the codes along rows and columns, modulo 256.
    """

    floor: float = DEFAULT_FLOOR  # used as the nearest float32
    levels: int = DEFAULT_LEVELS

    name = "root4"
    dtype = np.dtype("|u1")
    is_exact = False

    def __post_init__(self) -> None:
        check_floor(self.floor)
        if not 3 <= self.levels <= 255:
            raise StoreFormatError(f"codec root4: levels must be in 3..255, not {self.levels}")

    @classmethod
    def from_text(cls, floor: float, levels: str) -> "RootCodec":
        """The codec with the levels of `root4:LEVELS`; `StoreFormatError` if they are not a whole number in 3..255."""
        if not levels.isdigit():
            raise StoreFormatError(f"codec 'root4:{levels}': LEVELS must be a whole number, e.g. root4:64")
        return cls(floor, int(levels))

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> "RootCodec":
        """The codec that `to_json` describes; `StoreFormatError` for entries of another type or out of range."""
        return cls(read_number(description, "floor", float), read_number(description, "levels", int))

    def encode(self, maps: npt.NDArray[np.float32]) -> Encoded:
        """Encode maps (V, K, H, W) float32; releases the GIL; `StoreFormatError` for a value that is not finite."""
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
        """As `Codec.decode`; releases the GIL.

        Raises:
            StoreFormatError: A code is above `levels`, or a peak is not finite.
        """
        from cache.codec import kernels

        maps = np.empty(stored.shape, np.float32) if out is None else out
        shape = (peak.size, *stored.shape[-2:])
        flat, floor = peak.reshape(-1), np.float32(self.floor)
        if not kernels.decode_root(stored.reshape(shape), flat, floor, self.levels, maps.reshape(shape)):
            raise self._invalid_code()
        return maps

    def decode_interleaved(
        self,
        stored: npt.NDArray[Any],
        peak: npt.NDArray[np.float32],
        order: npt.NDArray[np.int64],
        out: npt.NDArray[np.float32],
    ) -> None:
        """Decode one view into `out` (H, W, K), map order[k] as its map k; raises as `decode` does."""
        from cache.codec import kernels

        if stored.shape[-1] % 8:
            out[...] = self.decode(stored, peak)[order].transpose(1, 2, 0)
        elif not kernels.decode_root_interleaved(
            stored.view(_WORD), peak, order, np.float32(self.floor), self.levels, out
        ):
            raise self._invalid_code()

    def codes(self, stored: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """The codes (..., K, H, W) uint8; releases the GIL. Raises `StoreFormatError` for a code above `levels`."""
        from cache.codec import kernels

        codes = np.empty(stored.shape, np.uint8)
        shape = (-1, *stored.shape[-2:])
        if kernels.undo_differences(stored.reshape(shape), codes.reshape(shape)) > self.levels:
            raise StoreFormatError(f"codec root4: a code is above {self.levels}")
        return codes

    def tables(self, peak: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The value of every code in heatmap units: (..., K, levels + 1) float32 for peaks (..., K)."""
        from cache.codec import kernels

        tables = np.empty((peak.size, self.levels + 1), np.float32)
        kernels.fill_tables(peak.reshape(-1), np.float32(self.floor), self.levels, tables)
        return tables.reshape(*peak.shape, -1)

    def to_json(self) -> dict[str, Any]:
        """The description in the manifest."""
        return {"name": self.name, "version": 1, "floor": self.floor, "levels": self.levels}

    def _invalid_code(self) -> StoreFormatError:
        return StoreFormatError(f"codec root4: a code is above {self.levels}, or a peak is not finite")
