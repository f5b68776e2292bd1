"""The drawn frames of a video, written as they come."""

from pathlib import Path
from typing import Any, Final

import cv2

from train.errors import TrainError
from train.predict.draw import draw_people
from train.predict.people import People

CODEC: Final = "mp4v"
"""MPEG-4 part 2: every build of OpenCV writes it."""


class VideoWriter:
    """Writes frames beside ``path`` and gives the file its name at the end of the ``with`` block."""

    def __init__(self, path: Path, rate: float, least: float) -> None:
        """Frames a second, and the height from which joints are drawn."""
        self.path, self.rate, self.least = path, rate, least
        self._beside = path.with_name(f".partial.{path.name}")
        self._writer: Any = None

    def __enter__(self) -> "VideoWriter":
        return self

    def write(self, people: People) -> None:
        """Append a frame."""
        if self._writer is None:
            height, width = people.scene.pixels.shape[:2]
            fourcc = cv2.VideoWriter.fourcc(*CODEC)
            self._writer = cv2.VideoWriter(str(self._beside), fourcc, self.rate, (width, height))
            if not self._writer.isOpened():
                raise TrainError(f"this OpenCV cannot write {self.path} ({CODEC}); --no-pictures leaves it out")
        self._writer.write(draw_people(people, self.least))

    def __exit__(self, kind: object, *_: object) -> None:
        if self._writer is not None:
            self._writer.release()
        if self._beside.exists():
            if kind is None:
                self._beside.replace(self.path)
            else:
                self._beside.unlink()
