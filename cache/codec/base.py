"""The interface of all codecs: the `Codec` protocol, the result of encoding, and the checks that codecs share.

A codec turns heatmaps (V, K, H, W) into an array of the same shape in a dtype of its own. Its error is measured on the
logits rather than on the maps, because log logits amplify small values: `Encoded.error` is the Kullback-Leibler
divergence between the softmax distributions of the exact and of the stored maps.

Axes: V views, K joints, H rows, W columns.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from cache.errors import StoreFormatError

DEFAULT_FLOOR = 0.003  # heatmap units
ERROR_KINDS = ("log_t1", "log_t4", "raw_t1", "raw_t4")  # logits and temperature of the columns of `Encoded.error`


class Encoded(NamedTuple):
    """The maps of one instance, ready to store."""

    stored: npt.NDArray[Any]  # (V, K, H, W), dtype of the codec: what is written to disk
    peak: npt.NDArray[np.float32]  # (V, K): the largest value of each map
    error: npt.NDArray[np.float64]  # (V, K, 4): KL(exact || stored) in nats; nan: no value above the floor


class Codec(Protocol):
    """The interface of a codec. Implementations are frozen dataclasses; equal ones encode a map to the same bytes."""

    @property
    def name(self) -> str:
        """The name in the manifest and on the command line."""

    @property
    def floor(self) -> float:
        """The value below which log logits are removed, in heatmap units (a Gaussian target peaks at 1)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the codes on disk, little-endian."""

    @property
    def is_exact(self) -> bool:
        """Whether decoding returns exactly the maps that were encoded."""

    def encode(self, maps: npt.NDArray[np.float32]) -> Encoded:
        """Encode maps (V, K, H, W) float32; raises `StoreFormatError` for a value that is not finite."""

    def decode(
        self, stored: npt.NDArray[Any], peak: npt.NDArray[np.float32], out: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]:
        """Decode stored maps with peaks (..., K) to maps (..., K, H, W) float32, into `out` (contiguous) if given.

        Raises:
            StoreFormatError: A code, value or peak is invalid.
        """

    def decode_interleaved(
        self,
        stored: npt.NDArray[Any],
        peak: npt.NDArray[np.float32],
        order: npt.NDArray[np.int64],
        out: npt.NDArray[np.float32],
    ) -> None:
        """Decode one view into `out` (H, W, K) float32, which may have any strides and must be filled with 0.

        Map k of `out` is map order[k] of `stored`. Raises as `decode` does.
        """

    def codes(self, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The codes (..., K, H, W) of stored maps, in the codec's dtype; raises as `decode` does."""

    def to_json(self) -> dict[str, Any]:
        """The description in the manifest, which `codec_from_json` reads."""


def check_floor(floor: float) -> None:
    """Raise `StoreFormatError` if `floor` is not in 1e-6..1 heatmap units."""
    if not 1e-6 <= floor <= 1:
        raise StoreFormatError(f"codec: the floor must be in 1e-6..1 (a target peaks at 1), not {floor}")


def read_number(description: Mapping[str, Any], entry: str, kind: type) -> Any:
    """An entry of the manifest's description of a codec; `StoreFormatError` if it is not of type `kind`."""
    value = description.get(entry)
    if type(value) is not kind:
        raise StoreFormatError(
            f"codec {description.get('name')!r}: {entry} {value!r} is not a number of type {kind.__name__}"
        )
    return value


def not_finite(view: int, joint: int) -> StoreFormatError:
    """The error for a map that cannot be encoded."""
    return StoreFormatError(f"the map of view {view}, joint {joint} holds a value that is too large or not finite")
