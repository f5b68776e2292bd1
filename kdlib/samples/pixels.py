"""The pixels of frames and images, with four bytes per pixel as the loader resamples them: red, green, blue, unused.

Where simplejpeg is installed, libjpeg-turbo decodes JPEG straight into such pixels, in a buffer of the thread. Without
it, OpenCV decodes the same pixels a little more slowly (docs/decisions/0010-simplejpeg.md).
"""

import threading
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

import cache
from kdlib.errors import BadRecordError
from kdlib.images import UnreadableImageError, decode_image, turn
from kdlib.inputs.image_files import describe_size
from kdlib.inputs.names import locate
from kdlib.inputs.orientation import ExifRule
from kdlib.resample.packed import LARGEST_SIDE

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

_ADDRESS: Final = (16, 32)
"""Remainder and divisor of the address that JPEG is decoded to, see `_allocate`."""
MOST_PIXELS: Final = 1 << 30
"""OpenCV's limit for an image, which also limits the memory that a JPEG's header can demand."""
_EMPTY: Final = np.empty(0, np.uint8)
_THREAD: Final = threading.local()
"""Its attribute ``buffer`` is the memory that the thread decodes into."""


def frame_pixels(store: cache.Store, row: int, frame: bytes) -> NDArray[np.uint8]:
    """Decode a row's frame, the bytes that ``store.frame`` returned; (H, W, 4) uint8.

    The thread's next call may overwrite the result.

    Raises:
        BadRecordError: If the frame is truncated, damaged, not an image, or too large to resample.
    """

    def where() -> str:
        return f"row {row} of {store.path}: its stored frame"

    try:
        pixels = decode(frame)
    except UnreadableImageError as error:
        raise BadRecordError(f"{where()} {error}; the store was written with it; make the store again") from error
    if max(pixels.shape) > LARGEST_SIDE:
        height, width = pixels.shape[:2]
        raise BadRecordError(f"{where()} is {width}x{height}, more than {LARGEST_SIDE:,} pixels per side")
    return pixels


def image_pixels(store: cache.Store, row: int, images: Path) -> NDArray[np.uint8]:
    """Read a row's original image from a folder; (H, W, 4) uint8.

    Its EXIF orientation is applied where it was applied when the store was made. The thread's next call may overwrite
    the result.

    Raises:
        BadRecordError: If the file is missing, cannot be read or decoded, or has another size than the annotated image.
    """
    path = locate(images, store.instances["file_name"][row])
    width, height = (int(side) for side in store.instances["image_size"][row])
    exif, orientation = ExifRule.from_provenance(store.manifest["provenance"]), None

    def where() -> str:
        return f"row {row} of {store.path}: {path}"

    try:
        content = path.read_bytes()
        pixels = decode(content)
        if exif is not None:
            to_apply, orientation = exif.to_decode(content, (width, height))
            pixels = turn(pixels, to_apply)
    except FileNotFoundError:
        raise BadRecordError(
            f"{where()} is missing; is {images} the folder of the images that were annotated?"
        ) from None
    except OSError as error:
        raise BadRecordError(f"{where()} cannot be read: {error.strerror}") from error
    except UnreadableImageError as error:
        raise BadRecordError(f"{where()} {error}; get the file again") from error
    if pixels.shape[1::-1] != (width, height):
        size = describe_size(pixels, orientation)
        raise BadRecordError(f"{where()} {size} and was annotated at another size, {width}x{height}")
    return pixels


def decode(data: bytes) -> NDArray[np.uint8]:
    """Decode an image; (H, W, 4) uint8. The thread's next call may overwrite the result.

    Raises:
        UnreadableImageError: If it is truncated, not an image, or detectably damaged.
    """
    if simplejpeg is not None:
        try:
            return _decode_jpeg(data)
        except ValueError:  # not a JPEG, truncated, or libjpeg warned: `decode_image` decides
            pass
    return np.asarray(cv2.cvtColor(decode_image(data), cv2.COLOR_RGB2RGBA), np.uint8)


def _decode_jpeg(data: bytes) -> NDArray[np.uint8]:
    """Decode into the thread's buffer, which grows to the largest image so far; (H, W, 4)."""
    buffer = getattr(_THREAD, "buffer", _EMPTY)
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, "RGBX", buffer=buffer), np.uint8)
    except ValueError:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        if height * width * 4 <= buffer.size or height * width > MOST_PIXELS:
            raise
    _THREAD.buffer = _allocate(height * width * 4)
    return np.asarray(simplejpeg.decode_jpeg(data, "RGBX", buffer=_THREAD.buffer), np.uint8)


def _allocate(nbytes: int) -> NDArray[np.uint8]:
    """Allocate memory at an address that is 16 modulo 32.

    At a multiple of 32, libjpeg-turbo's writes bypass the caches, and decoding takes up to 1.5 times as long (decision
    0010).
    """
    memory = np.empty(nbytes + _ADDRESS[1], np.uint8)
    start = (_ADDRESS[0] - memory.ctypes.data) % _ADDRESS[1]
    return memory[start : start + nbytes]
