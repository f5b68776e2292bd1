"""Images as the input of networks: decoding files, detecting damaged ones, and ImageNet's normalisation."""

import functools
import os
import re
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

try:
    import simplejpeg
except ImportError:  # the pixels are the same without it, but damage inside a JPEG is not detected
    simplejpeg = None

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
"""Mean of red, green and blue in 0..1, as torchvision and HRNet use it."""
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
"""Standard deviation of red, green and blue in 0..1."""
COLOUR_ORDER: Final = "rgb"
"""Order of the channels that networks get; OpenCV reads files as bgr."""
_JPEG: Final = b"\xff\xd8"
"""The first bytes of a JPEG file."""
_PNG: Final = b"\x89PNG\r\n\x1a\n"
"""The first bytes of a PNG file."""
_FLOATS: Final = (b"PF\n", b"Pf\n", b"#?RADIANCE", b"#?RGBE", b"v/1\x01")
"""The first bytes of PFM, Radiance HDR and OpenEXR files, whose numbers have no fixed range: OpenCV would cut them."""
_MARKER: Final = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
"""The marker of a JPEG segment; coded pixels, padding and restart markers do not match."""
_END_OF_IMAGE: Final = 0xD9
_WITHOUT_SEGMENT: Final = (0x01, 0xD8)
"""JPEG markers that no segment follows."""
_MIRRORS: Final = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}
"""Direction in which `cv2.flip` mirrors for an EXIF orientation: 1 left and right, 0 top and bottom, -1 both."""
_DAMAGE: Final = re.compile(
    r"premature end of data|bad (Huffman|arithmetic) code|instead of RST|Inconsistent progression"
    r"|Unsupported (marker type|JPEG process)|Invalid JPEG file structure|Bogus "
)
"""Warnings of libjpeg that mean damage. `extraneous bytes before marker` is not one: some cameras write such bytes."""


def normalise_images(
    images: Tensor, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD
) -> Tensor:
    """Normalise, by default with ImageNet's statistics: (x / 255 - mean) / std per channel.

    Args:
        images: (B, H, W, 3) uint8, RGB, on any device.
        mean: Mean of each channel in 0..1.
        std: Standard deviation of each channel in 0..1.

    Returns:
        (B, 3, H, W) float32 in channels_last memory, so that the axes are permuted without a copy.
    """
    # On the CPU the constants are built in every call, so that an exported graph contains them.
    offset, scale = (_statistics if images.device.type == "cpu" else _kept_statistics)(images.device, mean, std)
    return torch.addcmul(offset, images.float(), scale).permute(0, 3, 1, 2)


def _statistics(device: torch.device, mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Offset -mean / std and scale 1 / (255 std) per channel, (3,) float32."""
    spread, middle = torch.tensor(std), torch.tensor(mean)
    return (-(middle / spread)).to(device), (1 / (spread * 255)).to(device)


@functools.cache
def _kept_statistics(device: torch.device, mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """The same, copied to a device once: a copy in every call would let a GPU wait for the host."""
    with torch.inference_mode(False):  # a tensor of the inference mode could not be used in training
        return _statistics(device, mean, std)


_SAME_COLOURS: Final = ("YCbCr", "Gray")
"""Colour spaces of a JPEG that simplejpeg and OpenCV convert alike."""
_LARGEST_IMAGE: Final = 1 << 30
"""OpenCV's limit of pixels (CV_IO_MAX_IMAGE_PIXELS)."""


class UnreadableImageError(ValueError):
    """Bytes are not a complete image; the message is the end of a sentence that begins with the file's name."""


def decode_image(content: bytes, *, orientation: int = 1, bgr: bool = False) -> NDArray[np.uint8]:
    """Decode an image; (H, W, 3) uint8 RGB. Grey images get three equal channels, transparency is removed.

    Of an animation, the first frame is decoded, and of several pages the first.

    Args:
        content: The bytes of an image file of any format that OpenCV reads. Its EXIF orientation is not applied.
        orientation: The EXIF orientation to apply, 1 to 8: see `kdlib.inputs.orientation`. 1 leaves the pixels as they
            are.
        bgr: Return the channels as BGR, the order in which OpenCV writes and draws.

    Raises:
        UnreadableImageError: If the bytes are truncated, not an image, an image of floating-point numbers, too large
            for OpenCV, or damaged; in a JPEG, damage is detected only if simplejpeg is installed.
    """
    if is_truncated(content):
        raise UnreadableImageError(f"is truncated: {len(content)} bytes without an end marker")
    if content.startswith(_FLOATS):
        raise UnreadableImageError("holds floating-point numbers without a fixed range; convert it to 8 bits, e.g. PNG")
    sound = _decode_jpeg(content, bgr)
    if sound is not None:
        return turn(sound, orientation)
    image = None
    if content:
        order = cv2.IMREAD_COLOR if bgr else cv2.IMREAD_COLOR_RGB
        try:
            image = cv2.imdecode(np.frombuffer(content, np.uint8), order | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error as error:  # its size is above OpenCV's limits, or memory is short
            raise UnreadableImageError(
                f"cannot be decoded by OpenCV ({_reason(error)}; {len(content)} bytes)"
            ) from error
    if image is None:
        raise UnreadableImageError(f"is not an image that OpenCV can read ({len(content)} bytes)")
    return turn(np.asarray(image, np.uint8), orientation)


def turn(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Apply an EXIF orientation, 1 to 8, to pixels (H, W, C) uint8, as OpenCV and image viewers do.

    1 leaves them as they are; 2 mirrors left and right, 4 top and bottom; 3 is a half turn; 6 and 8 are quarter turns,
    clockwise and counterclockwise; 5 transposes, and 7 mirrors at the other diagonal. 5 to 8 exchange width and height.
    """
    if orientation > 4:
        pixels = np.asarray(cv2.transpose(pixels), np.uint8)
    mirrored = _MIRRORS.get(orientation)
    return pixels if mirrored is None else np.asarray(cv2.flip(pixels, mirrored), np.uint8)


def _reason(error: cv2.error) -> str:
    """What OpenCV says, e.g. ``pixels <= CV_IO_MAX_IMAGE_PIXELS``, without the place in its source."""
    return str(getattr(error, "err", None) or error).strip().splitlines()[0]


def silence_opencv() -> None:
    """Keep OpenCV and its FFmpeg from printing about files that cannot be read: the commands' own lines name them."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def _decode_jpeg(content: bytes, bgr: bool) -> NDArray[np.uint8] | None:
    """Decode a JPEG and detect damage in one pass; (H, W, 3) uint8, the same pixels as OpenCV's.

    Damage is detected only if simplejpeg is installed, and only if it makes codes invalid.

    Returns:
        None if OpenCV must decode: another format, other colours than grey or YCbCr, a size above OpenCV's limit, or a
        warning of libjpeg that does not mean damage.

    Raises:
        UnreadableImageError: If libjpeg's warning means damage.
    """
    if simplejpeg is None or not content.startswith(_JPEG):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if height * width > _LARGEST_IMAGE:
            return None
        if colours not in _SAME_COLOURS:  # only look for damage, at an eighth of the resolution
            simplejpeg.decode_jpeg(content, "GRAY", min_height=1, min_width=1, min_factor=8)
            return None
        return np.asarray(simplejpeg.decode_jpeg(content, "BGR" if bgr else "RGB"), np.uint8)
    except ValueError as error:
        if _DAMAGE.search(str(error)):
            raise UnreadableImageError(f"is damaged: {error} ({len(content)} bytes)") from error
        return None


def is_truncated(content: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end marker. Bytes after the marker are ignored."""
    if content.startswith(_JPEG):
        return not _has_jpeg_end(content)
    return content.startswith(_PNG) and not _has_png_end(content)


def _has_jpeg_end(content: bytes) -> bool:
    """Whether there is an end marker outside the segments. A thumbnail in a segment has an end marker of its own."""
    position = len(_JPEG)
    while found := _MARKER.search(content, position):
        if found[1][0] == _END_OF_IMAGE:
            return True
        position = found.end()
        if found[1][0] not in _WITHOUT_SEGMENT:
            position += int.from_bytes(content[position : position + 2], "big")
    return False


def _has_png_end(content: bytes) -> bool:
    position = len(_PNG)
    while position < len(content):
        if content[position + 4 : position + 8] == b"IEND":
            return True
        position += 12 + int.from_bytes(content[position : position + 4], "big")
    return False
