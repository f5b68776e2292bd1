"""Where pictures come from: a file, a folder, or the frames of a video.

Pictures are BGR as OpenCV reads them, upright as their EXIF says: coordinates are those that a viewer shows.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from kdlib.images import UnreadableImageError, decode_image
from train.errors import TrainError

IMAGE_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})


class UnreadablePictureError(TrainError):
    """A file that is no picture OpenCV can read."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture that is still on disk."""

    path: Path
    name: str
    """Relative to the folder that was asked for."""
    number: int | None
    """COCO's image id where the file name is one, e.g. 139 of 000000000139.jpg."""

    def read(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 BGR.

        Raises:
            UnreadablePictureError: If the file is missing, truncated, or no picture.
        """
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise UnreadablePictureError(f"cannot read {self.path}: {error.strerror}") from error
        try:
            return decode_image(content, upright=True, bgr=True)
        except UnreadableImageError as error:
            raise UnreadablePictureError(f"{self.path} {error}") from error


def is_picture(path: Path) -> bool:
    """Whether a file's name is that of a picture."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def find_pictures(source: Path, without: Path | None = None) -> list[Picture]:
    """The picture at a path, or all pictures in and below a folder, sorted by name.

    Args:
        source: A picture or a folder.
        without: A folder that is left out where it lies below the source.

    Raises:
        TrainError: If there is none.
    """
    if not source.exists():
        raise TrainError(f"there is no picture, folder or video at {source}")
    if not source.is_dir():
        return [Picture(source, source.name, _number(source.stem))]
    names = sorted(path.relative_to(source) for path in source.rglob("*") if is_picture(path) and path.is_file())
    if not names:
        raise TrainError(f"{source} holds no pictures ({', '.join(sorted(IMAGE_SUFFIXES))})")
    if without is not None and without.resolve().is_relative_to(source.resolve()):
        drawn = without.resolve().relative_to(source.resolve())
        names = [name for name in names if not name.is_relative_to(drawn)]
    if not names:
        raise TrainError(f"{source} holds no pictures but the drawings in {without}")
    return [Picture(source / name, name.as_posix(), _number(name.stem)) for name in names]


def _number(stem: str) -> int | None:
    return int(stem) if stem.isascii() and stem.isdigit() else None


class Video:
    """The frames of a video file; use it in a ``with`` block.

    Attributes:
        frames: How many the file says it has; 0 where it does not say.
        rate: Frames a second.
    """

    def __init__(self, path: Path) -> None:
        """Open it; `TrainError` if OpenCV cannot."""
        self.path = path
        self._capture: Any = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise TrainError(f"{path} is neither a picture nor a video that OpenCV can read")
        self.frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.rate = float(self._capture.get(cv2.CAP_PROP_FPS)) or 25.0

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.release()

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Frames (H, W, 3) uint8 BGR, in order."""
        while True:
            read, frame = self._capture.read()
            if not read:
                return
            yield frame
