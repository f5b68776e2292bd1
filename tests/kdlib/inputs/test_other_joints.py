"""Annotation and box files of other joints than COCO's: animals, COCO-WholeBody, objects without labels."""

import json

import numpy as np
import pytest

from kdlib.errors import InputError
from kdlib.inputs.annotations import PARTS, read_keypoint_annotations
from kdlib.inputs.boxes import BoxFile
from kdlib.inputs.notices import Notices
from kdlib.skeletons.reading import load_skeleton
from kdlib.skeletons.skeleton import COCO, Skeleton

ANIMAL = load_skeleton("ap10k")
WHOLE = load_skeleton("coco_wholebody")
SPECIES = ["antelope", "dog", "polar bear"]


@pytest.fixture
def write(tmp_path):
    def write(content, name="a.json"):
        path = tmp_path / name
        path.write_text(json.dumps(content))
        return path

    return write


def joints_of(count, seed=0):
    """x, y, v of as many joints, all different, as a flat list."""
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.permutation(count) + 10, rng.permutation(count) + 5, rng.integers(0, 3, count)]).ravel()


def document(categories, annotations):
    box = {"image_id": 1, "bbox": [5.0, 6.0, 40.0, 80.0], "area": 900.0, "iscrowd": 0}
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 170, "height": 160}],
        "categories": categories,
        "annotations": [{**box, "id": number, **each} for number, each in enumerate(annotations, 1)],
    }


def animals(joints=ANIMAL.joints):
    categories = [{"id": 7 + n, "name": name, "keypoints": list(joints)} for n, name in enumerate(SPECIES)]
    return document(categories, [{"category_id": 7 + n, "keypoints": joints_of(17, n).tolist()} for n in (0, 1, 2, 1)])


def test_categories_with_the_same_joints_are_all_used_or_the_chosen_one(write):
    for options in ({}, {"skeleton": ANIMAL}):
        notices = Notices()
        read = read_keypoint_annotations(write(animals()), notices=notices, **options)
        assert read.skeleton == ANIMAL
        assert read.instances.annotation_id.tolist() == [1, 2, 3, 4]
        assert notices.to_json() == {"categories with the same joints, all used": 3}
    dogs = read_keypoint_annotations(write(animals()), category="Dog")
    assert dogs.instances.annotation_id.tolist() == dogs.ground_truth.annotation_id.tolist() == [2, 4]


def test_joints_of_a_file_are_brought_into_the_order_of_the_skeleton(write):
    shuffled = np.random.default_rng(3).permutation(17)
    read = read_keypoint_annotations(write(animals([ANIMAL.joints[joint] for joint in shuffled])))
    for row, seed in enumerate((0, 1, 2, 1)):
        given = joints_of(17, seed).reshape(17, 3)
        np.testing.assert_array_equal(read.instances.keypoints[row][shuffled], given)


@pytest.mark.parametrize("count", [1, 4, 133])
def test_any_number_of_joints_is_read_and_another_number_is_refused(write, count):
    names = [f"j{number}" for number in range(count)]
    category = {"id": 0, "name": "thing", "keypoints": names}
    joints = joints_of(count)
    joints[2] = 2
    read = read_keypoint_annotations(write(document([category], [{"category_id": 0, "keypoints": joints.tolist()}])))
    assert read.skeleton == Skeleton("thing", tuple(names))
    np.testing.assert_array_equal(read.instances.keypoints, joints.reshape(1, count, 3))
    wrong = document([category], [{"category_id": 0, "keypoints": [*joints.tolist(), 1, 1, 2]}])
    with pytest.raises(InputError, match=f"annotation 1 has {3 * count + 3} keypoint numbers instead of {3 * count}"):
        read_keypoint_annotations(write(wrong))


def test_limbs_may_number_the_joints_from_0(write):
    category = {"id": 0, "name": "thing", "keypoints": ["a", "b", "c"], "skeleton": [[0, 1], [2, 0]]}
    file = document([category], [{"category_id": 0, "keypoints": [1, 1, 2] * 3}])
    assert read_keypoint_annotations(write(file)).skeleton.limbs == ((0, 1), (2, 0))
    category["skeleton"] = [[1, 2], [3, 1]]
    assert read_keypoint_annotations(write(file)).skeleton.limbs == ((0, 1), (2, 0))


def test_what_is_left_out_of_animals_is_counted_as_instances(write):
    file = animals()
    file["annotations"][0]["iscrowd"] = 1
    file["annotations"][1]["keypoints"] = [0] * 51
    notices = Notices()
    read = read_keypoint_annotations(write(file), notices=notices)
    assert read.instances.annotation_id.tolist() == [3, 4]
    left_out = {kind: count for kind, count in notices.to_json().items() if "left out" in kind}
    assert left_out == {
        "instances left out because they are crowds": 1,
        "instances left out because no keypoint is labelled": 1,
    }


# --- boxes ------------------------------------------------------------------------------------------------------------


def boxes_of(path, boxes, **options):
    return read_keypoint_annotations(path, boxes=boxes, **options).instances.bbox[:, 0].tolist()


def row(number, **entries):
    return {"image_id": 1, "bbox": [float(number), 2, 30, 40], "score": 0.5, **entries}


def test_boxes_are_those_of_the_chosen_categories(write):
    path = write(animals())
    rows = write([row(n, category_id=n) for n in (7, 8, 9, 1)], "boxes.json")
    assert boxes_of(path, rows) == [7, 8, 9]
    assert boxes_of(path, rows, category="dog") == [8]
    named = write(
        [row(1, category_name="Polar-Bear"), row(2, category_name="dog"), row(3, category_name="person")], "n"
    )
    assert boxes_of(path, named, category="polar bear") == [1]
    assert boxes_of(path, named) == [1, 2]


def test_a_box_files_own_categories_are_compared_by_name(write):
    path = write(animals())
    own = [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "antelope"}]
    file = {"categories": own, "annotations": [row(n, category_id=n) for n in (1, 2, 3)]}
    assert boxes_of(path, write(file, "own.json")) == [2, 3]
    assert boxes_of(path, write(file, "own.json"), category="dog") == [2]
    file["categories"] = [{"id": 1, "name": "person"}, {"id": 2, "name": "cow"}, {"id": 3, "name": "cat"}]
    with pytest.raises(InputError, match=r"own\.json: none of its 3 categories is dog: 1 'person', 2 'cow', 3 'cat'; "):
        boxes_of(path, write(file, "own.json"), category="dog")


def test_boxes_of_animals_need_no_annotation_but_a_skeleton(write):
    images = write({"images": animals()["images"]})
    rows = write([row(1, category_id=16), row(2, category_id=16)], "boxes.json")
    read = read_keypoint_annotations(images, boxes=rows, category="dog", skeleton=ANIMAL)
    assert read.instances.keypoints.shape == (2, 17, 3)
    assert read.skeleton == ANIMAL
    several = write([row(1, category_id=16), row(2, category_id=17)], "several.json")
    with pytest.raises(InputError, match=r"no box of a person \(category named dog, not a crowd\)"):
        read_keypoint_annotations(images, boxes=several, category="dog", skeleton=ANIMAL)


def test_unlabelled_objects_of_a_named_category_have_the_given_joints(write):
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "glove"}]
    path = write(document(categories, [{"category_id": 1}, {"category_id": 2}]))
    glove = Skeleton("glove", ("tip", "wrist"))
    read = read_keypoint_annotations(path, unlabelled=True, category="glove", skeleton=glove)
    assert read.instances.annotation_id.tolist() == [2]
    assert read.instances.keypoints.shape == (1, 2, 3)


def test_predict_takes_persons_by_default(write):
    rows = write([row(1, category_name="person"), row(2, category_name="dog")], "boxes.json")
    assert BoxFile(rows).match_names(["1.jpg"], "here").xywh[:, 0].tolist() == [1]


# --- COCO-WholeBody ---------------------------------------------------------------------------------------------------


def whole_body(**entries):
    parts = {key: joints_of(count, count).tolist() for key, count in PARTS.items()}
    body = joints_of(17, 1).tolist()
    return document(
        [{"id": 1, "name": "person", "keypoints": list(COCO.joints), "skeleton": [[1, 2]]}],
        [{"category_id": 1, "keypoints": body, **parts, **entries}],
    )


def test_the_parts_of_a_whole_body_are_joined_in_the_order_of_the_skeleton(write):
    read = read_keypoint_annotations(write(whole_body()), skeleton=WHOLE)
    assert read.skeleton == WHOLE
    parts = [joints_of(17, 1), joints_of(6, 6), joints_of(68, 68), joints_of(21, 21), joints_of(21, 21)]
    np.testing.assert_array_equal(read.instances.keypoints[0].ravel(), np.concatenate(parts))


def test_parts_that_are_missing_are_not_labelled_and_the_body_may_be_in_another_order(write):
    file = whole_body(face_kpts=None, lefthand_kpts=[])
    file["categories"][0]["keypoints"] = list(COCO.joints[::-1])
    read = read_keypoint_annotations(write(file), skeleton=WHOLE)
    joints = read.instances.keypoints[0]
    np.testing.assert_array_equal(joints[:17][::-1].ravel(), joints_of(17, 1))
    assert not joints[23:112].any()
    np.testing.assert_array_equal(joints[112:].ravel(), joints_of(21, 21))


def test_a_whole_body_in_one_entry_is_read_too(write):
    joints = joints_of(133).tolist()
    file = whole_body(keypoints=joints)
    file["categories"][0]["keypoints"] = list(WHOLE.joints)
    read = read_keypoint_annotations(write(file), skeleton=WHOLE)
    np.testing.assert_array_equal(read.instances.keypoints[0].ravel(), joints)


def test_a_part_with_another_number_of_joints_is_refused(write):
    with pytest.raises(InputError, match=r"annotation 1 has 12 numbers in foot_kpts instead of 18 \(x, y, v of 6"):
        read_keypoint_annotations(write(whole_body(foot_kpts=[1] * 12)), skeleton=WHOLE)
    with pytest.raises(InputError, match=r"annotation 1 has the face_kpts 'x', not a list of 204 numbers"):
        read_keypoint_annotations(write(whole_body(face_kpts="x")), skeleton=WHOLE)


def test_without_the_skeleton_the_body_alone_is_used_and_noted(write):
    notices = Notices()
    read = read_keypoint_annotations(write(whole_body()), notices=notices)
    assert read.skeleton is COCO
    assert any("--skeleton coco_wholebody" in kind for kind in notices.to_json())
