"""Reading image files as HRNet does: eight bits, three channels, EXIF rotation ignored, and nothing truncated."""

import os
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from precompute.errors import PrecomputeError

TAIL = 4096
"""Bytes from the end in which a whole file has its end marker; some writers append a few bytes of their own."""
END_MARKERS = {b"\xff\xd8": b"\xff\xd9", b"\x89PNG": b"IEND"}


class UnreadableImageError(PrecomputeError):
    """An image file that is missing, truncated, or of another size than annotated."""


def read_photograph(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Read an image; greyscale comes back with three equal channels.

    Args:
        path: Image file.
        size: Annotated width and height.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        UnreadableImageError: If it is missing, truncated, no image, or of another size.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnreadableImageError(f"cannot read the image {path}: {error.strerror}") from error
    marker = next((end for start, end in END_MARKERS.items() if content.startswith(start)), None)
    if marker is not None and marker not in content[-TAIL:]:
        raise UnreadableImageError(f"the image {path} is truncated: {len(content)} bytes without an end marker")
    image = None
    if content:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise UnreadableImageError(f"{path} is no image that OpenCV can read ({len(content)} bytes)")
    if image.shape[1::-1] != tuple(size):
        raise UnreadableImageError(
            f"the image {path} is {image.shape[1]}x{image.shape[0]} and annotated as {size[0]}x{size[1]}: "
            "images and annotations are of different data sets"
        )
    return np.ascontiguousarray(image[:, :, ::-1])


def missing_files(folder: Path, names: Iterable[str]) -> list[str]:
    """The names that are no files below the folder, sorted."""
    return sorted(name for name in set(names) if not os.path.isfile(folder / name))
