"""Reads the image files of annotations: 8 bits per channel, three channels. Damaged files raise.

`kdlib.inputs.names.locate` finds the file of an annotated name.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdlib.errors import InputError
from kdlib.images import UnreadableImageError, decode_image
from kdlib.inputs.orientation import ExifRule, Orientation


class ImageFileError(InputError):
    """An image file is missing, truncated, damaged, or of another size than annotated."""


def read_image_file(path: Path, size: tuple[int, int], exif: ExifRule | None = None) -> NDArray[np.uint8]:
    """Read an image; a greyscale image gets three equal channels.

    Args:
        path: Image file.
        size: Annotated width and height.
        exif: Decides whether its orientation is applied; None leaves the pixels as OpenCV decodes them without it.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        ImageFileError: If the file is missing, truncated, damaged, not an image, or of another size.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImageFileError(f"cannot read the image {path}: {error.strerror}") from error
    turn, orientation = (1, None) if exif is None else exif.to_decode(content, size)
    try:
        image = decode_image(content, orientation=turn)
    except UnreadableImageError as error:
        raise ImageFileError(f"the image {path} {error}") from error
    if image.shape[1::-1] != tuple(size):
        fits = orientation is not None and orientation.fitting((size[0], size[1])) is not None
        reason = (
            "give --exif auto, with --overwrite" if fits else "images and annotations belong to different data sets"
        )
        raise ImageFileError(
            f"the image {path} {describe_size(image, orientation)} but annotated as {size[0]}x{size[1]}: {reason}"
        )
    return image


def describe_size(image: NDArray[np.uint8], orientation: Orientation | None) -> str:
    """State the size of an image (H, W, C), or both of its sizes if its orientation exchanges width and height."""
    if orientation is None or orientation.upright_size == orientation.stored_size:
        return f"is {image.shape[1]}x{image.shape[0]}"
    (width, height), (across, down) = orientation.stored_size, orientation.upright_size
    return f"is {width}x{height}, or {across}x{down} turned by its EXIF orientation,"
