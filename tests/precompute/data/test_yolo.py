"""YOLO-pose data sets: what is read from data.yaml, images and labels, and the annotations in COCO's format."""

import contextlib
import io
import json

import cv2
import numpy as np
import pytest
import pycocotools.coco

from kdlib.errors import InputError
from kdlib.skeletons.skeleton import COCO, Skeleton
from precompute.data.folder import choose_split, find_split
from precompute.data.selection import select
from precompute.data.yolo import convert, label_file
from precompute.errors import PrecomputeError
from tests.support import oriented

YAML = """path: .
train: images/train
val: [images/val, more.txt]
kpt_shape: [4, 3]
flip_idx: [1, 0, 2, 3]
names: {0: glove, 1: sock}
kpt_names: {0: [left_tip, right_tip, thumb, wrist]}
"""
ROWS = {
    "train/a/1.png": ["0 0.5 0.5 0.4 0.6 0.25 0.5 2 0.75 0.5 1 0.5 0.125 2 0 0 0"],
    "train/b.png": ["1 0.3 0.4 0.2 0.3 0.3 0.4 2 0.25 0.3 2 0.35 0.5 2 0.3 0.45 1", "", "0 0.5 0.5 0.1 0.1"],
    "train/empty.png": [],
    "val/c.png": ["0 0.5 0.5 0.5 0.5 0.5 0.5 2 0.5 0.5 2 0.5 0.5 2 0.5 0.5 2"],
    "more/d.png": ["0 0.25 0.5 0.5 0.5 0.5 0.5 2 0.5 0.5 2 0.5 0.5 2 0.5 0.5 2"],
}
SIZES = {name: (120 + 8 * place, 90 + place) for place, name in enumerate(ROWS)}


def write(root, text=YAML, rows=ROWS):
    root.mkdir()
    for name, lines in rows.items():
        image = root / "images" / name
        labels = root / "labels" / name.replace(".png", ".txt")
        for path in (image, labels):
            path.parent.mkdir(parents=True, exist_ok=True)
        width, height = SIZES[name]
        cv2.imwrite(str(image), np.zeros((height, width, 3), np.uint8))
        labels.write_text("\n".join(lines))
    (root / "more.txt").write_text("./images/more/d.png\n\n")
    (root / "data.yaml").write_text(text)
    return root / "data.yaml"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("yolo") / "set")


def test_labels_become_pixels_of_the_image_with_ids_in_the_order_of_names(data):
    found = convert(data, "train")
    assert found.images == data.parent / "images/train"
    images = found.document["images"]
    assert [(image["id"], image["file_name"]) for image in images] == [(1, "a/1.png"), (2, "b.png"), (3, "empty.png")]
    assert [(image["width"], image["height"]) for image in images] == list(SIZES.values())[:3]
    one, two, three = found.document["annotations"]
    width, height = SIZES["train/a/1.png"]
    np.testing.assert_allclose(one["bbox"], [0.3 * width, 0.2 * height, 0.4 * width, 0.6 * height], atol=1e-3)
    assert one["area"] == pytest.approx(0.4 * width * 0.6 * height, abs=1e-3)
    joints = np.reshape(one["keypoints"], (4, 3))
    np.testing.assert_allclose(joints[:, 0], [0.25 * width, 0.75 * width, 0.5 * width, 0], atol=1e-3)
    np.testing.assert_allclose(joints[:, 1], [0.5 * height, 0.5 * height, 0.125 * height, 0], atol=1e-3)
    np.testing.assert_array_equal(joints[:, 2], [2, 1, 2, 0])
    assert [(a["id"], a["image_id"], a["category_id"]) for a in (one, two, three)] == [(1, 1, 0), (2, 2, 1), (3, 2, 0)]
    assert not any(three["keypoints"])  # a line with a box alone
    assert [annotation["num_keypoints"] for annotation in (one, two, three)] == [3, 4, 0]
    assert found.notices.to_json() == {"areas computed from the box": 3}


def test_the_joints_have_the_names_and_flip_pairs_of_the_file(data):
    found = convert(data, "train")
    assert found.skeleton == Skeleton("glove", ("left_tip", "right_tip", "thumb", "wrist"), ((0, 1),))
    assert [entry["name"] for entry in found.document["categories"]] == ["glove", "sock"]
    assert {tuple(entry["keypoints"]) for entry in found.document["categories"]} == {found.skeleton.joints}


def test_a_split_may_be_folders_and_lists_of_images(data):
    found = convert(data, "val")
    assert found.images == data.parent / "images"
    assert [image["file_name"] for image in found.document["images"]] == ["more/d.png", "val/c.png"]


def test_all_classes_are_used_or_the_one_that_is_chosen(data):
    assert select(choose_split(data, "train", None, None)).instances.annotation_id.tolist() == [1, 2]
    split = choose_split(data, "train", None, None, category="Sock")
    assert select(split, category="Sock").instances.annotation_id.tolist() == [2]
    with pytest.raises(InputError, match=r"data\.yaml has no category named 'shoe'; it has 'glove', 'sock'"):
        select(choose_split(data, "train", None, None, category="shoe"), category="shoe")


def test_the_converted_file_is_what_pycocotools_reads_and_the_same_bytes_each_time(data, tmp_path):
    found = convert(data, "train")
    assert found.content == convert(data, "train").content
    (tmp_path / "a.json").write_bytes(found.content)
    with contextlib.redirect_stdout(io.StringIO()):
        file = pycocotools.coco.COCO(tmp_path / "a.json")
    assert len(file.getAnnIds(catIds=[0, 1])) == 3
    selection = select(choose_split(data, "train", None, None))
    kept = [file.anns[i]["keypoints"] for i in selection.instances.annotation_id.tolist()]
    np.testing.assert_allclose(selection.instances.keypoints.reshape(-1, 12), kept, rtol=1e-6)
    assert json.loads(found.content) == found.document


def test_without_visibility_a_joint_at_the_origin_is_not_labelled(tmp_path):
    rows = {"train/b.png": ["0 0.5 0.5 1 1 0 0 0.5 0.25 -1 -1 0 0.5"]}
    found = convert(write(tmp_path / "set", YAML.replace("[4, 3]", "[4, 2]"), rows), "train")
    joints = np.reshape(found.document["annotations"][0]["keypoints"], (4, 3))
    np.testing.assert_array_equal(joints[:, 2], [0, 2, 0, 2])
    np.testing.assert_array_equal(joints[[0, 2]], 0)


def test_joints_without_names_are_numbered_and_a_skeleton_names_them(tmp_path):
    path = write(tmp_path / "set", "\n".join(YAML.splitlines()[:-1]))
    found = convert(path, "train")
    assert found.skeleton.joints == ("joint_1", "joint_2", "joint_3", "joint_4")
    assert found.skeleton.flip_pairs == ((0, 1),)
    assert any("--skeleton" in kind for kind in found.notices.to_json())
    wanted = Skeleton("paw", ("a", "b", "c", "d"), limbs=((0, 3),))
    named = convert(path, "train", wanted)
    assert named.skeleton == wanted
    assert named.document["categories"][0] == {"id": 0, "name": "glove", "keypoints": ["a", "b", "c", "d"]} | {
        "skeleton": [[1, 4]]
    }
    with pytest.raises(PrecomputeError, match=r"4 joints \(kpt_shape\), and the skeleton coco has 17"):
        convert(path, "train", COCO)


@pytest.mark.parametrize("order", [1, -1])
def test_cocos_joints_are_cocos_in_either_order(tmp_path, order):
    joints = list(COCO.joints)[::order]
    flip = [joints.index(COCO.joints[COCO.flip_order[COCO.joints.index(joint)]]) for joint in joints]
    numbers = np.random.default_rng(0).uniform(0.2, 0.8, (17, 2)).round(3)
    row = "0 0.5 0.5 0.9 0.9 " + " ".join(f"{x} {y} 2" for x, y in numbers)
    text = f"train: images/train\nkpt_shape: [17, 3]\nflip_idx: {flip}\nnames: [person]\nkpt_names: {joints}\n"
    path = write(tmp_path / "set", text, {"train/b.png": [row]})
    selection = select(choose_split(path, "train", None, None))
    assert selection.skeleton == COCO
    np.testing.assert_allclose(
        selection.instances.keypoints[0, :, :2], (numbers * SIZES["train/b.png"])[::order], atol=1e-3
    )


def test_labels_of_a_turned_photograph_are_those_of_the_upright_image(tmp_path):
    path = write(tmp_path / "set")
    upright = np.zeros((90, 120, 3), np.uint8)
    image = path.parent / "images/train/a/1.png"
    image.write_bytes(oriented.png(oriented.unview(upright, 6), oriented.exif(6)))
    selection = select(choose_split(path, "train", None, None))
    assert selection.instances.image_size[0].tolist() == [120, 90]
    assert selection.orientations.applied == ["a/1.png"]


def test_labels_are_beside_the_last_folder_named_images(tmp_path):
    assert label_file(tmp_path / "images/x/images/train/1.a.jpg") == tmp_path / "images/x/labels/train/1.a.txt"
    assert label_file(tmp_path / "photos/1.jpg").parts[-2:] == ("photos", "1.txt")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("path: .", "path: ../../datasets/elsewhere"),
        ("path: .\n", ""),
        ("train: images/train", "train: ../images/train"),  # as Roboflow writes it
        ("train: images/train", "train: ./images/train/"),
    ],
)
def test_a_data_set_is_found_where_it_is(tmp_path, data, old, new):
    assert convert(write(tmp_path / "set", YAML.replace(old, new)), "train").content == convert(data, "train").content


@pytest.mark.parametrize(
    ("given", "is_noticed"), [("/nope", True), ("elsewhere", True), ("set", True), (".", False), ("", False)]
)
def test_a_path_without_the_images_is_noticed_when_they_lie_beside_the_file(tmp_path, given, is_noticed):
    """ultralytics refuses such a file; a data set that was moved has one. `set` exists, but has no images."""
    path = write(tmp_path / "set", YAML.replace("path: .", f"path: {given}"))
    (tmp_path / "set/set").mkdir()
    kind = "data sets whose images are not under `path`; they are read from the folder of the YAML file"
    assert (kind in convert(path, "train").notices.to_json()) == is_noticed


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kpt_shape: [4, 3]\n", "", r"data\.yaml has no kpt_shape"),
        ("[4, 3]", "[4, 4]", r"kpt_shape is \[4, 4\]; it must be the number of joints and 2 or 3"),
        ("[1, 0, 2, 3]", "[1, 2, 0, 3]", r"flip_idx is \[1, 2, 0, 3\]; it must give, for each of the 4 joints"),
        ("[1, 0, 2, 3]", "[0, 1, 2, 3]", "flip_idx does not swap left_tip and right_tip"),
        ("wrist]}", "wrist], 1: [a, b, c, d]}", "the classes glove and sock have different joints .*--category NAME"),
        ("thumb, wrist", "thumb", r"kpt_names has .* not 4 names of joints"),
        ("thumb, wrist", "thumb, thumb", "two joints named 'thumb'"),
        ("train: images/train", "train: pictures", "train is 'pictures', and there is no such folder or file in"),
        ("train: images/train\n", "", "has no images for --split train: train is None; it has val"),
        ("names: {0: glove, 1: sock}", "names: glove", "names is 'glove'; it must be a list of names"),
        ("path: .", "path: [", "is not a YAML file"),
    ],
)
def test_a_wrong_entry_is_refused_with_its_name(tmp_path, old, new, message):
    assert old in YAML
    with pytest.raises(PrecomputeError, match=message) as refused:
        convert(write(tmp_path / "set", YAML.replace(old, new)), "train")
    assert "data.yaml" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.4 0.6 0.25 0.5 2", "has 8 numbers instead of 17"),
        ("0 0.5 0.5 0.4 x", "is not a list of numbers"),
        ("7 0.5 0.5 0.4 0.4", "begins with 7, which is not the number of a class"),
        ("0 nan 0.5 0.4 0.4", "not finite"),
        ("0 60 40 0.4 0.4", "coordinates that are not fractions of the image"),
        ("0 0.5 0.5 0.4 0.4" + 4 * " 60 40 2", "coordinates that are not fractions of the image"),
        ("0 0.5 0.5 0 0.4", "has a box without width or height"),
    ],
)
def test_a_wrong_label_is_refused_with_its_file_and_line(tmp_path, line, message):
    rows = {"train/b.png": ["0 0.5 0.5 0.1 0.1", "", line]}
    with pytest.raises(PrecomputeError, match=message) as refused:
        convert(write(tmp_path / "set", rows=rows), "train")
    assert "b.txt, line 3 " in str(refused.value)


def test_missing_labels_and_repeated_lines_are_counted_and_none_at_all_is_refused(tmp_path):
    path = write(tmp_path / "set", rows={"train/b.png": [ROWS["train/b.png"][0]] * 2, "train/empty.png": []})
    labels = path.parent / "labels/train"
    (labels / "empty.txt").unlink()
    found = convert(path, "train")
    assert len(found.document["annotations"]) == 1
    assert found.notices.to_json() == {
        "label lines listed twice, used once": 1,
        "images without a label file, taken as images without instances": 1,
        "areas computed from the box": 1,
    }
    (labels / "b.txt").unlink()
    with pytest.raises(PrecomputeError, match=r"none of the 2 images of train has a label file; .*labels.train.b\.txt"):
        convert(path, "train")


def test_a_folder_with_a_data_yaml_is_refused_with_the_flag_that_reads_it(data):
    with pytest.raises(PrecomputeError, match=r"for the YOLO-pose data set of data\.yaml, give --data .*data\.yaml"):
        find_split(data.parent, "train")
