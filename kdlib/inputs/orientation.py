"""The orientation of image files: how their pixels must be turned for viewing, and whether annotations refer to that.

Cameras store the pixels as the sensor gives them, and the turn beside them, as the EXIF tag 274. Of two annotation
tools one shows the image turned, the other as it is stored, so that only the annotated size tells to which of the two
the coordinates refer. `ExifRule` decides this for every command.

`find_orientation` reads JPEG, PNG (eXIf), WebP and TIFF: the formats whose EXIF orientation OpenCV applies. Only a few
hundred bytes of a file are read. The first orientation of a file counts; XMP is not read.
"""

import dataclasses
import os
import struct
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Self

from kdcli import system
from kdlib.errors import KdlibError
from kdlib.inputs.notices import Notices

MODES: Final = ("auto", "apply", "ignore")
"""Values of ``--exif``."""
_RULES: Final = [(mode, fallback) for mode in MODES for fallback in MODES[1:]]
ENTRY: Final = "exif"
"""Name of the rule in the entry ``preprocessing`` of a store's provenance."""
SCAN_THREADS: Final = 16
"""Threads that read headers. More than cores, because most of the time is the disk's."""
_BATCH: Final = 64
"""Files that a thread reads in one go."""
Size = tuple[int, int]
"""Width and height in pixels."""
Read = Callable[[int, int], bytes]
"""Reads n bytes from a position of a file, or fewer at its end."""
_BLOCK: Final = 8192
"""Bytes that are read at once from the beginning of a file."""
_MOST_PARTS: Final = 100_000
"""Segments or chunks of a file that are looked at: 800 MB of a PNG in chunks of 8 KB."""
_MOST_EXIF: Final = 1 << 16
"""Bytes of EXIF data that are read; the first directory is at its beginning."""
_MOST_TAGS: Final = 1 << 16
"""Tags of a directory that are read; a TIFF cannot have more."""
_EXIF: Final = b"Exif\0\0"
_ORIENTATION, _WIDTH, _HEIGHT = 0x112, 0x100, 0x101
"""Tags of TIFF and EXIF."""
_INVERSE: Final = {6: 8, 8: 6}
"""The orientation that undoes another one; all others undo themselves."""


@dataclasses.dataclass(frozen=True)
class Orientation:
    """An orientation other than upright."""

    value: int
    """2 to 8, as EXIF numbers them."""
    stored_size: Size
    """Size of the pixels as they are stored."""
    turned_by_opencv: bool = False
    """OpenCV applies the orientation of a TIFF in every case, even if it is asked not to."""

    @property
    def upright_size(self) -> Size:
        """Size of the image as viewers show it."""
        width, height = self.stored_size
        return (height, width) if self.value > 4 else (width, height)

    def to_decode(self, *, apply: bool) -> int:
        """The orientation to apply to the pixels that OpenCV decodes: 1 for none."""
        if self.turned_by_opencv:
            return 1 if apply else _INVERSE.get(self.value, self.value)
        return self.value if apply else 1

    def fitting(self, annotated: Size | None) -> bool | None:
        """Whether an annotated size is that of the upright image (True) or of the stored pixels (False).

        None if it is both or neither.
        """
        upright, stored = annotated == self.upright_size, annotated == self.stored_size
        return None if upright == stored else upright


# --- the rule ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ExifRule:
    """Decides whether the orientation of an image is applied.

    ``apply`` and ``ignore`` decide for every image. ``auto`` looks at the annotated size: if only the upright image has
    it, the orientation is applied; if only the stored pixels have it, the orientation is ignored. If both have it (half
    turns, mirror images, squares), or no size is annotated, ``fallback`` decides: what most other images of the data
    set need.
    """

    mode: str = "auto"
    """``auto``, ``apply`` or ``ignore``."""
    fallback: str = "apply"
    """``apply`` or ``ignore``."""

    def applies(self, orientation: Orientation, annotated: Size | None = None) -> bool:
        """Whether an image's orientation is applied.

        Args:
            orientation: The image's orientation.
            annotated: Its annotated width and height; None if there is none.
        """
        if self.mode != "auto":
            return self.mode == "apply"
        fitting = orientation.fitting(annotated)
        return self.fallback == "apply" if fitting is None else fitting

    def to_decode(self, content: bytes, annotated: Size | None = None) -> tuple[int, Orientation | None]:
        """Find the orientation to decode an image file with.

        Args:
            content: The bytes of the file.
            annotated: The image's annotated width and height; None if there is none.

        Returns:
            The orientation for `kdlib.images.decode_image`, and the orientation of the file, None if it is upright.
        """
        orientation = find_orientation(content)
        if orientation is None:
            return 1, None
        return orientation.to_decode(apply=self.applies(orientation, annotated)), orientation

    @classmethod
    def from_provenance(cls, provenance: Any) -> Self | None:
        """The rule of a store; None if its images are used as OpenCV decodes them without their orientation.

        Raises:
            KdlibError: If the store names a rule that does not exist.
        """
        entry = provenance.get("preprocessing", {}).get(ENTRY)
        if entry is None:
            return None
        rule = (entry.get("mode"), entry.get("fallback")) if isinstance(entry, dict) else None
        if rule not in _RULES:
            raise KdlibError(f"the store's rule for EXIF orientations is {entry}; modes are {', '.join(MODES)}")
        return cls(*rule)


UPRIGHT: Final = ExifRule("apply")
"""The rule for images without annotations."""


@dataclasses.dataclass(frozen=True)
class Orientations:
    """What a rule does to the images of a data set."""

    rule: ExifRule
    applied: list[str]
    """Names of the images whose orientation is applied."""
    ignored: list[str]
    """Names of the images whose orientation is ignored."""
    undecided: list[str]
    """Names of those among both whose size does not tell; `ExifRule.fallback` decided."""

    def to_json(self) -> dict[str, Any] | None:
        """The entry of the manifest; None if every image is upright."""
        if not self.applied and not self.ignored:
            return None
        counts = {name: len(getattr(self, name)) for name in ("applied", "ignored", "undecided")}
        return {**dataclasses.asdict(self.rule), **counts}

    def report(self, notices: Notices, *, annotated: bool = True) -> None:
        """Add what was done to the notices.

        Args:
            notices: Receives one kind for images that were turned, one for those that were not, and one for those whose
                size does not tell, of which it also warns.
            annotated: Whether sizes are annotated, so that they could tell.
        """
        kinds = {
            "images turned by their EXIF orientation": self.applied,
            "images used as stored, without their EXIF orientation": self.ignored,
            "images with an EXIF orientation that their annotated size does not confirm, taken as "
            f"--exif {self.rule.fallback}": self.undecided if annotated else [],
        }
        for kind, names in kinds.items():
            notices.add_all(kind, names)
        if annotated and self.undecided:
            notices.warn(
                f"{len(self.undecided)} images have an EXIF orientation that their annotated size does not confirm, "
                f"e.g. {self.undecided[0]}; taken as --exif {self.rule.fallback}: check whether its labels are turned"
            )


def survey(paths: Iterable[tuple[str, Path, Size | None]], mode: str, fallback: str | None = None) -> Orientations:
    """Read the orientation of the images of a data set in threads, and decide what is done with it.

    Args:
        paths: Name, path and annotated size of each image. A file that cannot be read counts as upright: reading its
            pixels will report it.
        mode: ``auto``, ``apply`` or ``ignore``.
        fallback: ``apply`` or ``ignore`` where sizes do not tell; None takes what most other images need, or ``apply``
            if no size tells.
    """
    images = list(paths)
    batches = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
    with ThreadPoolExecutor(SCAN_THREADS, "orientation") as pool:
        read = pool.map(lambda batch: [read_orientation(path) for _, path, _ in batch], batches)
        found = [orientation for batch in read for orientation in batch]
    turned = [
        (name, orientation, size)
        for (name, _, size), orientation in zip(images, found, strict=True)
        if orientation is not None
    ]
    fitting = [orientation.fitting(size) for _, orientation, size in turned]
    if fallback is None:
        fallback = mode if mode != "auto" else "ignore" if fitting.count(False) > fitting.count(True) else "apply"
    rule = ExifRule(mode, fallback)
    applied = {name for name, orientation, size in turned if rule.applies(orientation, size)}
    names = [name for name, _, _ in turned]
    undecided = [name for name, fits in zip(names, fitting, strict=True) if fits is None] if mode == "auto" else []
    return Orientations(rule, [n for n in names if n in applied], [n for n in names if n not in applied], undecided)


# --- headers ----------------------------------------------------------------------------------------------------------


def read_orientation(path: Path) -> Orientation | None:
    """The orientation of an image file; None if it is upright, or cannot be read."""
    try:
        descriptor = system.open_to_read(path)
    except (OSError, ValueError):
        return None
    try:
        start = system.read_at(descriptor, _BLOCK, 0)

        def read(position: int, count: int) -> bytes:
            inside = start[position : position + count]
            return inside if len(inside) == count else system.read_at(descriptor, count, position)

        return _find(read)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def find_orientation(content: bytes) -> Orientation | None:
    """The orientation of an image file from its bytes; None if it is upright."""
    return _find(lambda position, count: content[position : position + count])


def _find(read: Read) -> Orientation | None:
    start = read(0, 12)
    try:
        if start.startswith(b"\xff\xd8"):
            return _in_jpeg(read)
        if start.startswith(b"\x89PNG\r\n\x1a\n"):
            return _in_png(read)
        if start.startswith(b"RIFF") and start[8:] == b"WEBP":
            return _in_webp(read)
        if start.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
            return _in_tiff(read)
    except struct.error:  # the file ends within its header
        pass
    return None


def _upright_or(value: int | None, size: Size | None, *, tiff: bool = False) -> Orientation | None:
    return None if value is None or value == 1 or size is None else Orientation(value, size, tiff)


def _in_jpeg(read: Read) -> Orientation | None:
    """Walk over the segments up to the coded pixels; the first Exif segment with an orientation counts."""
    position, value, size = 2, None, None
    for _ in range(_MOST_PARTS):
        head = read(position, 9)
        if len(head) < 4:
            break
        if head[0] != 0xFF or head[1] in (0x00, 0xFF):  # padding, or bytes that belong to no segment
            position += 1
            continue
        marker, length = head[1], int.from_bytes(head[2:4], "big")
        if marker in (0xD9, 0xDA):
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # without length
            position += 2
            continue
        if marker == 0xE1 and value is None and read(position + 4, 6) == _EXIF:
            value = _exif_orientation(read(position + 10, max(0, length - 8)))
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", head, 5)
            size = width, height
        position += 2 + max(2, length)
    return _upright_or(value, size)


def _in_png(read: Read) -> Orientation | None:
    """Walk over the chunks; eXIf may be before or after the pixels."""
    position, size = 8, None
    for _ in range(_MOST_PARTS):
        head = read(position, 8)
        if len(head) < 8:
            break
        length, name = struct.unpack(">I4s", head)
        if name == b"IHDR":
            width, height = struct.unpack(">II", read(position + 8, 8))
            size = width, height
        elif name == b"eXIf":
            return _upright_or(_exif_orientation(read(position + 8, min(length, _MOST_EXIF))), size)
        elif name == b"IEND":
            break
        position += 12 + length
    return None


def _in_webp(read: Read) -> Orientation | None:
    """Walk over the RIFF chunks. Only the extended format (VP8X) can hold EXIF data."""
    position, size = 12, None
    for _ in range(_MOST_PARTS):
        head = read(position, 8)
        if len(head) < 8:
            break
        name, length = struct.unpack("<4sI", head)
        if name == b"VP8X":
            body = read(position + 8, 10)
            size = 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
        elif name == b"EXIF":
            return _upright_or(_exif_orientation(read(position + 8, min(length, _MOST_EXIF))), size)
        position += 8 + length + length % 2
    return None


def _in_tiff(read: Read) -> Orientation | None:
    tags = _read_tags(read)
    size = tags.get(_WIDTH), tags.get(_HEIGHT)
    return None if None in size else _upright_or(_valid(tags.get(_ORIENTATION)), size, tiff=True)  # type: ignore[arg-type]


def _exif_orientation(data: bytes) -> int | None:
    """The orientation in a block of EXIF data, a TIFF of tags; PNG and WebP may repeat the name of the JPEG segment."""
    data = data.removeprefix(_EXIF)
    try:
        return _valid(_read_tags(lambda position, count: data[position : position + count]).get(_ORIENTATION))
    except struct.error:
        return None


def _valid(orientation: int | None) -> int | None:
    return orientation if orientation is not None and 1 <= orientation <= 8 else None


def _read_tags(read: Read) -> dict[int, int]:
    """Orientation, width and height in the first directory of a TIFF; raises struct.error if it is incomplete."""
    order, big = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}.get(
        read(0, 4), ("", False)
    )
    if not order:
        return {}
    # BigTIFF: positions and counts have 8 bytes, and an entry has 20 bytes instead of 12
    at, position, counts, head = (8, "Q", "Q", "HHQ") if big else (4, "I", "H", "HHI")
    length, value_at = (20, 12) if big else (12, 8)
    (start,) = struct.unpack(order + position, read(at, struct.calcsize("=" + position)))
    (count,) = struct.unpack(order + counts, read(start, struct.calcsize("=" + counts)))
    entries = read(start + struct.calcsize("=" + counts), length * min(count, _MOST_TAGS))
    tags = dict[int, int]()
    for entry in range(0, len(entries), length):
        tag, kind, number = struct.unpack_from(order + head, entries, entry)
        if tag in (_ORIENTATION, _WIDTH, _HEIGHT) and kind in (3, 4) and number == 1:  # SHORT, LONG
            (value,) = struct.unpack_from(order + "HI"[kind - 3], entries, entry + value_at)
            tags.setdefault(tag, value)
    return tags
