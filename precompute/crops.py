"""From an image file to what the run needs of each person in it: the views' crops and the frame's bytes."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from kdlib.annotations import Persons
from kdlib.warp import crop_image
from precompute.errors import PrecomputeError
from precompute.photographs import UnreadablePhotographError, read_photograph
from precompute.views import Geometry

JPEG_QUALITY = 90


@dataclasses.dataclass(frozen=True)
class Prepared:
    """One person, ready for the teacher; ``problem`` says why there are no crops."""

    row: int
    crops: NDArray[np.uint8]
    """(V, H, W, 3) RGB."""
    frame: bytes | None
    problem: str | None = None


@dataclasses.dataclass(frozen=True)
class Cropper:
    """Cuts persons out of their images. Safe in threads."""

    images: Path
    persons: Persons
    geometry: Geometry
    input_size: tuple[int, int]
    frames: bool

    def prepare(self, rows: list[int]) -> list[Prepared]:
        """Crops and frames of persons of one image; the file is read once."""
        first = rows[0]
        path = self.images / self.persons.file_name[first]
        width, height = self.persons.image_size[first]
        try:
            image = read_photograph(path, (int(width), int(height)))
        except UnreadablePhotographError as error:
            nothing = np.empty((0, 0, 0, 3), np.uint8)
            return [Prepared(row, nothing, None, str(error)) for row in rows]
        return [Prepared(row, self._crops(image, row), self._frame(image, row)) for row in rows]

    def _crops(self, image: NDArray[np.uint8], row: int) -> NDArray[np.uint8]:
        views = range(self.geometry.views.shape[1])
        return np.stack([crop_image(image, self.geometry.image_to_view(row, v), self.input_size) for v in views])

    def _frame(self, image: NDArray[np.uint8], row: int) -> bytes | None:
        if not self.frames:
            return None
        frame = crop_image(image, self.geometry.frame[row], self.geometry.frame_size)
        done, content = cv2.imencode(".jpg", frame[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if not done:
            raise PrecomputeError(f"OpenCV could not encode the frame of annotation {self.persons.annotation_id[row]}")
        return content.tobytes()
