"""An encoded image into pixels: eight bits, three channels, and whole; unturned, as annotations see it.

libjpeg makes grey of what a truncated file lacks and only warns. Which decoder says so differs between versions of
OpenCV, so that the end of a JPEG or PNG is looked for here; of other formats, OpenCV decodes all or nothing.
"""

import re
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

_JPEG: Final = b"\xff\xd8"
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_MARKER: Final = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
"""Of a JPEG segment: neither a byte of the coded pixels, nor padding, nor a restart between them."""
_END_OF_IMAGE: Final = 0xD9
_ALONE: Final = (0x01, 0xD8)
"""Markers that no segment follows."""


class UnreadableImageError(ValueError):
    """Bytes that are no whole image; the message says what they are, as the end of a sentence."""


def decode_image(content: bytes, *, upright: bool = False, bgr: bool = False) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB; grey comes back with three equal channels, transparency is left out.

    Args:
        content: The bytes of a file.
        upright: Turn the image as its EXIF says, as viewers do; annotations are of unturned ones.
        bgr: Channels in the order in which OpenCV writes and draws.

    Raises:
        UnreadableImageError: If the image is truncated, or is none.
    """
    if is_truncated(content):
        raise UnreadableImageError(f"is truncated: {len(content)} bytes without an end marker")
    image = None
    if content:
        order = cv2.IMREAD_COLOR if bgr else cv2.IMREAD_COLOR_RGB
        turn = 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(np.frombuffer(content, np.uint8), order | turn)
    if image is None:
        raise UnreadableImageError(f"is no image that OpenCV can read ({len(content)} bytes)")
    return np.asarray(image, np.uint8)


def is_truncated(content: bytes) -> bool:
    """Whether a JPEG or PNG ends before its end marker; what follows the marker does not matter."""
    if content.startswith(_JPEG):
        return not _jpeg_ends(content)
    return content.startswith(_PNG) and not _png_ends(content)


def _jpeg_ends(content: bytes) -> bool:
    """Go from segment to segment, so that the end of a thumbnail within one is not taken for the image's."""
    position = len(_JPEG)
    while found := _MARKER.search(content, position):
        if found[1][0] == _END_OF_IMAGE:
            return True
        position = found.end()
        if found[1][0] not in _ALONE:
            position += int.from_bytes(content[position : position + 2], "big")
    return False


def _png_ends(content: bytes) -> bool:
    position = len(_PNG)
    while position < len(content):
        if content[position + 4 : position + 8] == b"IEND":
            return True
        position += 12 + int.from_bytes(content[position : position + 4], "big")
    return False
