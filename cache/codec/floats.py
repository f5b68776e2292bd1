"""The codecs that store values themselves: `float32` (exact), `float16` (rounded), `float16-cut` (no background)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.codec.base import DEFAULT_FLOOR, Encoded, check_floor, not_finite, read_number
from cache.codec.divergence import divergences
from cache.errors import StoreFormatError

FLOATS = ("float16", "float32", "float16-cut")
_BITS = np.dtype("<u2")


@dataclass(frozen=True)
class FloatCodec:
    """The values themselves, as float32 (exact) or as float16.

    float16 rounds to the nearest value, except that no value crosses the floor and no other value becomes equal to the
    peak of its map. `float16-cut` also replaces values below the floor by 0: the log logits are those of `float16`, the
    raw logits are not, and the background takes almost no bytes.
    """

    name: str = "float32"
    floor: float = DEFAULT_FLOOR

    def __post_init__(self) -> None:
        check_floor(self.floor)
        if self.name not in FLOATS:
            raise StoreFormatError(f"codec {self.name!r}: a float codec is one of {', '.join(FLOATS)}")

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> "FloatCodec":
        """The codec that `to_json` describes; `StoreFormatError` for entries of another type or out of range."""
        return cls(description["name"], read_number(description, "floor", float))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the stored values."""
        return np.dtype("<f4" if self.is_exact else "<f2")

    @property
    def is_exact(self) -> bool:
        """Whether decoding returns exactly the maps that were encoded."""
        return self.name == "float32"

    def encode(self, maps: npt.NDArray[np.float32]) -> Encoded:
        """Encode maps (V, K, H, W) float32; releases the GIL.

        Raises:
            StoreFormatError: A value is not finite, or does not fit into the dtype.
        """
        from cache.codec import kernels

        maps = np.ascontiguousarray(maps, np.float32)
        if self.is_exact:
            finite = np.isfinite(maps).all(axis=(-2, -1))
            if not finite.all():
                raise not_finite(*np.argwhere(~finite)[0])
            return Encoded(maps.copy(), maps.max(axis=(-2, -1)), divergences(maps, maps, self.floor))
        stored, shown, peak = (
            np.empty(maps.shape, self.dtype),
            np.empty_like(maps),
            np.empty(maps.shape[:2], np.float32),
        )
        joints, flat = maps.shape[1], (peak.size, *maps.shape[-2:])
        bad = kernels.encode_half(
            maps.reshape(flat),
            np.float32(self.floor),
            self.name == "float16-cut",
            stored.view(_BITS).reshape(flat),
            shown.reshape(flat),
            peak.reshape(-1),
        )
        if bad >= 0:
            raise not_finite(bad // joints, bad % joints)
        return Encoded(stored, peak, divergences(maps, shown, self.floor))

    def decode(
        self, stored: npt.NDArray[Any], peak: npt.NDArray[np.float32], out: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]:
        """As `Codec.decode`; releases the GIL. Raises `StoreFormatError` for a value or a peak that is not finite."""
        maps = np.empty(stored.shape, np.float32) if out is None else out
        flat = (-1, *stored.shape[-2:])
        self._decode(stored.reshape(flat), peak, np.arange(peak.size), maps.reshape(flat))
        return maps

    def decode_interleaved(
        self,
        stored: npt.NDArray[Any],
        peak: npt.NDArray[np.float32],
        order: npt.NDArray[np.int64],
        out: npt.NDArray[np.float32],
    ) -> None:
        """Decode one view into `out` (H, W, K), map order[k] as its map k; raises as `decode` does."""
        self._decode(stored, peak, order, out.transpose(2, 0, 1))

    def _decode(
        self,
        stored: npt.NDArray[Any],
        peak: npt.NDArray[np.float32],
        order: npt.NDArray[np.int64],
        out: npt.NDArray[np.float32],
    ) -> None:
        """Write map order[c] of `stored` (C, H, W) to map c of `out` (C, H, W), any strides."""
        from cache.codec import kernels

        if not np.isfinite(peak).all():
            raise StoreFormatError(f"codec {self.name}: a peak is not finite")
        if self.is_exact:
            out[...] = self.codes(stored)[order]
        elif not kernels.decode_half(stored.view(_BITS), order, out):
            raise self._invalid_value()

    def codes(self, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The stored values, which are their own codes; raises `StoreFormatError` for one that is not finite."""
        if not np.isfinite(stored).all():
            raise self._invalid_value()
        return stored

    def to_json(self) -> dict[str, Any]:
        """The description in the manifest."""
        return {"name": self.name, "version": 1, "floor": self.floor}

    def _invalid_value(self) -> StoreFormatError:
        return StoreFormatError(f"codec {self.name}: a value is not finite")
