"""The teacher's heatmaps of a sample: the maps of its stored views, resampled onto its heatmap grid and averaged."""

import threading
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

import cache
from kdlib.resample.maps import bordered_shape, interior, mean_heatmaps
from kdlib.samples.placement import Placement
from kdlib.skeletons.skeleton import Skeleton


class ThreadBuffers(threading.local):
    """One array per name and thread."""

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[Any]] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """This thread's array of that name; a new one, full of zeros, where the last one had another shape.

        An array that is used again still holds its previous values.
        """
        found = self._arrays.get(name)
        if found is None or found.shape != shape:
            found = self._arrays[name] = np.zeros(shape, dtype)
        return found


BUFFERS = ThreadBuffers()
"""Kept in the module and not in `TeacherMaps`, so that it can be pickled."""


class TeacherMaps:
    """Makes the heatmaps of samples from a store.

    Args:
        store: An opened store.
        skeleton: Its joints.
    """

    def __init__(self, store: cache.Store, skeleton: Skeleton) -> None:
        self._store = store
        # Writeable, as other callers of the compiled decoders have them: it would be compiled anew for read-only ones.
        self._flip_order, self._same_order = skeleton.flip_order.copy(), np.arange(len(skeleton))
        self._stored_flips = store.view_flip.tolist()

    def fill(self, heatmaps: NDArray[np.float32], slots: NDArray[np.int64], placement: Placement) -> None:
        """Write the heatmaps of n samples to slots (n,) of heatmaps (B, H, W, K), a contiguous array.

        Several threads may fill different slots.
        """
        spec, store, stored_views = self._store.spec, self._store, placement.stored_views
        rows, flips = placement.rows.tolist(), placement.flips.tolist()
        records = [(row, view) for row, views in zip(rows, stored_views, strict=True) for view in views]
        most = max(map(len, stored_views))
        bordered = BUFFERS.array("maps", (most, *bordered_shape(spec.map_shape)), np.float32)
        stored = store.stored_many(records)
        for i, (row, views, flip) in enumerate(zip(rows, stored_views, flips, strict=True)):
            for view, maps in zip(views, bordered, strict=False):
                order = self._flip_order if self._stored_flips[view] != flip else self._same_order
                store.decode_interleaved(row, view, next(stored), order, interior(maps))
            affines = placement.heatmap_to_maps[i, views]
            mean_heatmaps(bordered[: len(views)], affines, (spec.width, spec.height), heatmaps[slots[i]])
