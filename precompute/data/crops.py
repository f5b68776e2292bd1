"""Cuts the crops of the stored views, and the frame, of each instance out of an image file."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from kdlib.geometry import compose_affines, scale_affine
from kdlib.inputs.annotations import Instances
from kdlib.inputs.image_files import ImageFileError, read_image_file
from kdlib.inputs.names import locate
from kdlib.inputs.orientation import ExifRule
from kdlib.resample.exact import crop_image, pack_pixels
from precompute.data.views import Geometry
from precompute.errors import PrecomputeError

JPEG_QUALITY = 90


class UdpInput(NamedTuple):
    """The crops of a teacher that was trained with UDP."""

    width: int
    height: int
    scale: tuple[float, float]
    """Crop pixels per teacher input pixel, (x, y): `precompute.data.views.udp_scale`."""


CropKind = tuple[int, int] | UdpInput
"""(W, H) of the crops of a teacher, in which a crop pixel is an input pixel; or the crops of a teacher with UDP."""
Crops = Mapping[CropKind, NDArray[np.uint8]]
"""Crops (..., H, W, 3) RGB of the same regions for one or more teachers, by their kind."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """One instance, ready for the teacher. If it has no crops, ``problem`` says why."""

    row: int
    crops: Crops
    """(V, H, W, 3) uint8 RGB, by their kind."""
    frame: bytes | None
    problem: str | None = None


def stack_crops(prepared: Sequence[Prepared], *, pinned: bool = False) -> Crops:
    """Stack the crops of instances to (B, V, H, W, 3), by their kind; in pinned memory for a copy to a GPU."""
    stacked = {}
    for kind, first in prepared[0].crops.items():
        memory = torch.empty((len(prepared), *first.shape), dtype=torch.uint8, pin_memory=pinned).numpy()
        stacked[kind] = np.stack([instance.crops[kind] for instance in prepared], out=memory)
    return stacked


@dataclasses.dataclass(frozen=True)
class Cropper:
    """Cuts instances out of their images. Thread-safe."""

    images: Path
    instances: Instances
    geometry: Geometry
    input_sizes: tuple[CropKind, ...]
    """The kinds of crops. The first has the size of the geometry; the others show the same regions."""
    frames: bool
    """Whether to encode frames."""
    exif: ExifRule | None = None
    """Decides whether the EXIF orientation of an image is applied; None never applies it."""

    def prepare(self, rows: list[int]) -> list[Prepared]:
        """Cut the crops and frames of rows that belong to the same image; the file is read once."""
        first = rows[0]
        path = locate(self.images, self.instances.file_name[first])
        width, height = self.instances.image_size[first]
        try:
            image = read_image_file(path, (int(width), int(height)), self.exif)
        except ImageFileError as error:
            return [Prepared(row, {}, None, str(error)) for row in rows]
        image = pack_pixels(image)
        return [Prepared(row, self._crops(image, row), self._frame(image, row)) for row in rows]

    def _crops(self, image: NDArray[np.uint8], row: int) -> Crops:
        """The crops of the stored views from packed pixels (H, W, 4)."""
        affines = [self.geometry.image_to_view(row, v) for v in range(self.geometry.views.shape[1])]
        crops: dict[CropKind, NDArray[np.uint8]] = {}
        for kind in self.input_sizes:
            width, height = kind[:2]
            larger = scale_affine(width / self.input_sizes[0][0])
            if isinstance(kind, UdpInput):
                larger = larger * np.array(kind.scale)[:, None]
            crops[kind] = np.stack([crop_image(image, compose_affines(larger, a), (width, height)) for a in affines])
        return crops

    def _frame(self, image: NDArray[np.uint8], row: int) -> bytes | None:
        if not self.frames:
            return None
        frame = crop_image(image, self.geometry.frame[row], self.geometry.frame_size)
        done, content = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if not done:
            raise PrecomputeError(
                f"OpenCV could not encode the frame of annotation {self.instances.annotation_id[row]}"
            )
        return content.tobytes()
