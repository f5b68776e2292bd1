"""Images with an EXIF orientation, odd names, and files that cannot be read, from the annotations to the store."""

import json
import shutil
import unicodedata

import cv2
import numpy as np
import pytest

import cache
from kdlib.samples.dataset import StoreDataset
from precompute.__main__ import main
from precompute.data.folder import Split
from precompute.data.selection import select
from precompute.errors import PrecomputeError
from precompute.run import job
from tests.support import oriented, tiny_precompute
from tests.support.tiny_precompute import command

QUARTERS = [6, 8, 5, 7, 6, 8]
ANNOTATIONS = "annotations/person_keypoints_train.json"


def pixels_of(data):
    """The upright pixels of each image, RGB."""
    return {path.name: cv2.imread(str(path), cv2.IMREAD_COLOR_RGB) for path in sorted((data / "images").iterdir())}


def variant(data, folder, contents):
    """The same data set with other image files of the same names."""
    shutil.copytree(data, folder)
    for name, content in contents.items():
        (folder / "images" / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The data set, its images without loss and without orientation."""
    root = tmp_path_factory.mktemp("data")
    data = tiny_precompute.write(root / "original")
    return variant(data, root / "plain", {name: oriented.png(pixels) for name, pixels in pixels_of(data).items()})


@pytest.fixture(scope="module")
def reference(plain, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "plain.zarr"
    assert main(command(plain, path)) == 0
    return cache.open_store(path)


def turned(plain, folder, orientations, *, upright=True):
    """The data set with orientations in its files; the labels are those of the upright images, or of the stored ones."""
    stored = {}
    for (name, pixels), orientation in zip(pixels_of(plain).items(), orientations, strict=True):
        pixels = oriented.unview(pixels, orientation) if upright else pixels
        stored[name] = oriented.png(pixels, oriented.exif(orientation))
    return variant(plain, folder, stored)


def entry(store):
    return store.manifest["provenance"]["preprocessing"].get("exif")


def test_a_set_without_orientations_has_no_entry(reference):
    assert entry(reference) is None


@pytest.mark.parametrize(("upright", "key"), [(True, "applied"), (False, "ignored")])
def test_labels_of_either_kind_give_the_store_of_the_plain_images(plain, reference, tmp_path, capsys, upright, key):
    data = turned(plain, tmp_path / "data", QUARTERS, upright=upright)
    assert main(command(data, tmp_path / "s.zarr", "--skip-missing")) == 0
    store = cache.open_store(tmp_path / "s.zarr")
    assert store.manifest["content_sha256"] == reference.manifest["content_sha256"]
    counts = {"applied": 0, "ignored": 0, "undecided": 0, key: 6}
    assert entry(store) == {"mode": "auto", "fallback": "apply" if upright else "ignore", **counts}
    assert "their EXIF orientation: 6 (" in capsys.readouterr().err
    samples = StoreDataset(store, images=data / "images")  # a trainer that reads the folder obeys the store's rule
    expected = StoreDataset(reference, images=plain / "images")
    for i in range(len(expected)):
        np.testing.assert_array_equal(samples[i]["image"], expected[i]["image"])


def test_half_turns_follow_the_others_and_a_flag_decides_for_all(plain, reference, tmp_path):
    data = turned(plain, tmp_path / "follow", [6, 3, 2, 8, 4, 3], upright=False)
    assert main(command(data, tmp_path / "follow.zarr")) == 0
    store = cache.open_store(tmp_path / "follow.zarr")
    assert entry(store) == {"mode": "auto", "fallback": "ignore", "applied": 0, "ignored": 6, "undecided": 4}
    assert store.manifest["content_sha256"] == reference.manifest["content_sha256"]


def test_a_store_keeps_its_rule_when_it_is_resumed_or_checked(plain, tmp_path, capsys):
    """Half turns of images whose labels refer to the stored pixels: nothing but the flag can tell."""
    data, path = turned(plain, tmp_path / "data", [3, 2, 4, 3, 1, 3], upright=False), tmp_path / "s.zarr"
    assert main(command(data, path, "--exif", "ignore")) == 0
    assert main(command(data, path, "--check", "4")) == 0
    assert main(command(data, path, "--resume")) == 0
    capsys.readouterr()
    assert main(command(data, path, "--resume", "--exif", "apply")) == 1
    assert "preprocessing.exif" in capsys.readouterr().err
    assert main(command(data, path, "--check", "4", "--exif", "auto")) == 1
    assert "was made with other preprocessing" in capsys.readouterr().err


def test_a_store_of_an_earlier_version_is_checked_without_orientations(plain, tmp_path, monkeypatch):
    data, path = turned(plain, tmp_path / "data", [3] * 6, upright=False), tmp_path / "s.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(job, "choose_exif", lambda arguments: None)
        assert main(command(data, path)) == 0
    assert entry(cache.open_store(path)) is None
    assert main(command(data, path, "--check", "4")) == 0
    assert main(command(data, path, "--resume")) == 0


# --- names ------------------------------------------------------------------------------------------------------------


def rename(data, annotated, on_disk):
    """Give the images other names: in the annotations, and on disk."""
    document = json.loads((data / ANNOTATIONS).read_text())
    for image in document["images"]:
        target = data / "images" / on_disk(image["file_name"])
        target.parent.mkdir(parents=True, exist_ok=True)
        (data / "images" / image["file_name"]).rename(target)
        image["file_name"] = annotated(image["file_name"])
    (data / ANNOTATIONS).write_text(json.dumps(document))
    return Split(data / "images", data / ANNOTATIONS)


def test_names_in_another_unicode_form_and_with_backslashes_are_found(plain, tmp_path):
    data = shutil.copytree(plain, tmp_path / "data")
    rename(
        data,
        lambda name: unicodedata.normalize("NFC", f"zoë\\{name}"),
        lambda name: unicodedata.normalize("NFD", f"zoë/{name}"),
    )
    assert main(command(data, tmp_path / "s.zarr", "--no-frames")) == 0
    store = cache.open_store(tmp_path / "s.zarr")
    assert all(name.startswith("zoë\\0") for name in store.instances["file_name"])
    assert len(StoreDataset(store, images=data / "images")[0]["image"]) == 128


def test_missing_images_are_named_with_their_ids_and_another_case(plain, tmp_path):
    split = rename(shutil.copytree(plain, tmp_path / "data"), lambda name: f"a/{name}", lambda name: f"A/{name}")
    with pytest.raises(PrecomputeError) as refusal:
        select(split)
    assert "6 of 6 images are missing in" in str(refusal.value)
    assert "a/000.jpg (image 50), a/001.png (image 49)" in str(refusal.value)
    assert "a/000.jpg is annotated, and the file is A/000.jpg: make upper and lower case the same" in str(refusal.value)


def test_an_image_beyond_opencvs_limits_is_skipped_like_any_other(plain, tmp_path, capsys):
    content = bytearray(oriented.png(np.zeros((9, 9, 3), np.uint8)))
    content[16:33] = oriented.chunk(b"IHDR", (60_000).to_bytes(4, "big") * 2 + content[24:29])[8:]
    data = variant(plain, tmp_path / "data", {"003.jpg": content})
    assert main(command(data, tmp_path / "s.zarr")) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "error: annotation 70" in error
    assert "003.jpg cannot be decoded by OpenCV (pixels <= CV_IO_MAX_IMAGE_PIXELS; " in error
    assert main(command(data, tmp_path / "s.zarr", "--resume", "--skip-missing")) == 0
    assert int(cache.open_store(tmp_path / "s.zarr").written.sum()) == 9


@pytest.mark.parametrize("name", ["{images}/{name}", "../images/{name}", "a/..\\{name}"])
def test_a_name_that_leaves_the_image_folder_is_refused_with_file_and_image(plain, tmp_path, capsys, name):
    data = shutil.copytree(plain, tmp_path / "data")
    document = json.loads((data / ANNOTATIONS).read_text())
    image = document["images"][0]
    image["file_name"] = name.format(images=data / "images", name=image["file_name"])
    (data / ANNOTATIONS).write_text(json.dumps(document))
    assert main(command(data, tmp_path / "s.zarr")) == 1
    error = capsys.readouterr().err
    assert f"{data / ANNOTATIONS}: image {image['id']} has the file_name" in error
    assert "it must be relative to the image folder" in error
    assert error.count("\n") == 1


def test_a_missing_name_of_any_length_gives_one_short_line(plain, tmp_path):
    data = shutil.copytree(plain, tmp_path / "data")
    document = json.loads((data / ANNOTATIONS).read_text())
    document["images"][0]["file_name"], document["images"][1]["file_name"] = "x" * 5000, "a\nb.png"
    (data / ANNOTATIONS).write_text(json.dumps(document))
    with pytest.raises(PrecomputeError, match=r"are missing in .*'a\\nb.png' \(image .*xxx\.\.\. \(image") as caught:
        select(Split(data / "images", data / ANNOTATIONS))
    assert len(str(caught.value)) < 1000
