"""Reading COCO keypoint files: what is read, what is left out, and what is refused with a clear message."""

import json

import numpy as np
import pytest

from kdlib.errors import InputError
from kdlib.inputs.annotations import read_keypoint_annotations
from kdlib.skeleton import JOINTS


def document():
    joints = [10, 20, 2] * 17
    box = [5.0, 6.0, 40.0, 80.0]
    annotation = {"image_id": 7, "category_id": 1, "bbox": box, "area": 900.0, "iscrowd": 0, "keypoints": joints}
    return {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 100, "height": 120},
            {"id": 8, "file_name": "sub/b.png", "width": 90, "height": 60},
        ],
        "categories": [{"id": 1, "name": "person", "keypoints": list(JOINTS)}],
        "annotations": [
            {**annotation, "id": 3},
            {**annotation, "id": 1, "image_id": 8},
            {**annotation, "id": 4, "iscrowd": 1},
            {**annotation, "id": 5, "keypoints": [0] * 51},
            {**annotation, "id": 6, "bbox": [500.0, 6.0, 10.0, 10.0]},
        ],
    }


@pytest.fixture
def write(tmp_path):
    def write(content, name="person_keypoints.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def test_usable_persons_are_instances_and_everybody_is_ground_truth(write):
    read = read_keypoint_annotations(write(document()))
    assert read.instances.annotation_id.tolist() == [3, 1]
    assert read.instances.file_name == ["a.jpg", "sub/b.png"]
    assert read.instances.image_size.tolist() == [[100, 120], [90, 60]]
    assert read.ground_truth.annotation_id.tolist() == [3, 1, 4, 5, 6]
    assert read.outside.tolist() == [6]
    np.testing.assert_array_equal(read.instances.keypoints[0], [[10, 20, 2]] * 17)


def test_unlabelled_persons_are_taken_on_request(write):
    read = read_keypoint_annotations(write(document()), unlabelled=True)
    assert read.instances.annotation_id.tolist() == [3, 1, 5]


def test_detections_replace_the_boxes_and_keep_their_scores(write):
    boxes = [
        {"image_id": 7, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.75},
        {"image_id": 7, "category_id": 2, "bbox": [1, 2, 30, 40], "score": 0.9},
        {"image_id": 99, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.9},
    ]
    read = read_keypoint_annotations(write(document()), boxes=write(boxes, "boxes.json"))
    assert read.instances.annotation_id.tolist() == [-1]
    assert read.instances.score.tolist() == [0.75]
    assert not read.instances.keypoints.any()
    assert len(read.ground_truth) == 5


def changed(key, value, row=0):
    content = document()
    content["annotations"][row][key] = value
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "not a COCO annotation file"),
        ({"images": [], "annotations": []}, "these lists are missing: categories"),
        (
            {**document(), "annotations": [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]}]},
            "none has keypoints",
        ),
        (
            {**document(), "categories": [{"id": 1, "keypoints": ["j"] * 5}]},
            "does not have COCO's 17 joints: joint 1 is 'j', COCO's is 'nose'",
        ),
        (changed("keypoints", [1, 2, 3]), "annotation 3 has 3 keypoint numbers instead of 51"),
        (changed("image_id", 55), "belongs to image 55"),
        (changed("bbox", [1, 2, float("nan"), 4]), "annotation 3 has the box"),
        (changed("bbox", None), "annotation 3 has the box None"),
        (changed("keypoints", "x"), "annotation 3 has the keypoints 'x', not a list"),
        ({**document(), "images": [{"id": 7, "file_name": "a.jpg"}]}, "image 7 .* has width, height"),
        ({**document(), "images": ["a"]}, "images.0. is 'a', not an object with an id"),
        (changed("id", 1), "two annotations have the id 1: annotations.0. of image 7 and annotations.1. of image 8"),
        ({**document(), "annotations": document()["annotations"][2:4]}, "no usable instance among 2"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(write, content, message):
    with pytest.raises(InputError, match=message):
        read_keypoint_annotations(write(content))


def test_missing_files_and_wrong_detections_are_refused(write, tmp_path):
    with pytest.raises(InputError, match="there is no annotation file at"):
        read_keypoint_annotations(tmp_path / "nothing.json")
    with pytest.raises(InputError, match="contains neither one list of boxes nor COCO annotations"):
        read_keypoint_annotations(write(document()), boxes=write({"boxes": []}, "boxes.json"))
