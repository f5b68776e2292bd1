"""Reads videos frame by frame. Pixels are BGR, as OpenCV reads them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kdlib.errors import InputError


class Video:
    """The frames of a video file; use it in a ``with`` block.

    Args:
        path: The file.

    Attributes:
        frames: Number of frames according to the file; 0 if it is unknown.
        rate: Frames per second.

    Raises:
        InputError: If OpenCV cannot open the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._capture: Any = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise InputError(f"{path} is neither an image nor a video that OpenCV can read")
        self.frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.rate = float(self._capture.get(cv2.CAP_PROP_FPS)) or 25.0

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.release()

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames (H, W, 3) uint8 BGR, in order."""
        while True:
            read, frame = self._capture.read()
            if not read:
                return
            yield frame
