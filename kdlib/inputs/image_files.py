"""Reads the image files of annotations: 8 bits per channel, three channels. Damaged files raise.

The name in an annotation file and the name on disk may differ in their Unicode form (a macOS disk decomposes letters
with accents) and in the separator of folders; `locate` finds such files.
"""

import functools
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdlib.errors import InputError
from kdlib.images import UnreadableImageError, decode_image
from kdlib.inputs.image_index import normalise_name
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


# --- names ------------------------------------------------------------------------------------------------------------


def locate(folder: Path, name: str) -> Path:
    r"""The path of an annotated image.

    Args:
        folder: The image folder.
        name: The image's name in the annotation file.

    Returns:
        ``folder / name`` if it exists. Otherwise the file whose name is the same after Unicode normalisation (NFC) and
        with ``\`` as ``/``, if there is exactly one; else ``folder / name``.
    """
    path = folder / name
    return path if os.path.exists(path) else _find_variant(folder, name) or path


def missing_files(folder: Path, names: Iterable[str]) -> list[str]:
    """Names that are not files in the folder, sorted; a file may have another form of the name, see `locate`."""
    exact = (name for name in set(names) if not os.path.isfile(folder / name))
    return sorted(name for name in exact if not os.path.isfile(locate(folder, name)))


def find_other_case(folder: Path, name: str) -> str | None:
    """The name of a file that differs from a missing one in upper and lower case alone, relative to the folder."""
    found = _find_variant(folder, name, ignore_case=True)
    return None if found is None else found.relative_to(folder).as_posix()


def _find_variant(folder: Path, name: str, *, ignore_case: bool = False) -> Path | None:
    """Find a file folder by folder; None if a part of its path is missing or ambiguous."""
    found = folder
    for part in normalise_name(name).split("/"):
        by_form, by_case = _list_names(found)
        entry = by_case.get(part.casefold()) if ignore_case else by_form.get(part)
        if entry is None:
            return None
        found /= entry
    return found


@functools.lru_cache(maxsize=4096)
def _list_names(folder: Path) -> tuple[dict[str, str | None], dict[str, str | None]]:
    """The names in a folder by their normalised form, and by that in lower case; None where several are the same.

    A folder is listed once, because an annotation file may name 100,000 missing images. A file that is added later is
    found under its exact name.
    """
    by_form: dict[str, str | None] = {}
    by_case: dict[str, str | None] = {}
    try:
        names = os.listdir(folder)
    except OSError:
        return by_form, by_case
    for name in names:
        form = normalise_name(name)
        by_form[form] = None if form in by_form else name
        by_case[form.casefold()] = None if form.casefold() in by_case else name
    return by_form, by_case
