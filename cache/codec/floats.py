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

from cache.codec.base import DEFAULT_FLOOR, FLOATS, Encoded, check_floor, not_finite
from cache.codec.divergence import divergences
from cache.errors import StoreFormatError


@dataclass(frozen=True)
class FloatCodec:
    """The values themselves: exactly, or as float16, rounded to nearest but never across the floor or onto the peak."""

    name: str = "float32"
    floor: float = DEFAULT_FLOOR

    def __post_init__(self) -> None:
        check_floor(self.floor)
        if self.name not in FLOATS:
            raise StoreFormatError(f"codec {self.name!r}: a float codec is 'float16' or 'float32'")

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the stored values."""
        return np.dtype("<f2" if self.name == "float16" else "<f4")

    def encode(self, maps: npt.NDArray[np.float32]) -> Encoded:
        """See `Codec.encode`."""
        maps = np.ascontiguousarray(maps, np.float32)
        with np.errstate(over="ignore"):
            stored = _keep_side(maps, _keep_argmax(maps, maps.astype(self.dtype)), np.float32(self.floor))
        finite = np.isfinite(stored).all(axis=(-2, -1))
        if not finite.all():
            raise not_finite(*np.argwhere(~finite)[0])
        shown = stored.astype(np.float32)
        return Encoded(stored, shown.max(axis=(-2, -1)), divergences(maps, shown, self.floor))

    def decode(
        self, stored: npt.NDArray[Any], peak: npt.NDArray[np.float32], out: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]:
        """See `Codec.decode`. Raises `StoreFormatError` for a value or peak that is not finite."""
        if not np.isfinite(peak).all():
            raise StoreFormatError(f"codec {self.name}: a peak that is not finite")
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
        """See `Codec.decode_interleaved`; raises as `decode` does."""
        out[...] = self.decode(stored, peak)[order].transpose(1, 2, 0)

    def codes(self, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """See `Codec.codes`: the values are their own codes."""
        if not np.isfinite(stored).all():
            raise StoreFormatError(f"codec {self.name}: a value that is not finite")
        return stored

    def to_json(self) -> dict[str, Any]:
        """The manifest's description."""
        return {"name": self.name, "version": 1, "floor": self.floor}


def _keep_argmax(maps: npt.NDArray[np.float32], rounded: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`rounded`, with values that rounding made equal to that of the first maximum moved one step below it."""
    flat, exact = rounded.reshape(*rounded.shape[:-2], -1), maps.reshape(*maps.shape[:-2], -1)
    top = exact.argmax(axis=-1, keepdims=True)
    peak = np.take_along_axis(flat, top, axis=-1)
    made_equal = (flat == peak) & (exact != np.take_along_axis(exact, top, axis=-1))
    return np.where(made_equal, np.nextafter(flat, rounded.dtype.type(-np.inf)), flat).reshape(rounded.shape)


def _keep_side(maps: npt.NDArray[np.float32], rounded: npt.NDArray[Any], floor: np.float32) -> npt.NDArray[Any]:
    """`rounded`, moved by one step where rounding carried a value across the floor: the support must not change."""
    up = (maps >= floor) & (rounded < floor)
    down = (maps < floor) & (rounded >= floor)
    limit = rounded.dtype.type(np.inf)
    return np.where(up, np.nextafter(rounded, limit), np.where(down, np.nextafter(rounded, -limit), rounded))
