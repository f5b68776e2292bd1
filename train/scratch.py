"""Arrays that a thread uses again and again.

Fresh memory of this size comes from the kernel page by page, and is cold; a thread's own stays in its caches.
"""

import threading
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


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
