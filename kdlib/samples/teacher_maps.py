"""What the teacher said of a person, as a sample sees the person: stored views under the sample's affine, averaged."""

import threading
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kdlib.errors import BadRecordError
from kdlib.geometry import LARGEST, compose_affines
from kdlib.resample.maps import bordered_shape, interior, mean_heatmaps
from kdlib.samples.views import Views
from kdlib.skeleton import FLIP_ORDER

_SAME_ORDER = np.arange(len(FLIP_ORDER))


def check_inverses(store: Any, rows: NDArray[np.int64], inverses: NDArray[np.float64]) -> None:
    """Look at affines (n, ..., 2, 3) of some rows before compiled code follows them.

    Raises:
        BadRecordError: If a number is nan or larger than `LARGEST`, as no picture of a person has it.
    """
    wrong = ~(np.abs(inverses) <= LARGEST).reshape(len(rows), -1).all(axis=1)
    if wrong.any():
        row = int(rows[wrong.argmax()])
        which = f"row {row} of {store.path} (annotation {store.instances['annotation_id'][row]})"
        box = ", ".join(f"{number:.6g}" for number in store.instances["bbox"][row])
        raise BadRecordError(
            f"{which}: its box [{box}] and its affines lead out of any picture; they were stored so: "
            "make the store again, from another box if that one is wrong"
        )


class TeacherMaps:
    """The maps of a store.

    Args:
        store: An opened store.
        views: Stored views a sample's maps are made of, as `kdlib.samples.dataset.StoreDataset` says.
        stride: Input pixels a heatmap pixel of the samples.
    """

    def __init__(self, store: Any, views: str, stride: int) -> None:
        teacher = store.manifest["provenance"]["teacher"]
        self._store, self._views = store, views
        self._stride = teacher["input_size"][0] / teacher["heatmap_size"][0]
        self._from_maps = np.array([stride, stride, 1.0])  # times an affine of input pixels: that of heatmap pixels
        self._flips = [bool(flip) for flip in store.view_flip]

    def fill(
        self,
        heatmaps: NDArray[np.float32],
        slots: NDArray[np.int64],
        rows: NDArray[np.int64],
        seen: Views,
        to_image: NDArray[np.float64],
    ) -> None:
        """Put the maps of some rows into slots of heatmaps (B, H, W, K). Safe in threads.

        Args:
            heatmaps: Contiguous, where to put them.
            slots: (n,) places in it.
            rows: (n,) rows of the store.
            seen: How the samples are seen.
            to_image: (n, 2, 3) input pixels of each sample to image pixels.
        """
        spec, inverses = self._store.spec, self.inverses(rows, to_image)
        check_inverses(self._store, rows, inverses)
        views = self._chosen(seen)
        records = [(row, view) for row, of_row in zip(rows.tolist(), views, strict=True) for view in of_row]
        most = max(len(of_row) for of_row in views)
        bordered = SCRATCH.array("maps", (most, *bordered_shape(spec.map_shape)), np.float32)
        stored = self._store.stored_many(records)
        for i, (row, of_row, flip) in enumerate(zip(rows.tolist(), views, seen.flips.tolist(), strict=True)):
            for view, maps in zip(of_row, bordered, strict=False):
                order = FLIP_ORDER if self._flips[view] != flip else _SAME_ORDER
                self._store.decode_interleaved(row, view, next(stored), order, interior(maps))
            shown = bordered[: len(of_row)]
            mean_heatmaps(shown, inverses[i, of_row], (spec.width, spec.height), heatmaps[slots[i]])

    def inverses(self, rows: NDArray[np.int64], to_image: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, V, 2, 3) heatmap pixels of each sample to pixels of each stored view's maps."""
        to_frame = compose_affines(self._store.frame_affine[rows], to_image * self._from_maps)
        return compose_affines(self._store.view_affine[rows], to_frame[:, None]) / self._stride

    def _chosen(self, seen: Views) -> list[list[int]]:
        """Which stored views each sample is made of."""
        if seen.replayed is not None:
            return [[view] for view in seen.replayed.tolist()]
        if self._views == "average":
            return [list(range(len(self._flips)))] * len(seen.flips)
        if self._views == "first":
            return [[0]] * len(seen.flips)
        first = {flip: next((v for v, f in enumerate(self._flips) if f == flip), 0) for flip in (False, True)}
        return [[first[flip]] for flip in seen.flips.tolist()]


class Scratch(threading.local):
    """One array for each name and thread, of zeros at first; its content is then whatever the last use left."""

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[Any]] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """This thread's array of that name, a new one where the last was of another shape."""
        found = self._arrays.get(name)
        if found is None or found.shape != shape:
            found = self._arrays[name] = np.zeros(shape, dtype)
        return found


SCRATCH = Scratch()
"""The threads' own; of the module, so that what uses it can still be pickled."""
