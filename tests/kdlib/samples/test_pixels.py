"""Images of every kind are decoded as by Pillow or refused with a clear message, with and without simplejpeg."""

import io
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from kdlib import images
from kdlib import images as encoded_image
from kdlib.errors import BadRecordError
from kdlib.images import UnreadableImageError, decode_image, is_truncated
from kdlib.samples import pixels
from tests.support.shared_data import COCO_REAL, needs_coco
from tests.support.stores.people import IMAGE_SIZE, make_store
from tests.support.tiny_training import command, results
from train.__main__ import main

TURNED = Image.Exif()
TURNED[0x112] = 6  # a viewer turns it by 90 degrees; annotations are of the pixels as they are


def scene(width=IMAGE_SIZE[0], height=IMAGE_SIZE[1]):
    """An image without symmetry: gradients of colour and a red block."""
    y, x = np.mgrid[0:height, 0:width]
    colours = np.stack([x, y * 1.5, (x + y) / 2], axis=-1).clip(0, 255).astype(np.uint8)
    colours[20:40, 30:60] = 250, 20, 10
    return Image.fromarray(colours)


def encoded(picture, kind="JPEG", **options):
    memory = io.BytesIO()
    picture.save(memory, kind, **options)
    return memory.getvalue()


def translucent():
    picture = scene().convert("RGBA")
    picture.putalpha(100)
    return picture


def thumbnailed():
    """A JPEG with a thumbnail, a second JPEG with its own end marker, in a segment before its pixels."""
    plain, inner = encoded(scene()), encoded(scene(32, 24))
    return plain[:2] + b"\xff\xe1" + (len(inner) + 2).to_bytes(2, "big") + inner + plain[2:]


JPEG = {
    "plain": encoded(scene(), quality=90),
    "progressive": encoded(scene(), progressive=True),
    "4:4:4": encoded(scene(), subsampling=0),
    "grey": encoded(scene().convert("L")),
    "CMYK": encoded(scene().convert("CMYK"), quality=95),
    "turned by EXIF": encoded(scene(), exif=TURNED),
    "with a thumbnail": thumbnailed(),
    "with bytes behind its end": encoded(scene()) + b"more" * 3000,
    "with bytes before its end": encoded(scene())[:-2] + b"camera" * 9 + b"\xff\xd9",
    "with padding between segments": encoded(scene()).replace(b"\xff\xdb", b"\xff\xff\xff\xdb", 1),
    "with restart markers": encoded(scene(), restart_marker_blocks=3),
}
OTHERS = {
    "PNG": encoded(scene(), "PNG"),
    "PNG with alpha": encoded(translucent(), "PNG"),
    "PNG grey with alpha": encoded(translucent().convert("LA"), "PNG"),
    "PNG with a palette": encoded(scene().convert("P"), "PNG"),
    "PNG of 16 bits": cv2.imencode(".png", np.asarray(scene(), np.uint16)[:, :, ::-1] * 257)[1].tobytes(),
    "WebP": encoded(scene(), "WEBP"),
    "BMP": encoded(scene(), "BMP"),
}
WHOLE = JPEG | OTHERS
CUT = {name: WHOLE[name] for name in ("plain", "progressive", "grey", "CMYK", "with a thumbnail", "PNG", "WebP", "BMP")}


def without_simplejpeg(monkeypatch):
    for module in (pixels, encoded_image):
        monkeypatch.setattr(module, "simplejpeg", None)


@pytest.fixture(params=["simplejpeg", "OpenCV"])
def decoder(request, monkeypatch):
    if request.param == "OpenCV":
        without_simplejpeg(monkeypatch)
    else:
        pytest.importorskip("simplejpeg")
    return request.param


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "people.zarr", 2)


@pytest.fixture(params=["frame", "image"])
def read(request, store, tmp_path):
    """A function that reads an image as the loader does, from its store or from a folder of images."""

    def read_content(content):
        if request.param == "frame":
            return pixels.frame_pixels(store, 0, content)
        (tmp_path / store.instances["file_name"][0]).write_bytes(content)
        return pixels.image_pixels(store, 0, tmp_path)

    return read_content


@pytest.mark.parametrize("kind", WHOLE)
def test_a_whole_picture_is_what_pillow_makes_of_it(kind, decoder, read):
    """CMYK may differ by one grey level. EXIF orientation and transparency are ignored."""
    opened = Image.open(io.BytesIO(WHOLE[kind]))
    expected = np.asarray(opened.convert("RGB"), np.int16)
    found = read(WHOLE[kind])
    assert found.shape == (*expected.shape[:2], 4)
    assert np.abs(found[:, :, :3] - expected).max() <= (1 if kind == "CMYK" else 0)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, "end"])
@pytest.mark.parametrize("kind", CUT)
def test_a_truncated_picture_is_refused_and_named(kind, share, decoder, read):
    """Libjpeg would return an image that is grey below some row."""
    content = CUT[kind]
    kept = content[: -2 if share == "end" else int(len(content) * share)]
    with pytest.raises(BadRecordError, match=rf"^row 0 of .*people\.zarr: .* is .*{len(kept)} bytes") as refusal:
        read(kept)
    assert "get the file again" in str(refusal.value) or "make the store again" in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"no image", b"GIF8", bytes(3000)])
def test_what_is_no_picture_is_refused(content, decoder, read):
    with pytest.raises(BadRecordError, match=r"is truncated|is not an image that OpenCV can read"):
        read(content)


def test_a_file_that_lost_its_second_half_to_zeros_is_refused(decoder, read):
    """An interrupted download can leave a file of the right size."""
    content = JPEG["plain"]
    with pytest.raises(BadRecordError, match="is truncated"):
        read(content[: len(content) // 2].ljust(len(content), b"\0"))


def damaged(content, share=0.4):
    """A JPEG with zeros over a share of its coded pixels, from their middle on."""
    begin = content.rfind(b"\xff\xda")
    middle, nothing = (begin + len(content)) // 2, bytes(int(share * (len(content) - begin)))
    return content[:middle] + nothing + content[middle + len(nothing) :]


@pytest.mark.parametrize("kind", ["plain", "grey", "CMYK", "4:4:4", "with a thumbnail", "turned by EXIF"])
def test_damage_within_a_jpeg_is_refused_and_named_where_simplejpeg_is_installed(kind, read):
    pytest.importorskip("simplejpeg")
    content = damaged(JPEG[kind])
    assert not is_truncated(content)
    with pytest.raises(BadRecordError, match=r"^row 0 of .*people\.zarr: .* is damaged: Corrupt JPEG data: .* again$"):
        read(content)
    with pytest.raises(UnreadableImageError, match=rf"^is damaged: .* \({len(content)} bytes\)$"):
        decode_image(content)


def test_a_run_over_a_folder_with_a_damaged_picture_names_it_or_replaces_it(tmp_path, capsys):
    pytest.importorskip("simplejpeg")
    for name in ("train.zarr", "val.h5"):
        store = make_store(tmp_path / name, 6, frames=False)
    for name in set(store.instances["file_name"]):
        (tmp_path / name).write_bytes(JPEG["plain"])
    (tmp_path / "val").mkdir()
    for name in set(store.instances["file_name"]):
        (tmp_path / "val" / name).write_bytes(JPEG["plain"])
    (tmp_path / "001.jpg").write_bytes(damaged(JPEG["plain"]))
    folders = {"images": tmp_path, "val_images": tmp_path / "val"}
    assert main(command(tmp_path, tmp_path / "stops", **folders)) == 1
    assert "001.jpg is damaged: Corrupt JPEG data: " in capsys.readouterr().err.splitlines()[-1]
    assert main(command(tmp_path, tmp_path / "goes on", **folders, skip_bad_records=True)) == 0
    assert "bad records so far" in capsys.readouterr().err


@needs_coco
def test_photographs_of_coco_are_not_taken_for_damaged_and_have_opencvs_pixels():
    photographs = sorted(COCO_REAL.rglob("*.jpg"))[::6]
    assert len(photographs) > 100
    for path in photographs:
        expected = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        np.testing.assert_array_equal(decode_image(path.read_bytes()), expected[:, :, ::-1], err_msg=path.name)
        np.testing.assert_array_equal(decode_image(path.read_bytes(), bgr=True), expected, err_msg=path.name)


def test_every_cut_of_a_jpeg_is_seen_and_no_whole_one_is_taken_for_cut():
    content = JPEG["with a thumbnail"]
    assert all(is_truncated(content[:length]) for length in range(2, len(content)))
    assert not any(is_truncated(content) for content in WHOLE.values())


@pytest.mark.parametrize("kind", JPEG)
def test_both_decoders_give_the_same_bytes(kind, monkeypatch):
    pytest.importorskip("simplejpeg")
    by_simplejpeg = pixels.decode(JPEG[kind]).copy()
    np.testing.assert_array_equal(by_simplejpeg[:, :, :3], decode_image(JPEG[kind]))
    monkeypatch.setattr(pixels, "simplejpeg", None)
    monkeypatch.setattr(images, "simplejpeg", None)
    np.testing.assert_array_equal(by_simplejpeg[:, :, :3], decode_image(JPEG[kind]))
    np.testing.assert_array_equal(pixels.decode(JPEG[kind])[:, :, :3], by_simplejpeg[:, :, :3])


def test_an_image_of_another_size_is_refused(store, tmp_path, decoder):
    (tmp_path / store.instances["file_name"][0]).write_bytes(encoded(scene(64, 48)))
    with pytest.raises(BadRecordError, match=r"000\.jpg is 64x48 and was annotated at another size, 200x150"):
        pixels.image_pixels(store, 0, tmp_path)


def test_a_picture_is_no_image_with_its_reason():
    with pytest.raises(UnreadableImageError, match=r"^is not an image that OpenCV can read \(8 bytes\)$"):
        decode_image(b"no image")


def test_without_simplejpeg_the_same_student_is_trained(tmp_path, monkeypatch):
    pytest.importorskip("simplejpeg")
    make_store(tmp_path / "train.zarr", 6)
    make_store(tmp_path / "val.h5", 3)
    assert main(command(tmp_path, tmp_path / "with")) == 0
    monkeypatch.setattr(pixels, "simplejpeg", None)
    assert main(command(tmp_path, tmp_path / "without")) == 0
    assert results(tmp_path / "with") == results(tmp_path / "without")


def test_the_trainer_starts_where_simplejpeg_is_not_installed():
    program = (
        "import sys\nsys.modules['simplejpeg'] = None\n"
        "from kdlib.samples import pixels\nfrom tests.kdlib.samples.test_pixels import JPEG\n"
        "print(pixels.simplejpeg, pixels.decode(JPEG['plain']).shape)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "None (150, 200, 4)", done.stderr
