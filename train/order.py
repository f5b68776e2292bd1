"""In which order an epoch visits the rows of a store."""

import numpy as np
from numpy.typing import NDArray

WINDOW = 8
"""Shards whose rows are mixed with each other under ``shards``."""


def epoch_order(rows: NDArray[np.int64], order: str, shard: int, seed: tuple[int, int]) -> NDArray[np.int64]:
    """A permutation of rows, decided by its arguments alone.

    Args:
        rows: Rows of a store, ascending.
        order: ``instances``, every permutation alike; or ``shards``: shards in random order, and rows in random order
            among those of `WINDOW` shards at a time, so that a store at the end of a network is read a few shards at a
            time. The mixing is then only as good as the window is wide.
        shard: Rows of a store's shard.
        seed: Of the run, and the epoch.
    """
    rng = np.random.default_rng(seed)
    if order == "instances":
        return rng.permutation(rows)
    shard_of = rows // shard
    shards = rng.permutation(np.unique(shard_of))
    windows = [shards[start : start + WINDOW] for start in range(0, len(shards), WINDOW)]
    return np.concatenate([rng.permutation(rows[np.isin(shard_of, window)]) for window in windows])
