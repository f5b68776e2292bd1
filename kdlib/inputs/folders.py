"""Finds images to predict on: one file, or the files in a folder.

Pixels are BGR, as OpenCV reads them. Images are turned upright by their EXIF orientation, so that coordinates are those
of the image as a viewer shows it.
"""

import dataclasses
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kdlib.errors import InputError
from kdlib.images import UnreadableImageError, decode_image
from kdlib.inputs.image_files import ImageFileError

IMAGE_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """An image file that has not been read yet."""

    path: Path
    name: str
    """Path relative to the source folder, or the file's name."""
    number: int | None
    """COCO's image id if the file name is a number, e.g. 139 of 000000000139.jpg."""

    def read(self) -> NDArray[np.uint8]:
        """Read the pixels (H, W, 3) uint8 BGR.

        Raises:
            ImageFileError: If the file is missing, truncated, or not an image.
        """
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise ImageFileError(f"cannot read {self.path}: {error.strerror}") from error
        try:
            return decode_image(content, upright=True, bgr=True)
        except UnreadableImageError as error:
            raise ImageFileError(f"{self.path} {error}") from error


def is_image(path: Path) -> bool:
    """Whether a file has the suffix of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def find_images(source: Path, exclude: Path | None = None) -> list[ImageFile]:
    """Find the image at a path, or all images in a folder and below it, sorted by name.

    Args:
        source: An image or a folder.
        exclude: A folder that is left out if it lies below the source.

    Raises:
        InputError: If there is no image.
    """
    if not source.exists():
        raise InputError(f"there is no image, folder or video at {source}")
    if not source.is_dir():
        return [ImageFile(source, source.name, _number(source.stem))]
    names = sorted(path.relative_to(source) for path in source.rglob("*") if is_image(path) and path.is_file())
    if not names:
        raise InputError(f"{source} contains no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    if exclude is not None and exclude.resolve().is_relative_to(source.resolve()):
        left_out = exclude.resolve().relative_to(source.resolve())
        names = [name for name in names if not name.is_relative_to(left_out)]
    if not names:
        raise InputError(f"{source} contains no images except the drawings in {exclude}")
    return [ImageFile(source / name, name.as_posix(), _number(name.stem)) for name in names]


def _number(stem: str) -> int | None:
    return int(stem) if stem.isascii() and stem.isdigit() else None
