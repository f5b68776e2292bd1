"""How heatmaps become bytes, judged by what that does to the logits.

`RootCodec` (the default) stores the fourth root of a value in equal steps between a floor and the joint's peak. For a
spatial softmax of log logits the cost of an error is p·(d ln h)², so at T = 1 the best steps are equal in h^(1/2) and
at T = 4 in h^(1/8); the fourth root serves both, beats equal steps in ln h by 6 % of the bytes at the same divergence,
and needs nothing but square roots, which are the same on every machine. Values below the floor become code 0: log
logits remove them. The peak is kept exactly, and its code is given to no other pixel, so that the argmax survives.
The codes are stored as differences along both axes, which saves another 14 %: neighbours are alike.

`FloatCodec` stores the values themselves as float32 (exact) or float16 (rounded).
"""

from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from cache.errors import StoreFormatError

FLOATS = ("float16", "float32")


DEFAULT_FLOOR = 0.003


DEFAULT_LEVELS = 127  # 1/34 of float32 at 4e-5 nats, 9e-5 at worst, on a COCO teacher; see docs/decisions/0005


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


def check_floor(floor: float) -> None:
    if not 1e-6 <= floor <= 1:
        raise StoreFormatError(f"codec: the floor must be in 1e-6..1 (a target peaks at 1), not {floor}")


def not_finite(view: int, joint: int) -> StoreFormatError:
    return StoreFormatError(f"the map of view {view}, joint {joint} holds a value that is not finite or too large")
