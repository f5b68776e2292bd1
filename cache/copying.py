"""Copying records from one store into another as they are: into the other form, into a part, into a repaired store."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from cache.codec import ERROR_KINDS, Encoded
from cache.shard_writer import ShardWriter
from cache.store import Store

ErrorOf = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float64]]


def _unknown(peak: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The teacher's own maps are not in a store: the error of a copy cannot be measured."""
    return np.full((*peak.shape, len(ERROR_KINDS)), np.nan)


def copy_record(store: Store, shard: ShardWriter, index: int, error_of: ErrorOf = _unknown) -> None:
    """Put an instance as `store` has it, every checksum checked, or skip what was never written.

    `error_of` gives what to note as the codec's error, (V, K, kinds) in nats, of the peaks (V, K).
    """
    if not store.written[index]:
        shard.skip(index)
        return
    views = [store.stored(index, view) for view in range(store.spec.views)]
    stored, peak = (np.stack(parts) for parts in zip(*views, strict=True))
    shard.put_encoded(index, Encoded(stored, peak, error_of(peak)), frame_or_none(store, index))


def frame_or_none(store: Store, index: int) -> bytes | None:
    """The frame's bytes, if the store has frames."""
    return store.frame(index) if store.has_frames else None
