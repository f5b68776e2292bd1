"""Reads videos frame by frame. Pixels are BGR, as OpenCV reads them: turned as the video's metadata say.

`writable_rate` rounds a frame rate to one that a video can be written with.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from kdlib.errors import InputError

DEFAULT_RATE: Final = 25.0
"""Frames per second where a video does not give a usable number."""
LARGEST_TIMEBASE: Final = 65_535
"""MPEG-4 part 2 counts time in at most so many steps per second (ISO/IEC 14496-2, vop_time_increment_resolution)."""
SMALLEST_RATE: Final = 0.01
"""OpenCV takes rates up to 0.001 for none."""


class Video:
    """The frames of a video file; use it in a ``with`` block.

    Args:
        path: The file.

    Attributes:
        frames: Number of frames according to the file; 0 if it is unknown.
        rate: Frames per second; `DEFAULT_RATE` if the file gives no positive number.

    Raises:
        InputError: If OpenCV cannot open the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._capture: Any = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise InputError(f"{path} is neither an image nor a video that OpenCV can read")
        frames, rate = (float(self._capture.get(name)) for name in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS))
        self.frames = max(0, int(frames)) if math.isfinite(frames) else 0
        self.rate = rate if math.isfinite(rate) and rate > 0 else DEFAULT_RATE

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


def writable_rate(rate: float) -> float:
    """Round a frame rate so that MPEG-4 part 2 can express it.

    OpenCV writes a rate of at most three decimals as a fraction of 1, 10, 100 or 1000, whose numerator is the number of
    time steps per second; it must be at most `LARGEST_TIMEBASE`.

    Args:
        rate: Frames per second, any number.

    Returns:
        The rate with as many decimals as fit, up to three, and within `SMALLEST_RATE` and `LARGEST_TIMEBASE`;
        `DEFAULT_RATE` for NaN, infinity, 0 and negative numbers.
    """
    if not (math.isfinite(rate) and rate > 0):
        return DEFAULT_RATE
    rate = min(max(rate, SMALLEST_RATE), float(LARGEST_TIMEBASE))
    decimals = next(d for d in (3, 2, 1, 0) if round(rate * 10**d) <= LARGEST_TIMEBASE)
    return round(rate, decimals)
