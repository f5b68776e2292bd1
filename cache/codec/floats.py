"""The codecs `float32` (exact) and `float16` (rounded), which store the values themselves."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.codec.base import DEFAULT_FLOOR, Encoded, check_floor, not_finite, read_number
from cache.codec.divergence import divergences
from cache.errors import StoreFormatError

FLOATS = ("float16", "float32")


@dataclass(frozen=True)
class FloatCodec:
    """The values themselves, as float32 (exact) or as float16.

    float16 rounds to the nearest value, except that no value crosses the floor and no other value becomes equal to the
    peak of its map.
    """

    name: str = "float32"
    floor: float = DEFAULT_FLOOR

    def __post_init__(self) -> None:
        check_floor(self.floor)
        if self.name not in FLOATS:
            raise StoreFormatError(f"codec {self.name!r}: a float codec is 'float16' or 'float32'")

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> "FloatCodec":
        """The codec that `to_json` describes; `StoreFormatError` for entries of another type or out of range."""
        return cls(description["name"], read_number(description, "floor", float))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the stored values."""
        return np.dtype("<f2" if self.name == "float16" else "<f4")

    @property
    def is_exact(self) -> bool:
        """Whether decoding returns exactly the maps that were encoded."""
        return self.name == "float32"

    def encode(self, maps: npt.NDArray[np.float32]) -> Encoded:
        """Encode maps (V, K, H, W) float32; raises `StoreFormatError` for a value that does not fit into the dtype."""
        maps = np.ascontiguousarray(maps, np.float32)
        with np.errstate(over="ignore"):
            stored = _keep_side(maps, _keep_argmax(maps, maps.astype(self.dtype)), np.float32(self.floor))
        finite = np.isfinite(stored).all(axis=(-2, -1))
        if not finite.all():
            raise not_finite(*np.argwhere(~finite)[0])
        decoded = stored.astype(np.float32)
        return Encoded(stored, decoded.max(axis=(-2, -1)), divergences(maps, decoded, self.floor))

    def decode(
        self, stored: npt.NDArray[Any], peak: npt.NDArray[np.float32], out: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]:
        """As `Codec.decode`; raises `StoreFormatError` for a value or a peak that is not finite."""
        if not np.isfinite(peak).all():
            raise StoreFormatError(f"codec {self.name}: a peak is not finite")
        maps = np.empty(stored.shape, np.float32) if out is None else out
        maps[...] = self.codes(stored)
        return maps

    def decode_interleaved(
        self,
        stored: npt.NDArray[Any],
        peak: npt.NDArray[np.float32],
        order: npt.NDArray[np.int64],
        out: npt.NDArray[np.float32],
    ) -> None:
        """Decode one view into `out` (H, W, K), map order[k] as its map k; raises as `decode` does."""
        out[...] = self.decode(stored, peak)[order].transpose(1, 2, 0)

    def codes(self, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The stored values, which are their own codes; raises `StoreFormatError` for one that is not finite."""
        if not np.isfinite(stored).all():
            raise StoreFormatError(f"codec {self.name}: a value is not finite")
        return stored

    def to_json(self) -> dict[str, Any]:
        """The description in the manifest."""
        return {"name": self.name, "version": 1, "floor": self.floor}


def _keep_argmax(maps: npt.NDArray[np.float32], rounded: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Move values that rounding made equal to the first maximum one step below it; returns the changed `rounded`."""
    flat, exact = rounded.reshape(*rounded.shape[:-2], -1), maps.reshape(*maps.shape[:-2], -1)
    top = exact.argmax(axis=-1, keepdims=True)
    peak = np.take_along_axis(flat, top, axis=-1)
    made_equal = (flat == peak) & (exact != np.take_along_axis(exact, top, axis=-1))
    return np.where(made_equal, np.nextafter(flat, rounded.dtype.type(-np.inf)), flat).reshape(rounded.shape)


def _keep_side(maps: npt.NDArray[np.float32], rounded: npt.NDArray[Any], floor: np.float32) -> npt.NDArray[Any]:
    """Move values that rounding carried across the floor one step back; returns the changed `rounded`."""
    up = (maps >= floor) & (rounded < floor)
    down = (maps < floor) & (rounded >= floor)
    limit = rounded.dtype.type(np.inf)
    return np.where(up, np.nextafter(rounded, limit), np.where(down, np.nextafter(rounded, -limit), rounded))
