"""The pixels that show a person: red, green, blue and a byte that nobody reads, as the loader resamples them.

Where simplejpeg is installed, JPEG is decoded by libjpeg-turbo straight into such pixels, in a thread's own memory;
else OpenCV decodes the same pixels, a little slower (docs/decisions/0010-simplejpeg.md).
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from kdlib.errors import BadRecordError
from kdlib.images import UnreadableImageError, decode_image
from kdlib.resample.pictures import LARGEST_SIDE

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

_UNALIGNED: Final = (16, 32)
"""Remainder and divisor of the address that frames are decoded to."""
_NOTHING: Final = np.empty(0, np.uint8)
_THREAD: Final = threading.local()
"""`room`, where its frames are decoded."""


def frame_pixels(store: Any, row: int, frame: bytes) -> NDArray[np.uint8]:
    """(H, W, 4) uint8 of a row's frame as the store gives it; a thread's next call may overwrite it.

    Raises:
        BadRecordError: If it is truncated, no picture, or too large to be resampled.
    """

    def where() -> str:
        return f"row {row} of {store.path}: its stored frame"

    try:
        return _fitting(decode(frame), where)
    except UnreadableImageError as error:
        raise BadRecordError(f"{where()} {error}; it was stored so: make the store again") from error


def image_pixels(store: Any, row: int, images: Path) -> NDArray[np.uint8]:
    """The same of the original image, in the folder ``images``, unturned as its annotations are.

    Raises:
        BadRecordError: As above; also if the file is missing or not of the size that was annotated.
    """
    path = images / store.instances["file_name"][row]

    def where() -> str:
        return f"row {row} of {store.path}: {path}"

    try:
        pixels = _fitting(decode(path.read_bytes()), where)
    except FileNotFoundError:
        raise BadRecordError(
            f"{where()} is missing; is {images} the folder of the images that were annotated?"
        ) from None
    except OSError as error:
        raise BadRecordError(f"{where()} cannot be read: {error.strerror}") from error
    except UnreadableImageError as error:
        raise BadRecordError(f"{where()} {error}; get the file again") from error
    size, (width, height) = pixels.shape[1::-1], store.instances["image_size"][row]
    if size != (width, height):
        raise BadRecordError(f"{where()} is {size[0]}x{size[1]} and was annotated at another size, {width}x{height}")
    return pixels


def decode(data: bytes) -> NDArray[np.uint8]:
    """(H, W, 4) uint8 of an encoded picture; a thread's next call may overwrite it.

    Raises:
        UnreadableImageError: If it is truncated, damaged as far as can be seen, or no picture.
    """
    if simplejpeg is not None:
        try:
            return _decode_jpeg(data)
        except ValueError:  # another format, truncated, or one of which libjpeg warns and that may still be whole
            pass
    return np.asarray(cv2.cvtColor(decode_image(data), cv2.COLOR_RGB2RGBA), np.uint8)


def _decode_jpeg(data: bytes) -> NDArray[np.uint8]:
    """(H, W, 4) in the thread's own memory, which grows to the largest picture it met."""
    room = getattr(_THREAD, "room", _NOTHING)
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, "RGBX", buffer=room), np.uint8)
    except ValueError:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        if height * width * 4 <= room.size:
            raise
    _THREAD.room = _room(height * width * 4)
    return np.asarray(simplejpeg.decode_jpeg(data, "RGBX", buffer=_THREAD.room), np.uint8)


def _room(nbytes: int) -> NDArray[np.uint8]:
    """Memory that does not begin at a multiple of 32 bytes.

    There libjpeg-turbo would write past the caches, which takes up to a half longer.
    """
    memory = np.empty(nbytes + _UNALIGNED[1], np.uint8)
    start = (_UNALIGNED[0] - memory.ctypes.data) % _UNALIGNED[1]
    return memory[start : start + nbytes]


def _fitting(pixels: NDArray[np.uint8], where: Callable[[], str]) -> NDArray[np.uint8]:
    if max(pixels.shape) > LARGEST_SIDE:
        height, width = pixels.shape[:2]
        raise BadRecordError(f"{where()} is {width}x{height}, more than {LARGEST_SIDE:,} a side")
    return pixels
