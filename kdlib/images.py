"""ImageNet's normalisation on the device, the same for the teacher and for the student."""

import re
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
"""Mean of red, green and blue in [0, 1], as torchvision and HRNet use it."""


IMAGENET_STD: Final = (0.229, 0.224, 0.225)


COLOUR_ORDER: Final = "rgb"
"""Of the pixels that networks see; OpenCV reads bgr."""


def normalise_images(images: Tensor) -> Tensor:
    """(x / 255 - mean) / std a channel.

    Args:
        images: (B, H, W, 3) uint8, RGB, on any device.

    Returns:
        (B, 3, H, W) float32 in channels_last memory: no copy is needed to turn the axes round.
    """
    std = torch.tensor(IMAGENET_STD, device=images.device) * 255
    offset = torch.tensor(IMAGENET_MEAN, device=images.device) / torch.tensor(IMAGENET_STD, device=images.device)
    return torch.addcmul(-offset, images.float(), 1 / std).permute(0, 3, 1, 2)


try:
    import simplejpeg
except ImportError:  # the same pixels without it, and damage within a JPEG is not seen
    simplejpeg = None


_JPEG: Final = b"\xff\xd8"


_PNG: Final = b"\x89PNG\r\n\x1a\n"


_MARKER: Final = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
"""Of a JPEG segment: neither a byte of the coded pixels, nor padding, nor a restart between them."""


_END_OF_IMAGE: Final = 0xD9


_ALONE: Final = (0x01, 0xD8)
"""Markers that no segment follows."""


_DAMAGE: Final = re.compile(
    r"premature end of data|bad (Huffman|arithmetic) code|instead of RST|Inconsistent progression"
    r"|Unsupported (marker type|JPEG process)|Invalid JPEG file structure|Bogus "
)
"""Of what libjpeg says. Not `extraneous bytes before marker`: cameras leave some in whole photographs."""


class UnreadableImageError(ValueError):
    """Bytes that are no whole image; the message says what they are, as the end of a sentence."""


def decode_image(content: bytes, *, upright: bool = False, bgr: bool = False) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB; grey comes back with three equal channels, transparency is left out.

    Args:
        content: The bytes of a file.
        upright: Turn the image as its EXIF says, as viewers do; annotations are of unturned ones.
        bgr: Channels in the order in which OpenCV writes and draws.

    Raises:
        UnreadableImageError: If the image is truncated, is damaged as far as can be seen, or is none.
    """
    if is_truncated(content):
        raise UnreadableImageError(f"is truncated: {len(content)} bytes without an end marker")
    damage = damage_within(content)
    if damage is not None:
        raise UnreadableImageError(f"is damaged: {damage} ({len(content)} bytes)")
    image = None
    if content:
        order = cv2.IMREAD_COLOR if bgr else cv2.IMREAD_COLOR_RGB
        turn = 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(np.frombuffer(content, np.uint8), order | turn)
    if image is None:
        raise UnreadableImageError(f"is no image that OpenCV can read ({len(content)} bytes)")
    return np.asarray(image, np.uint8)


def damage_within(content: bytes) -> str | None:
    """What libjpeg says of a JPEG whose pixels cannot be those that were stored, in its words.

    Only where simplejpeg is installed, and not all damage: codes that were changed into other valid ones are a picture,
    too. It takes half a decode, at an eighth of the resolution.
    """
    if simplejpeg is None or not content.startswith(_JPEG):
        return None
    try:
        simplejpeg.decode_jpeg(content, "GRAY", min_height=1, min_width=1, min_factor=8)
    except ValueError as error:
        return str(error) if _DAMAGE.search(str(error)) else None
    return None


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
