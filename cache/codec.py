"""How heatmaps become bytes, judged by what that does to the logits.

`RootCodec` (the default) stores the fourth root of a value in equal steps between a floor and the joint's peak. For a
spatial softmax of log logits the cost of an error is p·(d ln h)², so at T = 1 the best steps are equal in h^(1/2) and
at T = 4 in h^(1/8); the fourth root serves both, beats equal steps in ln h by 6 % of the bytes at the same divergence,
and needs nothing but square roots, which are the same on every machine. Values below the floor become code 0: log
logits remove them. The peak is kept exactly, and its code is given to no other pixel, so that the argmax survives.
The codes are stored as differences along both axes, which saves another 14 %: neighbours are alike.

`FloatCodec` stores the values themselves as float32 (exact) or float16 (rounded).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from cache.errors import StoreFormatError
from console.nearest import did_you_mean

FLOATS = ("float16", "float32")
CODECS = ("root4", *FLOATS)
DEFAULT_FLOOR = 0.003
DEFAULT_LEVELS = 127  # 1/34 of float32 at 4e-5 nats, 9e-5 at worst, on a COCO teacher; see docs/decisions/0005
_WORD = np.dtype("<u8")
ERROR_KINDS = ("log_t1", "log_t4", "raw_t1", "raw_t4")  # logits and temperature of the divergences of `Encoded.error`


class Encoded(NamedTuple):
    """Maps of one instance, ready to store."""

    stored: npt.NDArray[Any]  # (V, K, H, W) of the codec's dtype: what the disk gets
    peak: npt.NDArray[np.float32]  # (V, K): the largest value of each map
    error: npt.NDArray[np.float64]  # (V, K, 4): KL(exact || stored) in nats, ERROR_KINDS; nan: no value above the floor


class Codec(Protocol):
    """What a store needs of a codec. Implementations are frozen dataclasses, equal if they store the same bytes."""

    @property
    def name(self) -> str:
        """The name in the manifest and on the command line."""

    @property
    def floor(self) -> float:
        """The value below which log logits are removed, in heatmap units (a Gaussian target peaks at 1)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the codes on disk, little-endian."""

    def encode(self, maps: npt.NDArray[np.float32]) -> Encoded:
        """Encode maps (V, K, H, W) float32; raises `StoreFormatError` for a value that is not finite."""

    def decode(
        self, stored: npt.NDArray[Any], peak: npt.NDArray[np.float32], out: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]:
        """The maps (..., K, H, W) float32 of stored maps and peaks (..., K), in `out` (contiguous) if given."""

    def decode_interleaved(
        self,
        stored: npt.NDArray[Any],
        peak: npt.NDArray[np.float32],
        order: npt.NDArray[np.int64],
        out: npt.NDArray[np.float32],
    ) -> None:
        """Write the maps of one view into `out` (H, W, K), of any strides and all 0; its map k is order[k] of those."""

    def codes(self, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The codes (..., K, H, W), in the codec's dtype, of stored maps."""

    def to_json(self) -> dict[str, Any]:
        """The manifest's description, which `codec_from_json` reads."""


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
        _check_floor(self.floor)
        if not 3 <= self.levels <= 255:
            raise StoreFormatError(f"codec root4: levels must be in 3..255, not {self.levels}")

    def encode(self, maps: npt.NDArray[np.float32]) -> Encoded:
        """See `Codec.encode`; releases the GIL."""
        from cache import kernels

        maps = np.ascontiguousarray(maps, np.float32)
        views, joints, height, width = maps.shape
        stored = np.empty((views * joints, height, width), np.uint8)
        peak = np.empty(views * joints, np.float32)
        error = np.empty((views * joints, len(ERROR_KINDS)))
        flat = maps.reshape(stored.shape)
        bad = kernels.encode_root(flat, np.float32(self.floor), self.levels, stored, peak, error)
        if bad >= 0:
            raise _not_finite(bad // joints, bad % joints)
        return Encoded(stored.reshape(maps.shape), peak.reshape(maps.shape[:2]), error.reshape(views, joints, -1))

    def decode(
        self, stored: npt.NDArray[Any], peak: npt.NDArray[np.float32], out: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]:
        """See `Codec.decode`; releases the GIL. Raises `StoreFormatError` for a code or peak that cannot be."""
        from cache import kernels

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
        from cache import kernels

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
        from cache import kernels

        codes = np.empty(stored.shape, np.uint8)
        shape = (-1, *stored.shape[-2:])
        if kernels.undo_differences(stored.reshape(shape), codes.reshape(shape)) > self.levels:
            raise StoreFormatError(f"codec root4: a code above {self.levels}")
        return codes

    def tables(self, peak: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The value of every code, (..., K, levels + 1) float32 for peaks (..., K)."""
        from cache import kernels

        tables = np.empty((peak.size, self.levels + 1), np.float32)
        kernels.fill_tables(peak.reshape(-1), np.float32(self.floor), self.levels, tables)
        return tables.reshape(*peak.shape, -1)

    def to_json(self) -> dict[str, Any]:
        """The manifest's description."""
        return {"name": self.name, "version": 1, "floor": self.floor, "levels": self.levels}


@dataclass(frozen=True)
class FloatCodec:
    """The values themselves: exactly, or as float16, rounded to nearest but never across the floor or onto the peak."""

    name: str = "float32"
    floor: float = DEFAULT_FLOOR

    def __post_init__(self) -> None:
        _check_floor(self.floor)
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
            raise _not_finite(*np.argwhere(~finite)[0])
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


def codec_from_name(name: str, floor: float = DEFAULT_FLOOR) -> Codec:
    """The codec called `root4`, `root4:LEVELS`, `float16` or `float32`, as on the command line."""
    if name in FLOATS:
        return FloatCodec(name, floor)
    kind, _, levels = name.partition(":")
    if kind != "root4":
        hint = did_you_mean(kind, CODECS, "known are root4, root4:LEVELS, float16, float32", most=2)
        raise StoreFormatError(f"unknown codec {name!r}; {hint}")
    if not (levels == "" or levels.isdigit()):
        raise StoreFormatError(f"codec {name!r}: LEVELS of root4:LEVELS is a whole number, e.g. root4:64")
    return RootCodec(floor, int(levels or DEFAULT_LEVELS))


def codec_from_json(description: Mapping[str, Any]) -> Codec:
    """The codec that a manifest describes; `StoreFormatError` if this version does not know it."""
    name, version = description.get("name"), description.get("version")
    if type(version) is not int or version != 1 or name not in CODECS:
        raise StoreFormatError(f"unknown codec {name!r} version {version!r}: a newer program wrote this store; upgrade")
    floor, levels = description.get("floor"), description.get("levels")
    if not isinstance(floor, float) or (name == "root4" and type(levels) is not int):
        raise StoreFormatError(f"codec {name!r}: floor {floor!r} or levels {levels!r} is not a number")
    return RootCodec(floor, levels) if name == "root4" else FloatCodec(name, floor)  # type: ignore[arg-type]


def divergences(
    exact: npt.NDArray[np.float32], stored: npt.NDArray[np.float32], floor: float
) -> npt.NDArray[np.float64]:
    """KL in nats between exact and stored maps (V, K, H, W), as in `Encoded.error`: (V, K, 4); releases the GIL.

    Infinite where the two do not reach the floor at the same pixels.
    """
    from cache import kernels

    error = np.zeros((exact.shape[0] * exact.shape[1], len(ERROR_KINDS)))
    flat = (len(error), *exact.shape[-2:])
    kernels.divergences(exact.reshape(flat), stored.reshape(flat), np.float32(floor), error)
    return error.reshape(*exact.shape[:2], -1)


def log_divergence(
    exact: npt.NDArray[Any], stored: npt.NDArray[Any], floor: float, temperature: float
) -> npt.NDArray[np.float64]:
    """KL in nats between softmax(ln h / T) of exact and stored maps (..., H, W), both over exact >= floor.

    nan where nothing reaches the floor.
    """
    above = exact >= np.float32(floor)
    log_h, log_v = (np.log(np.where(above, maps, 1), dtype=np.float64) / temperature for maps in (exact, stored))
    return _divergence(np.where(above, log_h, -np.inf), np.where(above, log_v, -np.inf))


def _divergence(exact: npt.NDArray[np.float64], stored: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """KL between softmax distributions over the last two axes; -inf logits must agree."""
    with np.errstate(invalid="ignore"):  # -inf - -inf where nothing is above the floor, or below it: nan, handled
        log_p, log_q = (logits - logits.max(axis=(-2, -1), keepdims=True) for logits in (exact, stored))
        p = np.exp(log_p)
        gap = np.where(np.isneginf(log_p), 0, log_p - log_q)
        total_p, total_q = p.sum(axis=(-2, -1)), np.exp(log_q).sum(axis=(-2, -1))
        return (p * gap).sum(axis=(-2, -1)) / total_p + np.log(total_q / total_p)


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


def _check_floor(floor: float) -> None:
    if not 1e-6 <= floor <= 1:
        raise StoreFormatError(f"codec: the floor must be in 1e-6..1 (a target peaks at 1), not {floor}")


def _not_finite(view: int, joint: int) -> StoreFormatError:
    return StoreFormatError(f"the map of view {view}, joint {joint} holds a value that is not finite or too large")
