"""The command writes the same store from images in the layout of FiftyOne's zoo and in COCO's."""

import json
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

import cache
from precompute.__main__ import main
from precompute.data.folder import find_split, to_coco_split
from precompute.errors import PrecomputeError
from tests.support import tiny_precompute

ZOO = {"train": "train", "val": "validation"}


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    """One data set in COCO's layout and in the zoo's; the images of `val` are those of `train` upside down."""
    tiny = tiny_precompute.write(tmp_path_factory.mktemp("tiny"))
    coco, zoo = tmp_path_factory.mktemp("coco"), tmp_path_factory.mktemp("coco-2017")
    for split, folder in ZOO.items():
        name, images = f"person_keypoints_{split}2017.json", coco / f"{split}2017"
        shutil.copytree(tiny / "images", images)
        for path in images.iterdir() if split == "val" else ():
            cv2.imwrite(str(path), cv2.imread(str(path))[::-1])
        shutil.copytree(images, zoo / folder / "data")
        (zoo / folder / "labels.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
        for annotations in (coco / "annotations" / name, zoo / "raw" / name):
            annotations.parent.mkdir(exist_ok=True)
            shutil.copy(tiny / "annotations/person_keypoints_train.json", annotations)
    for other in ("captions", "instances"):  # the zoo keeps COCO's other annotations in the same folder
        (zoo / f"raw/{other}_val2017.json").write_text("{}")
    (zoo / "info.json").write_text(json.dumps({"name": "coco-2017", "zoo_dataset": "fiftyone.zoo.datasets"}))
    return tiny / "teacher.safetensors", coco, zoo


def command(checkpoint, data, store):
    flags = ["--teacher", "hrnet_w16_sample", "--input-size", "128x96", "--precision", "fp32", "--batch-size", "4"]
    return ["--data", str(data), "--split", "val", "--checkpoint", str(checkpoint), "--store", str(store), *flags]


def test_a_store_of_the_zoos_layout_is_that_of_cocos(layouts, tmp_path):
    checkpoint, coco, zoo = layouts
    assert main(command(checkpoint, coco, tmp_path / "plain.zarr")) == 0
    typed = [sys.executable, "-m", "precompute", *command(checkpoint, zoo, tmp_path / "zoo.zarr")]
    subprocess.run(typed, check=True, capture_output=True, timeout=240)
    plain, found = cache.open_store(tmp_path / "plain.zarr"), cache.open_store(tmp_path / "zoo.zarr")
    rows = range(len(plain))
    assert len(found) == len(plain) == 11
    np.testing.assert_array_equal(found.heatmaps(rows), plain.heatmaps(rows))
    assert plain.heatmaps(rows).max() > 0.1
    assert [found.frame(i) for i in rows] == [plain.frame(i) for i in rows]
    for name in ("frame_affine", "view_affine", "view_flip"):
        np.testing.assert_array_equal(getattr(found, name), getattr(plain, name))
    for one, other in ((found.instances, plain.instances), (found.ground_truth, plain.ground_truth)):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[column], other[column]) for column in one)
    assert found.manifest["content_sha256"] == plain.manifest["content_sha256"]
    assert found.manifest["provenance"]["dataset"] == plain.manifest["provenance"]["dataset"]


def test_fiftyones_name_of_a_split_makes_the_same_store(layouts, tmp_path):
    checkpoint, coco, zoo = layouts
    for name, data in (("val", coco), ("validation", zoo)):
        words = command(checkpoint, data, tmp_path / f"{name}.zarr")
        words[words.index("--split") + 1] = name
        assert main([*words, "--limit", "2"]) == 0
    one, other = (cache.open_store(tmp_path / f"{name}.zarr").manifest for name in ("val", "validation"))
    assert one["content_sha256"] == other["content_sha256"]
    assert one["provenance"]["dataset"] == other["provenance"]["dataset"]
    assert other["provenance"]["dataset"]["split"] == "val"


def test_a_folder_whose_own_files_say_validation_is_read_under_either_name(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/person_keypoints_validation.json").write_text("{}")
    (tmp_path / "validation").mkdir()
    assert find_split(tmp_path, to_coco_split("validation")).images == tmp_path / "validation"
    assert (to_coco_split("train"), to_coco_split("val"), to_coco_split("mine")) == ("train", "val", "mine")


def test_a_layout_without_its_images_does_not_hide_one_that_has_them(tmp_path):
    for name in ("annotations/person_keypoints_val2017.json", "annotations/person_keypoints_val.json", "images/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    found = find_split(tmp_path, "val")
    assert (found.images.name, found.annotations.name) == ("images", "person_keypoints_val.json")


def test_compressed_annotations_are_found_where_the_plain_file_is_not_there(tmp_path):
    for name in ("annotations/person_keypoints_val2017.json.gz", "val2017/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert find_split(tmp_path, "val").annotations.name == "person_keypoints_val2017.json.gz"
    (tmp_path / "annotations/person_keypoints_val2017.json").write_text("{}")
    assert find_split(tmp_path, "val").annotations.name == "person_keypoints_val2017.json"


def test_each_split_has_its_own_pictures(layouts):
    _, _, zoo = layouts
    train, val = find_split(zoo, "train"), find_split(zoo, "val")
    assert (train.images.name, val.images.name) == ("data", "data")
    assert (train.images / "000.jpg").read_bytes() != (val.images / "000.jpg").read_bytes()


def test_a_zoo_without_the_splits_pictures_says_which_folder_it_wants(layouts, tmp_path):
    _, _, zoo = layouts
    shutil.copytree(zoo / "raw", tmp_path / "raw")
    with pytest.raises(PrecomputeError, match=r"val2017\.json exists, but its images do not.* none of validation/data/"):
        find_split(tmp_path, "val")
