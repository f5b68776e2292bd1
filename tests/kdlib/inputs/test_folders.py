"""Images are found by their content: every readable one, none of the litter, and what is left out is counted."""

import os
import tempfile
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlib.errors import InputError
from kdlib.inputs.folders import find_images, identify, is_image
from kdlib.inputs.image_files import ImageFileError
from kdlib.inputs.notices import Notices
from tests.support import oriented

SCENE = np.random.default_rng(0).integers(0, 256, (40, 48, 3)).astype(np.uint8)
FLAT = np.full((40, 48, 3), [255, 0, 0], np.uint8)  # RGB; every format holds this colour
BOX = b"\0\0\0\x18ftyp"


def encoded(suffix, pixels=FLAT):
    return cv2.imencode(suffix, pixels[..., ::-1])[1].tobytes()


READABLE = {
    "JPEG": encoded(".jpg"),
    "PNG": encoded(".png"),
    "BMP": encoded(".bmp"),
    "WebP": encoded(".webp"),
    "TIFF": encoded(".tiff"),
    "GIF": encoded(".gif"),
    "JPEG 2000": encoded(".jp2"),
    "PNM": encoded(".ppm"),
}
if cv2.haveImageWriter("a.avif"):  # not in every build
    READABLE["AVIF"] = encoded(".avif")
UNREADABLE = {
    "HEIC": BOX + b"heic\0\0\0\0mif1heic" + bytes(80),
    "JPEG XL": b"\xff\x0a" + bytes(80),
    "Photoshop": b"8BPS\0\1" + bytes(80),
}
OTHERS = {
    "text": b"P3 people were here, BM 4\n",
    "JSON": b'{"images": []}',
    "MP4": BOX + b"isom\0\0\2\0isomavc1" + bytes(80),
    "AppleDouble": b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(80),
    "empty": b"",
    "thumbs": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(80),
}


@pytest.fixture
def folder(tmp_path):
    def write(files):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return tmp_path

    return write


@pytest.mark.parametrize("kind", READABLE)
def test_an_image_is_one_whatever_its_suffix(folder, kind):
    names = ["a", "b.txt", "c.jpg", "d.JFIF", "e.weird.name"]
    root = folder(dict.fromkeys(names, READABLE[kind]))
    images = find_images(root)
    assert [image.name for image in images] == names
    for image in images:
        assert is_image(image.path)
        assert np.abs(image.read()[..., ::-1].astype(int) - FLAT).max() <= 4
    assert identify(READABLE[kind][:64]) == kind


@pytest.mark.parametrize("kind", UNREADABLE)
def test_an_image_that_opencv_cannot_read_is_counted_or_refused_by_name(folder, kind):
    root = folder({"1.jpg": READABLE["JPEG"], "IMG_2.HEIC": UNREADABLE[kind], "sub/3.jpg": UNREADABLE[kind]})
    notices = Notices()
    assert [image.name for image in find_images(root, notices=notices)] == ["1.jpg"]
    (line,) = notices.lines()
    assert line.startswith("image files that OpenCV cannot read here, left out; convert them to JPEG or PNG: 2 (")
    assert f"IMG_2.HEIC ({kind}), sub/3.jpg ({kind})" in line
    with pytest.raises(InputError, match=rf"3\.jpg is a {kind} image, which OpenCV cannot read here; convert it"):
        is_image(root / "sub/3.jpg")
    (root / "1.jpg").unlink()
    with pytest.raises(InputError, match=rf"contains no image that OpenCV can read here, but IMG_2\.HEIC \({kind}\)"):
        find_images(root)


def test_camera_raw_files_are_not_taken_for_the_thumbnails_in_them(folder):
    root = folder({"a.NEF": READABLE["TIFF"], "b.dng": READABLE["TIFF"], "c.tif": READABLE["TIFF"], "d.raf": b"FUJI"})
    notices = Notices()
    assert [image.name for image in find_images(root, notices=notices)] == ["c.tif"]
    assert list(notices.to_json().values()) == [3]


LITTER = [
    "._1.jpg",
    ".hidden/2.jpg",
    "__MACOSX/._3.jpg",
    "__MACOSX/3.jpg",
    "@eaDir/4.jpg/SYNOPHOTO_THUMB_M.jpg",
    "sub/@eaDir/4.jpg",
    ".ipynb_checkpoints/5-checkpoint.jpg",
    ".thumbnails/6.jpg",
    ".@__thumb/default7.jpg",
    ".Trash-1000/files/8.jpg",
    "#recycle/9.jpg",
    "@Recycle/10.jpg",
    "$RECYCLE.BIN/11.jpg",
]


def test_litter_is_skipped_and_ids_stay(folder):
    root = folder(dict.fromkeys(["000139.jpg", "sub/000785.jpg", *LITTER], READABLE["JPEG"]))
    folder({"Thumbs.db": OTHERS["thumbs"], ".DS_Store": b"\0\0\0\1Bud1", "sub/labels.json": OTHERS["JSON"]})
    notices = Notices()
    found = find_images(root, notices=notices)
    assert [(image.name, image.number) for image in found] == [("000139.jpg", 139), ("sub/000785.jpg", 785)]
    assert not notices


def test_unfinished_downloads_and_backups_are_left_out_and_counted(folder):
    names = ["000785.jpg.part", "1.jpg~", "~$000139.jpg", "sub/2.JPG.BAK", "000785.jpg.crdownload"]
    root = folder(dict.fromkeys(["000139.jpg", "old.bak/000785.jpg", *names], READABLE["JPEG"]))
    folder({"notes.txt~": b"text"})
    notices = Notices()
    assert [image.number for image in find_images(root, notices=notices)] == [139, 785]
    (line,) = notices.lines()
    assert line.startswith("images named like unfinished downloads, temporary files or backups, left out: 5 (")


def test_only_hidden_images_are_no_images_and_a_hidden_source_is_searched(folder):
    root = folder({".a/1.jpg": READABLE["JPEG"]})
    with pytest.raises(InputError, match="contains no images; hidden files and folders are not searched"):
        find_images(root)
    assert [image.name for image in find_images(root / ".a")] == ["1.jpg"]


def test_broken_links_and_pipes_are_no_images_and_links_to_images_are(folder):
    root = folder({"a.jpg": READABLE["JPEG"]})
    (root / "b.jpg").symlink_to(root / "none.jpg")
    (root / "c.jpg").symlink_to(root / "a.jpg")
    os.mkfifo(root / "d.jpg")
    assert [image.name for image in find_images(root)] == ["a.jpg", "c.jpg"]


def test_images_are_sorted_folder_by_folder(folder):
    names = ["a/2.jpg", "a-b/1.jpg", "a.jpg", "B/1.jpg"]
    root = folder(dict.fromkeys(names, READABLE["JPEG"]))
    assert [image.name for image in find_images(root)] == [p.as_posix() for p in sorted(map(Path, names))]


def test_a_single_gif_is_an_image_and_an_animation_a_video(folder):
    frames = cv2.Animation()
    frames.frames = [np.dstack([FLAT, FLAT[..., 0]]), np.dstack([SCENE, FLAT[..., 0]])]
    frames.durations = np.array([100, 100], np.int32)
    done, content = cv2.imencodeanimation(".gif", frames)
    assert done
    root = folder({"one.gif": READABLE["GIF"], "two.gif": content.tobytes()})
    assert is_image(root / "one.gif")
    assert not is_image(root / "two.gif")
    images = find_images(root)
    assert [image.name for image in images] == ["one.gif", "two.gif"]
    assert np.abs(images[1].read().astype(int) - FLAT).max() <= 4  # its first frame


def test_what_is_no_image_is_told_from_a_damaged_one(folder):
    root = folder({"a.jpg": OTHERS["text"], "b.avi": OTHERS["text"]})
    assert is_image(root / "a.jpg")
    assert not is_image(root / "b.avi")
    with pytest.raises(ImageFileError, match=r"a\.jpg is not an image that OpenCV can read"):
        find_images(root)[0].read()


# --- property ---------------------------------------------------------------------------------------------------------

STEMS = st.sampled_from(["1", "000139", "img", "Zoë", unicodedata.normalize("NFD", "Zoë"), "two words", "x.y"])
SUFFIXES = st.sampled_from(["", ".jpg", ".JPG", ".jpeg", ".png", ".heic", ".txt", ".gif", ".dat", ".tif"])
PLACES = st.sampled_from(["", "", "", "sub/", "sub/deep/", "@eaDir/", ".cache/", "__MACOSX/", "sub/.Trash-1/"])
TURNED = {
    "png": lambda o: oriented.png(oriented.unview(SCENE, o), oriented.exif(o, ">")),
    "webp": lambda o: oriented.webp(oriented.unview(SCENE, o), oriented.exif(o)),
    "tiff": lambda o: oriented.tiff(oriented.unview(SCENE, o), o),
}
CONTENTS = st.one_of(
    st.tuples(st.just("flat"), st.sampled_from(sorted(READABLE))),
    st.tuples(st.just("scene"), st.sampled_from(sorted(TURNED)), st.integers(1, 8)),
    st.tuples(st.just("unreadable"), st.sampled_from(sorted(UNREADABLE))),
    st.tuples(st.just("other"), st.sampled_from(sorted(OTHERS))),
    st.tuples(st.just("cut"), st.sampled_from(["JPEG", "PNG"]), st.floats(0.3, 0.95)),
)
LISTINGS = st.dictionaries(st.builds("{}{}{}".format, PLACES, STEMS, SUFFIXES), CONTENTS, min_size=1, max_size=8)
KNOWN = (".jpg", ".jpeg", ".png", ".heic", ".gif", ".tif")


def write_content(kind):
    match kind:
        case ("flat", name):
            return READABLE[name]
        case ("scene", name, orientation):
            return TURNED[name](orientation)
        case ("cut", name, share):
            return READABLE[name][: int(share * len(READABLE[name]))]
        case (group, name):
            return (UNREADABLE if group == "unreadable" else OTHERS)[name]


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(LISTINGS)
def test_a_folder_gives_its_images_upright_and_names_the_others(listing):
    """Whatever lies in a folder, under whatever name: right pixels, one line, or not an image."""
    with tempfile.TemporaryDirectory() as name:
        root, notices = Path(name), Notices()
        for path, kind in listing.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(write_content(kind))
        visible = {p: k for p, k in listing.items() if not any(x in p for x in ("@eaDir", ".cache", "__MACOSX", ".T"))}
        left_out = {p for p, kind in visible.items() if kind[0] == "unreadable"}
        expected = {
            p
            for p, kind in visible.items()
            if kind[0] in ("flat", "scene", "cut") or (kind[0] == "other" and p.lower().endswith(KNOWN))
        }
        if not expected:
            with pytest.raises(InputError, match="contains no image") as refusal:
                find_images(root, notices=notices)
            assert "\n" not in str(refusal.value)
            return
        found = find_images(root, notices=notices)
        assert {image.name for image in found} == expected
        assert sum(notices.to_json().values()) == len(left_out)
        for image in found:
            kind = visible[image.name][0]
            if kind in ("other", "cut"):
                with pytest.raises(ImageFileError, match=r"is truncated|is not an image that OpenCV can read") as error:
                    image.read()
                assert "\n" not in str(error.value)
            elif kind == "scene":
                np.testing.assert_array_equal(image.read()[..., ::-1], SCENE)
            else:
                assert np.abs(image.read()[..., ::-1].astype(int) - FLAT).max() <= 4
