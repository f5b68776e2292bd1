"""From an image file to what the run needs of each person in it: the views' crops and the frame's bytes."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from kdlib.annotations import Persons
from kdlib.geometry import compose_affines, scale_affine
from kdlib.resample.exact import crop_image
from precompute.errors import PrecomputeError
from precompute.data.photographs import UnreadablePhotographError, read_photograph
from precompute.data.views import Geometry

JPEG_QUALITY = 90
Crops = Mapping[tuple[int, int], NDArray[np.uint8]]
"""The same views as (..., H, W, 3) RGB at one or more input sizes, by (W, H)."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """One person, ready for the teacher; ``problem`` says why there are no crops."""

    row: int
    crops: Crops
    """(V, H, W, 3) by input size."""
    frame: bytes | None
    problem: str | None = None


def stack_crops(persons: Sequence[Prepared]) -> Crops:
    """Crops (B, V, H, W, 3) of persons, by input size."""
    return {size: np.stack([person.crops[size] for person in persons]) for size in persons[0].crops}


@dataclasses.dataclass(frozen=True)
class Cropper:
    """Cuts persons out of their images. Safe in threads."""

    images: Path
    persons: Persons
    geometry: Geometry
    input_sizes: tuple[tuple[int, int], ...]
    """The first is that of the geometry; the others show the same regions."""
    frames: bool

    def prepare(self, rows: list[int]) -> list[Prepared]:
        """Crops and frames of persons of one image; the file is read once."""
        first = rows[0]
        path = self.images / self.persons.file_name[first]
        width, height = self.persons.image_size[first]
        try:
            image = read_photograph(path, (int(width), int(height)))
        except UnreadablePhotographError as error:
            return [Prepared(row, {}, None, str(error)) for row in rows]
        return [Prepared(row, self._crops(image, row), self._frame(image, row)) for row in rows]

    def _crops(self, image: NDArray[np.uint8], row: int) -> Crops:
        affines = [self.geometry.image_to_view(row, v) for v in range(self.geometry.views.shape[1])]
        crops = {}
        for size in self.input_sizes:
            larger = scale_affine(size[0] / self.input_sizes[0][0])
            crops[size] = np.stack([crop_image(image, compose_affines(larger, a), size) for a in affines])
        return crops

    def _frame(self, image: NDArray[np.uint8], row: int) -> bytes | None:
        if not self.frames:
            return None
        frame = crop_image(image, self.geometry.frame[row], self.geometry.frame_size)
        done, content = cv2.imencode(".jpg", frame[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if not done:
            raise PrecomputeError(f"OpenCV could not encode the frame of annotation {self.persons.annotation_id[row]}")
        return content.tobytes()
