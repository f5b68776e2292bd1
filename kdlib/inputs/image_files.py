"""Reads image files as HRNet does: 8 bits per channel, three channels, EXIF rotation ignored. Damaged files raise."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdlib.errors import InputError
from kdlib.images import UnreadableImageError, decode_image


class ImageFileError(InputError):
    """An image file is missing, truncated, damaged, or of another size than annotated."""


def read_image_file(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Read an image; a greyscale image gets three equal channels.

    Args:
        path: Image file.
        size: Annotated width and height.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        ImageFileError: If the file is missing, truncated, damaged, not an image, or of another size.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImageFileError(f"cannot read the image {path}: {error.strerror}") from error
    try:
        image = decode_image(content)
    except UnreadableImageError as error:
        raise ImageFileError(f"the image {path} {error}") from error
    if image.shape[1::-1] != tuple(size):
        raise ImageFileError(
            f"the image {path} is {image.shape[1]}x{image.shape[0]} but annotated as {size[0]}x{size[1]}: "
            "images and annotations belong to different data sets"
        )
    return image


def missing_files(folder: Path, names: Iterable[str]) -> list[str]:
    """Names that are not files in the folder, sorted."""
    return sorted(name for name in set(names) if not os.path.isfile(folder / name))
