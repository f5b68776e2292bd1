"""The orientation of files is read as OpenCV reads it, and one rule decides whether it is applied."""

import cv2
import numpy as np
import pytest

from kdlib.errors import KdlibError
from kdlib.images import decode_image, turn
from kdlib.inputs.image_files import ImageFileError, read_image_file
from kdlib.inputs.notices import Notices
from kdlib.inputs.orientation import (
    UPRIGHT,
    ExifRule,
    Orientation,
    find_orientation,
    read_orientation,
    survey,
)
from tests.support import oriented
from tests.support.oriented import ORIENTATIONS, app1, exif

SCENE = np.random.default_rng(0).integers(0, 256, (12, 20, 3)).astype(np.uint8)
XMP = oriented.segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta tiff:Orientation='8'/>")


def opencv(content):
    """The image as OpenCV shows it, RGB."""
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)


FILES = {
    "JPEG": lambda o: oriented.jpeg(SCENE, app1(exif(o))),
    "JPEG, big endian": lambda o: oriented.jpeg(SCENE, app1(exif(o, ">"))),
    "JPEG, XMP first": lambda o: oriented.jpeg(SCENE, XMP, app1(exif(o))),
    "JPEG, JFIF and comment first": lambda o: oriented.jpeg(SCENE, oriented.segment(0xFE, b"ab"), app1(exif(o))),
    "JPEG, two Exif segments": lambda o: oriented.jpeg(SCENE, app1(exif(o)), app1(exif(1))),
    "JPEG, empty Exif first": lambda o: oriented.jpeg(SCENE, app1(b""), app1(exif(o))),
    "JPEG, truncated Exif first": lambda o: oriented.jpeg(SCENE, app1(b"II*\0\xff\xff\0\0"), app1(exif(o))),
    "JPEG, other tags first": lambda o: oriented.jpeg(SCENE, app1(exif(o, before=3))),
    "JPEG, a long number": lambda o: oriented.jpeg(SCENE, app1(exif(o, kind=4))),
    "JPEG, fill bytes": lambda o: oriented.jpeg(SCENE, b"\xff\xff" + app1(exif(o))),
    "JPEG, a large segment first": lambda o: oriented.jpeg(SCENE, oriented.segment(0xE2, bytes(65000)), app1(exif(o))),
    "PNG": lambda o: oriented.png(SCENE, exif(o)),
    "PNG, behind the pixels": lambda o: oriented.png(SCENE, exif(o, ">"), behind=True),
    "PNG, named block": lambda o: oriented.png(SCENE, b"Exif\0\0" + exif(o)),
    "WebP": lambda o: oriented.webp(SCENE, exif(o)),
    "WebP, named block": lambda o: oriented.webp(SCENE, b"Exif\0\0" + exif(o)),
    "TIFF": lambda o: oriented.tiff(SCENE, o),
    "TIFF, big endian": lambda o: oriented.tiff(SCENE, o, ">"),
    "TIFF, 64-bit positions": lambda o: oriented.bigtiff(SCENE, o),
    "TIFF, 64-bit positions, big endian": lambda o: oriented.bigtiff(SCENE, o, ">"),
    "TIFF, 16 bits": lambda o: oriented.tiff(SCENE.astype(np.uint16) * 257, o),
}


@pytest.mark.parametrize("kind", FILES)
def test_both_uses_of_a_file_are_right_in_every_orientation(kind, tmp_path):
    """Upright as OpenCV shows it, and as it is stored; the header alone gives both sizes."""
    for orientation in ORIENTATIONS:
        content = FILES[kind](orientation)
        (tmp_path / "file").write_bytes(content)
        found = read_orientation(tmp_path / "file")
        assert found == find_orientation(content)
        assert (found.value, found.stored_size) == (orientation, (20, 12))
        upright = decode_image(content, orientation=found.to_decode(apply=True))
        stored = decode_image(content, orientation=found.to_decode(apply=False))
        if "named" not in kind:  # OpenCV skips blocks with the name of the JPEG segment, which other programs read
            np.testing.assert_array_equal(upright, opencv(content))
        np.testing.assert_array_equal(upright, oriented.view(stored, orientation))
        assert upright.shape[1::-1] == found.upright_size
        if not kind.startswith("JPEG"):
            np.testing.assert_array_equal(stored, SCENE)


@pytest.mark.parametrize("orientation", [0, 1, 9, 65535])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP"])
def test_what_is_no_turn_leaves_a_file_as_it_is(kind, orientation):
    content = FILES[kind](orientation)
    assert find_orientation(content) is None
    np.testing.assert_array_equal(decode_image(content), opencv(content))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF"])
def test_a_file_that_ends_within_its_header_has_no_orientation(kind, tmp_path):
    content = FILES[kind](6)
    whole = find_orientation(content)
    for length in range(0, len(content), 1 if kind == "JPEG" else 3):
        assert find_orientation(content[:length]) in (None, whole)
    assert read_orientation(tmp_path) is None
    assert read_orientation(tmp_path / "none") is None


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_pixels_are_turned_as_the_standard_says(orientation):
    np.testing.assert_array_equal(turn(SCENE, orientation), oriented.view(SCENE, orientation))
    four = np.dstack([SCENE, SCENE[..., 0]])
    np.testing.assert_array_equal(turn(four, orientation), oriented.view(four, orientation))


def rule_for(*images, mode="auto", folder):
    """The survey of images given by orientation and annotated size; their stored pixels are 20x12, or 12x12."""
    files = []
    for i, (orientation, size, square) in enumerate(images):
        (folder / f"{i}.png").write_bytes(oriented.png(SCENE[:, :12] if square else SCENE, exif(orientation)))
        files.append((f"{i}.png", folder / f"{i}.png", size))
    return survey(files, mode)


def test_the_annotated_size_decides_and_the_majority_where_it_cannot(tmp_path):
    """Quarter turns tell; half turns, mirror images and squares do not."""
    upright, stored, half, square = (6, (12, 20), 0), (8, (20, 12), 0), (3, (20, 12), 0), (6, (12, 12), 1)
    found = rule_for(upright, upright, stored, half, square, (1, (20, 12), 0), folder=tmp_path)
    assert found.rule == ExifRule("auto", "apply")
    assert (found.applied, found.ignored) == (["0.png", "1.png", "3.png", "4.png"], ["2.png"])
    assert found.undecided == ["3.png", "4.png"]
    found.report(notices := Notices())
    (line,) = notices.warnings
    assert line.startswith("2 images have an EXIF orientation that their annotated size does not confirm, e.g. 3.png;")
    assert found.to_json() == {"mode": "auto", "fallback": "apply", "applied": 4, "ignored": 1, "undecided": 2}
    found = rule_for(upright, stored, stored, half, square, folder=tmp_path)
    assert found.rule == ExifRule("auto", "ignore")
    assert (found.applied, found.undecided) == (["0.png"], ["3.png", "4.png"])
    notices = Notices()
    found.report(notices)
    assert sorted(notices.to_json().values()) == [1, 2, 4]
    assert any("taken as --exif ignore: 2 (3.png, 4.png)" in line for line in notices.lines())


@pytest.mark.parametrize("images", [[(3, (20, 12), 0)], [(6, None, 0)], [(6, (9, 9), 0)]])
def test_where_nothing_tells_the_orientation_is_applied_and_counted(tmp_path, images):
    found = rule_for(*images, folder=tmp_path)
    assert found.to_json() == {"mode": "auto", "fallback": "apply", "applied": 1, "ignored": 0, "undecided": 1}


def test_a_set_of_upright_images_has_no_entry_and_a_mode_decides_for_all(tmp_path):
    assert rule_for((1, (20, 12), 0), folder=tmp_path).to_json() is None
    for mode in ("apply", "ignore"):
        found = rule_for((6, (12, 20), 0), (6, (20, 12), 0), mode=mode, folder=tmp_path)
        assert found.to_json()[{"apply": "applied", "ignore": "ignored"}[mode]] == 2
        assert found.undecided == []


def test_an_image_is_read_in_the_orientation_of_its_labels(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(oriented.png(oriented.unview(SCENE, 6), exif(6)))
    np.testing.assert_array_equal(read_image_file(path, (20, 12), UPRIGHT), SCENE)
    np.testing.assert_array_equal(read_image_file(path, (20, 12), ExifRule("auto", "ignore")), SCENE)
    np.testing.assert_array_equal(read_image_file(path, (12, 20), ExifRule()), oriented.unview(SCENE, 6))
    np.testing.assert_array_equal(read_image_file(path, (12, 20)), oriented.unview(SCENE, 6))
    sizes = r"a\.png is 12x20, or 20x12 turned by its EXIF orientation, but annotated as "
    with pytest.raises(ImageFileError, match=sizes + "30x20: images and annotations belong to different data sets"):
        read_image_file(path, (30, 20), ExifRule())
    with pytest.raises(ImageFileError, match=sizes + "20x12: give --exif auto"):
        read_image_file(path, (20, 12), ExifRule("ignore", "ignore"))


@pytest.mark.parametrize("entry", [5, [], "auto", {}, {"mode": "auto"}, {"mode": ["auto"], "fallback": "apply"}])
def test_a_store_with_an_unknown_rule_is_refused(entry):
    with pytest.raises(KdlibError, match="the store's rule for EXIF orientations is"):
        ExifRule.from_provenance({"preprocessing": {"exif": entry}})
    assert ExifRule.from_provenance({}) is None


def test_a_half_turn_undoes_itself_and_quarter_turns_undo_each_other():
    for value in ORIENTATIONS:
        found = Orientation(value, (20, 12), turned_by_opencv=True)
        assert found.to_decode(apply=True) == 1
        np.testing.assert_array_equal(turn(turn(SCENE, value), found.to_decode(apply=False)), SCENE)
