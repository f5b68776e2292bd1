"""Image files with an orientation, written byte by byte: an independent reference for the reader."""

import struct
import zlib

import cv2
import numpy as np

ORIENTATIONS = range(2, 9)


def view(pixels, orientation):
    """What a viewer shows of stored pixels, from the text of the EXIF standard: where row 0 and column 0 are shown."""
    turned = {
        1: pixels,
        2: pixels[:, ::-1],  # row 0 at the top, column 0 at the right
        3: pixels[::-1, ::-1],  # bottom, right
        4: pixels[::-1],  # bottom, left
        5: pixels.swapaxes(0, 1),  # left, top
        6: np.rot90(pixels, -1),  # right, top
        7: pixels[::-1, ::-1].swapaxes(0, 1),  # right, bottom
        8: np.rot90(pixels, 1),  # left, bottom
    }
    return np.ascontiguousarray(turned[orientation])


def unview(pixels, orientation):
    """The stored pixels of which a viewer shows ``pixels``."""
    return view(pixels, {6: 8, 8: 6}.get(orientation, orientation))


def exif(orientation, order="<", kind=3, before=0):
    """A TIFF block with the tag Orientation.

    Args:
        orientation: Its value.
        order: ``<`` for little and ``>`` for big endian.
        kind: 3 for SHORT, 4 for LONG.
        before: Number of other tags before it.
    """
    value = struct.pack(order + "HH", orientation, 0) if kind == 3 else struct.pack(order + "I", orientation)
    tags = [struct.pack(order + "HHI4s", 0x10E, 2, 4, b"a\0\0\0")] * before
    tags.append(struct.pack(order + "HHI", 0x112, kind, 1) + value)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "IH", 8, len(tags)) + b"".join(tags) + bytes(4)


def segment(marker, body):
    """A segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def app1(block):
    return segment(0xE1, b"Exif\0\0" + block)


def jpeg(pixels, *segments):
    """A JPEG of RGB pixels with segments behind its first marker."""
    content = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    return content[:2] + b"".join(segments) + content[2:]


def chunk(name, body):
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(pixels, block=None, *, behind=False):
    """A PNG of RGB pixels with an eXIf chunk before or behind the pixels."""
    content = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
    if block is None:
        return content
    place = len(content) - 12 if behind else 33
    return content[:place] + chunk(b"eXIf", block) + content[place:]


def webp(pixels, block=None):
    """A lossless WebP of RGB pixels, in the extended format if it has an EXIF chunk."""
    content = cv2.imencode(".webp", pixels[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    if block is None:
        return content
    height, width = pixels.shape[:2]
    canvas = b"\x08\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"VP8X" + struct.pack("<I", 10) + canvas + content[12:]
    body += b"EXIF" + struct.pack("<I", len(block)) + block + bytes(len(block) % 2)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def tiff(pixels, orientation=1, order="<"):
    """An uncompressed TIFF of RGB pixels of 8 or 16 bits."""
    height, width, channels = pixels.shape
    data, bits = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes(), 8 * pixels.dtype.itemsize
    short, long = 3, 4
    tags = [
        (0x100, short, 1, width),
        (0x101, short, 1, height),
        (0x102, short, 3, 8),
        (0x103, short, 1, 1),
        (0x106, short, 1, 2),
        (0x111, long, 1, 16),
        (0x112, short, 1, orientation),
        (0x115, short, 1, channels),
        (0x116, short, 1, height),
        (0x117, long, 1, len(data)),
    ]
    entries = b""
    for tag, kind, count, value in tags:
        inline = kind == short and count == 1
        entries += struct.pack(order + ("HHIHxx" if inline else "HHII"), tag, kind, count, value)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 16 + len(data))
    return (
        head + struct.pack(order + "HHHxx", bits, bits, bits) + data + struct.pack(order + "H", 10) + entries + bytes(4)
    )


def bigtiff(pixels, orientation=1, order="<"):
    """An uncompressed BigTIFF of RGB pixels of 8 bits: positions and counts of 8 bytes."""
    height, width, channels = pixels.shape
    data = pixels.tobytes()
    samples = int.from_bytes(struct.pack(order + "HHHH", 8, 8, 8, 0), "little" if order == "<" else "big")
    tags = [
        (0x100, 3, 1, width),
        (0x101, 3, 1, height),
        (0x102, 3, 3, samples),
        (0x103, 3, 1, 1),
        (0x106, 3, 1, 2),
        (0x111, 4, 1, 16),
        (0x112, 3, 1, orientation),
        (0x115, 3, 1, channels),
        (0x116, 4, 1, height),
        (0x117, 4, 1, len(data)),
    ]
    kinds = {(3, 1): "H6x", (4, 1): "I4x", (3, 3): "Q"}
    entries = b"".join(
        struct.pack(order + "HHQ" + kinds[kind, count], tag, kind, count, value) for tag, kind, count, value in tags
    )
    head = (b"II+\0" if order == "<" else b"MM\0+") + struct.pack(order + "HHQ", 8, 0, 16 + len(data))
    return head + data + struct.pack(order + "Q", len(tags)) + entries + bytes(8)
