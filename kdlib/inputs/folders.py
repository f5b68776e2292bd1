"""Finds images to predict on: one file, or the files in a folder and below it.

A file is an image by its content, whatever its suffix. Image files that OpenCV cannot read, e.g. HEIC, are left out and
counted, and so are images with the name of a temporary file or a backup. Files that operating systems and tools leave
beside images are skipped: hidden files and folders, and the folders in `LITTER`. Pixels are BGR, as OpenCV reads them.
"""

import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from kdlib.errors import InputError
from kdlib.images import UnreadableImageError, decode_image
from kdlib.inputs.image_files import ImageFileError
from kdlib.inputs.notices import Notices
from kdlib.inputs.orientation import UPRIGHT, ExifRule

HEAD_BYTES: Final = 64
"""Bytes from the beginning of a file that `identify` needs."""
SURE: Final = frozenset({"JPEG", "PNG", "BMP", "WebP", "TIFF"})
"""Formats that every build of OpenCV reads."""
UNREADABLE: Final = frozenset({"HEIC", "JPEG XL", "Photoshop", "OpenEXR", "Radiance HDR", "PFM", "camera raw"})
"""Formats that OpenCV does not read, or not as 8-bit pixels that a network can use."""
IMAGE_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif", ".avif", ".heic"}
    | {".heif", ".jp2", ".j2k", ".pbm", ".pgm", ".ppm", ".pnm"}
)
"""Suffixes of files that are images even if their content is not: they are damaged."""
_RAW_SUFFIXES: Final = frozenset(
    {".dng", ".nef", ".nrw", ".cr2", ".cr3", ".arw", ".sr2", ".orf", ".rw2", ".pef", ".srw", ".raf", ".3fr", ".iiq"}
)
"""Files of cameras. Many are TIFF files whose first page is a thumbnail."""
_SIGNATURES: Final = (
    ("JPEG", re.compile(rb"\xff\xd8\xff")),
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("GIF", re.compile(rb"GIF8[79]a")),
    ("WebP", re.compile(rb"RIFF.{4}WEBP", re.DOTALL)),
    ("TIFF", re.compile(rb"II[*+]\0|MM\0[*+]")),
    ("BMP", re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL)),
    ("JPEG 2000", re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51")),
    ("PNM", re.compile(rb"P[1-6]\s+(#|\d+\s+\d+\s)|P7\n")),
    ("Sun raster", re.compile(rb"\x59\xa6\x6a\x95")),
    ("JPEG XL", re.compile(rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n")),
    ("Photoshop", re.compile(rb"8BPS\0[\1\2]")),
    ("OpenEXR", re.compile(rb"v/1\x01")),
    ("Radiance HDR", re.compile(rb"#\?(RADIANCE|RGBE)")),
    ("PFM", re.compile(rb"P[Ff]\n-?\d+ \d+\n")),
)
_HEIC_BRANDS: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
"""Brands of HEIF files; those of an AVIF are asked for first, because AVIF files may also have ``mif1``."""
_UNFINISHED: Final = (".part", ".partial", ".crdownload", ".download", ".tmp", ".bak", "~")
"""Ends of the names that programs give to downloads in progress, temporary files and backups."""
LITTER: Final = frozenset(
    {"__macosx", "@eadir", "@recycle", "#recycle", "$recycle.bin", "#snapshot", "@recently-snapshot", "lost+found"}
    | {"system volume information", "__pycache__", "@__thumb"}
)
"""Folders, in lower case, that archives (macOS), network disks (Synology, QNAP) and systems make; not searched."""


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """An image file that has not been read yet."""

    path: Path
    name: str
    """Path relative to the source folder, or the file's name."""
    number: int | None
    """COCO's image id if the file name is a number, e.g. 139 of 000000000139.jpg."""

    def read(self, exif: ExifRule = UPRIGHT, annotated: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Read the pixels (H, W, 3) uint8 BGR.

        Args:
            exif: Decides whether the orientation is applied.
            annotated: Annotated width and height; None if there is none.

        Raises:
            ImageFileError: If the file is missing, truncated, or not an image.
        """
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise ImageFileError(f"cannot read {self.path}: {error.strerror}") from error
        turn, _ = exif.to_decode(content, annotated)
        try:
            return decode_image(content, orientation=turn, bgr=True)
        except UnreadableImageError as error:
            raise ImageFileError(f"{self.path} {error}") from error


def is_image(path: Path) -> bool:
    """Whether a file is an image: its content is one, or its suffix is that of an image.

    An animated GIF is a video: its frames are all read.

    Raises:
        InputError: If the file is an image of a format that OpenCV cannot read here.
    """
    name = _format(path)
    if name is None:
        return path.suffix.lower() in IMAGE_SUFFIXES
    if not _is_readable(path, name):
        raise InputError(f"{path} is a {name} image, which OpenCV cannot read here; convert it to JPEG or PNG")
    return name != "GIF" or _frames(path) < 2


def find_images(source: Path, exclude: Path | None = None, notices: Notices | None = None) -> list[ImageFile]:
    """Find the image at a path, or all images in a folder and below it, sorted by name.

    Args:
        source: An image or a folder. Links to files are followed, links to folders are not.
        exclude: A folder that is left out if it lies below the source.
        notices: Receives the image files that OpenCV cannot read here, and the folders that cannot be searched.

    Raises:
        InputError: If there is no image.
    """
    if not source.exists():
        raise InputError(f"there is no image, folder or video at {source}")
    if not source.is_dir():
        return [ImageFile(source, source.name, _number(source.stem))]
    notices = Notices() if notices is None else notices
    left_out = None if exclude is None else exclude.resolve()
    names, unreadable = list[str](), list[str]()
    for name in _files(source, left_out, notices):
        path = source / name
        if not path.is_file():  # a broken link, a socket, a pipe
            continue
        found = _format(path)
        if found is not None and not _is_readable(path, found):
            unreadable.append(f"{name} ({found})")
        elif found is not None or path.suffix.lower() in IMAGE_SUFFIXES:
            names.append(name)
    for example in sorted(unreadable):
        notices.add("image files that OpenCV cannot read here, left out; convert them to JPEG or PNG", example)
    if not names:
        raise InputError(_describe_empty(source, exclude, sorted(unreadable)))
    names.sort(key=lambda name: name.split("/"))
    return [ImageFile(source / name, name, _number(Path(name).stem)) for name in names]


def _files(source: Path, left_out: Path | None, notices: Notices) -> Iterator[str]:
    """Yield the files below a folder that are neither hidden nor litter nor unfinished, as names relative to it."""

    def report(error: OSError) -> None:
        notices.add("folders that cannot be searched, left out", f"{error.filename}: {error.strerror}")

    root = source.resolve()
    for folder, folders, files in os.walk(source, onerror=report):
        inside = Path(folder).relative_to(source)
        folders[:] = [name for name in folders if not _is_litter(name) and root / inside / name != left_out]
        prefix = "" if inside == Path() else f"{inside.as_posix()}/"
        for name in files:
            if _is_unfinished(name):
                if _format(Path(folder) / name):
                    notices.add(
                        "images named like unfinished downloads, temporary files or backups, left out", prefix + name
                    )
            elif not _is_litter(name):
                yield prefix + name


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.casefold() in LITTER


def _is_unfinished(name: str) -> bool:
    """Whether a file has the name of a download in progress, a temporary file or a backup."""
    return name.startswith("~$") or name.casefold().endswith(_UNFINISHED)


def _describe_empty(source: Path, exclude: Path | None, unreadable: list[str]) -> str:
    """Why a folder gives no image."""
    if unreadable:
        rest = f" and {len(unreadable) - 3} more" if len(unreadable) > 3 else ""
        return (
            f"{source} contains no image that OpenCV can read here, but {', '.join(unreadable[:3])}{rest}; "
            "convert them to JPEG or PNG"
        )
    if exclude is not None and exclude.is_dir() and exclude.resolve().is_relative_to(source.resolve()):
        return f"{source} contains no images except the drawings in {exclude}"
    return f"{source} contains no images; hidden files and folders are not searched"


def _format(path: Path) -> str | None:
    """The format of an image file; None if it is something else, not a file, or cannot be read."""
    try:
        with path.open("rb", buffering=0) as file:
            return identify(file.read(HEAD_BYTES) or b"", path.suffix)
    except OSError:
        return None


# --- formats ---------------------------------------------------------------------------------------------------------


def identify(head: bytes, suffix: str = "") -> str | None:
    """The name of an image file's format; None if it is something else.

    Args:
        head: The first `HEAD_BYTES` of the file, or the whole file if it is shorter.
        suffix: The suffix of its name. It tells camera raw files from the TIFF files that they contain.
    """
    name = next((name for name, signature in _SIGNATURES if signature.match(head)), None) or _identify_heif(head)
    return "camera raw" if suffix.lower() in _RAW_SUFFIXES and name in (None, "TIFF", "BMP") else name


def _identify_heif(head: bytes) -> str | None:
    """AVIF or HEIC by the brands in the first box of an ISO media file."""
    if head[4:8] != b"ftyp":
        return None
    length = int.from_bytes(head[:4], "big")
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, min(length, len(head)), 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    return "HEIC" if brands & _HEIC_BRANDS else None


def _is_readable(path: Path, name: str) -> bool:
    return name in SURE or (name not in UNREADABLE and cv2.haveImageReader(str(path)))


def _frames(path: Path) -> int:
    try:
        return int(cv2.imcount(str(path)))
    except cv2.error:
        return 1


def _number(stem: str) -> int | None:
    return int(stem) if stem.isascii() and stem.isdigit() else None
