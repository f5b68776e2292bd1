"""Annotated names find their files in every form of Unicode, and images are read or refused in one line."""

import struct
import unicodedata
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlib.images import UnreadableImageError, decode_image
from kdlib.inputs.names import find_other_case, locate, missing_files
from kdlib.inputs.orientation import UPRIGHT
from tests.support import oriented

NFC = unicodedata.normalize("NFC", "Zoë/naïve 가.jpg")
NFD = unicodedata.normalize("NFD", NFC)
SCENE = np.random.default_rng(0).integers(0, 256, (12, 20, 3)).astype(np.uint8)


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


@pytest.mark.parametrize(("on_disk", "annotated"), [(NFC, NFD), (NFD, NFC), (NFC, NFC), (NFD, NFD)])
def test_a_name_is_found_in_both_unicode_forms(tmp_path, on_disk, annotated):
    touch(tmp_path, on_disk)
    assert missing_files(tmp_path, [annotated, annotated.replace("/", "\\"), f"./{annotated}"]) == []
    assert locate(tmp_path, annotated).read_text() == on_disk


def test_the_exact_name_comes_first_and_an_ambiguous_one_is_missing(tmp_path):
    touch(tmp_path, NFC, NFD, "a\\b.jpg", "a/b.jpg")
    assert locate(tmp_path, NFC).read_text() == NFC
    assert locate(tmp_path, NFD).read_text() == NFD
    assert locate(tmp_path, "a\\b.jpg").read_text() == "a\\b.jpg"
    mixed = NFC.split("/")[0] + "/" + NFD.split("/")[1]
    assert locate(tmp_path, mixed) == tmp_path / mixed  # two folders have this name in one form
    assert missing_files(tmp_path, [mixed]) == [mixed]


def test_another_case_is_missing_and_named(tmp_path):
    touch(tmp_path, "Train/IMG_1.JPG")
    assert missing_files(tmp_path, ["train/img_1.jpg", "none.jpg", "train\\img_1.jpg"]) == [
        "none.jpg",
        "train/img_1.jpg",
        "train\\img_1.jpg",
    ]
    assert find_other_case(tmp_path, "train/img_1.jpg") == "Train/IMG_1.JPG"
    assert find_other_case(tmp_path, "none.jpg") is None


def test_a_folder_is_no_file_and_odd_names_are_missing(tmp_path):
    (tmp_path / "a.jpg").mkdir()
    names = ["a.jpg", "", ".", "../", "b/../c", "x" * 300, "nul\0"]
    assert missing_files(tmp_path, names) == sorted(names)


# --- decoding ---------------------------------------------------------------------------------------------------------


def header(width, height):
    """A PNG whose header announces a size, and which holds almost nothing."""
    start = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(10))
    chunks = oriented.chunk(b"IHDR", start) + oriented.chunk(b"IDAT", pixels) + oriented.chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("size", [(60_000, 60_000), (2_000_000, 1), (2**31 - 1, 2**31 - 1)])
def test_a_size_beyond_opencvs_limits_is_an_unreadable_image(size):
    with pytest.raises(UnreadableImageError, match=r"^(cannot be decoded by OpenCV \(.+; |is not an image).*bytes\)$"):
        decode_image(header(*size))


def png_of(depth, colour, rows, *chunks):
    """A PNG of a few rows of bytes, each behind its filter byte."""
    width = 8 * len(rows[0]) // ({0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] * depth)
    start = oriented.chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0))
    data = oriented.chunk(b"IDAT", zlib.compress(b"".join(b"\0" + bytes(row) for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + start + b"".join(chunks) + data + oriented.chunk(b"IEND", b"")


def test_every_kind_of_pixel_becomes_eight_bit_rgb():
    """16 bits, a palette, one bit, grey with transparency, colour with transparency."""
    deep = decode_image(png_of(16, 2, [[200, 0, 100, 0, 50, 0], [0, 255, 0, 255, 0, 255]]))
    np.testing.assert_array_equal(deep, [[[200, 100, 50]], [[0, 0, 0]]])
    palette = oriented.chunk(b"PLTE", bytes([9, 8, 7, 200, 100, 50]))
    np.testing.assert_array_equal(decode_image(png_of(8, 3, [[1, 0]], palette)), [[[200, 100, 50], [9, 8, 7]]])
    np.testing.assert_array_equal(decode_image(png_of(1, 0, [[0b10000001]]))[0, :, 1], [255, *[0] * 6, 255])
    np.testing.assert_array_equal(decode_image(png_of(8, 4, [[70, 0, 80, 255]])), [[[70] * 3, [80] * 3]])
    np.testing.assert_array_equal(decode_image(png_of(8, 6, [[1, 2, 3, 0]])), [[[1, 2, 3]]])
    assert decode_image(oriented.png(SCENE[:, :1])).shape == (12, 1, 3)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(["png", "jpeg", "webp", "tiff"]), st.data())
def test_damage_anywhere_gives_an_image_or_one_line(kind, data):
    """No byte of a file makes the decoder raise another error, in any orientation."""
    block = oriented.exif(data.draw(st.integers(0, 9)))
    content = bytearray(
        {
            "png": lambda: oriented.png(SCENE, block),
            "jpeg": lambda: oriented.jpeg(SCENE, oriented.app1(block)),
            "webp": lambda: oriented.webp(SCENE, block),
            "tiff": lambda: oriented.tiff(SCENE, 6),
        }[kind]()
    )
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    try:
        image = decode_image(damaged, orientation=UPRIGHT.to_decode(damaged)[0])
    except UnreadableImageError as error:
        image, lines = None, str(error).splitlines()
    assert lines[1:] == [] if image is None else (image.ndim, image.dtype) == (3, np.uint8)


@pytest.mark.parametrize("suffix", [".pfm", ".hdr"])
def test_images_of_fractions_are_refused_by_their_content(suffix):
    content = cv2.imencode(suffix, SCENE[..., ::-1].astype(np.float32) / 255)[1].tobytes()
    with pytest.raises(UnreadableImageError, match="floating-point numbers without a fixed range; convert it"):
        decode_image(content)
