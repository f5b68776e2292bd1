"""Reading COCO keypoint files: what is read, what is left out, and what is refused with a clear message."""

import contextlib
import gzip
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from kdlib.errors import InputError
from kdlib.inputs.annotations import read_keypoint_annotations
from kdlib.inputs.notices import Notices
from kdlib.skeletons.skeleton import COCO as SKELETON
from tests.support.shared_data import COCO_REAL, needs_coco


def document():
    joints = [10, 20, 2] * 17
    box = [5.0, 6.0, 40.0, 80.0]
    annotation = {"image_id": 7, "category_id": 1, "bbox": box, "area": 900.0, "iscrowd": 0, "keypoints": joints}
    return {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 100, "height": 120},
            {"id": 8, "file_name": "sub/b.png", "width": 90, "height": 60},
        ],
        "categories": [{"id": 1, "name": "person", "keypoints": list(SKELETON.joints)}],
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
        ({**document(), "categories": [{"id": 1, "keypoints": list("abcde")}]}, "51 keypoint numbers instead of 15"),
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


def noticed(path, **options):
    notices = Notices()
    return read_keypoint_annotations(path, notices=notices, **options), notices.to_json()


AREA = "areas computed from the box"


@pytest.mark.parametrize("area", [0, None, float("nan"), float("inf"), -3.5, "900", [], True, 10**400])
def test_an_area_that_is_no_positive_number_is_that_of_the_box_and_counted(write, area):
    read, found = noticed(write(changed("area", area)))
    assert read.ground_truth.area.tolist() == [3200.0, 900.0, 900.0, 900.0, 900.0]
    assert found[AREA] == 1
    content = changed("area", area)
    del content["annotations"][1]["area"]
    read, found = noticed(write(content))
    assert read.ground_truth.area.tolist()[:2] == [3200.0, 3200.0]
    assert found[AREA] == 2
    assert AREA not in noticed(write(document()))[1]


def test_a_box_without_area_gives_no_negative_area(write):
    content = changed("area", None, row=4)
    content["annotations"][4]["bbox"] = [5.0, 6.0, -3.0, -4.0]
    assert read_keypoint_annotations(write(content)).ground_truth.area[4] == 0


@pytest.mark.parametrize(
    ("crowd", "expected"),
    [(None, 0), (False, 0), (0, 0), (0.0, 0), ("0", 0), ("", 0), (True, 1), (1, 1), (1.0, 1), ("1", 1), ("true", 1)],
)
def test_iscrowd_may_be_written_in_several_ways(write, crowd, expected):
    read = read_keypoint_annotations(write(changed("iscrowd", crowd)))
    assert read.ground_truth.iscrowd.tolist() == [expected, 0, 1, 0, 0]


@pytest.mark.parametrize("crowd", [2, -1, "maybe", [], {}, float("nan"), 0.5])
def test_another_iscrowd_is_refused(write, crowd):
    with pytest.raises(InputError, match=r"annotation 3 has iscrowd .*; it must be 0 or 1"):
        read_keypoint_annotations(write(changed("iscrowd", crowd)))


def test_keypoints_may_be_triples_and_missing_ones_are_unlabelled(write):
    content = document()
    content["annotations"][0]["keypoints"] = [[10, 20.5, 2], [None, float("nan"), 0], [7, 8, None]] + [[1, 2, 1]] * 14
    content["annotations"][0]["keypoints"][2] = [None, None, None]
    content["annotations"][1]["keypoints"] = None
    del content["annotations"][2]["keypoints"]
    content["annotations"][3]["keypoints"] = []
    read = read_keypoint_annotations(write(content))
    np.testing.assert_array_equal(read.ground_truth.keypoints[0, :4], [[10, 20.5, 2], [0, 0, 0], [0, 0, 0], [1, 2, 1]])
    assert not read.ground_truth.keypoints[1:4].any()
    assert read.instances.annotation_id.tolist() == [3]


def test_visibilities_above_0_are_labelled_as_in_pycocotools_and_counted(write):
    content = document()
    content["annotations"][0]["keypoints"] = [1, 2, 3, 4, 5, 0.25, 6, 7, True, 8, 9, -1, 1, 1, False] + [0] * 36
    read, found = noticed(write(content))
    np.testing.assert_array_equal(read.instances.keypoints[0, :6, 2], [3, 0.25, 1, 0, 0, 0])
    assert found["joints with a visibility other than 0, 1 or 2, labelled if it is above 0"] == 3


@pytest.mark.parametrize(
    ("joints", "message"),
    [
        ([10, 20] * 17, "has 34 keypoint numbers instead of 51 .*: they seem to lack the visibility"),
        ([[10, 20]] * 17, "has 34 keypoint numbers instead of 51 .*: they seem to lack the visibility"),
        ([[10, 20, 2]] * 16, "has 16 keypoint numbers"),
        ([[10, 20, 2]] * 16 + [[1, 2]], "has the keypoint .1, 2. of 2 numbers; each must be x, y, v"),
        ([float("nan"), 20, 2] * 17, "keypoint that is not a finite number"),
        (["10", 20, 2] * 17, "keypoint that is not a finite number"),
        ([10**400, 20, 2] * 17, "keypoint that is not a finite number"),
        ([1e300, 20, 2] * 17, "keypoint that is not a finite number"),
        ([10, 20, None] * 17, "keypoint that is not a finite number"),
        ([[10, 20, 2]] * 15 + [[10, 20], [10, 20, 2, 2]], "has the keypoint .10, 20. of 2 numbers"),
        ([True, 20, 2] * 17, "keypoint that is not a finite number"),
        ([[10, 20, [2]]] * 17, "keypoint that is not a finite number"),
        ({"nose": [1, 2, 2]}, "has the keypoints .*, not a list of 51 numbers"),
    ],
)
def test_other_keypoints_are_refused_with_their_annotation(write, joints, message):
    with pytest.raises(InputError, match=f"person_keypoints.json: annotation 3 .*{message}"):
        read_keypoint_annotations(write(changed("keypoints", joints)))


@pytest.mark.parametrize(
    "box", [None, [], [1, 2, 3], [1, 2, 3, 4, 5], "1 2 3 4", ["1", 2, 3, 4], [1, 2, 3, None], [[1, 2], [3, 4]], 10**400]
)
def test_a_box_that_is_not_four_numbers_is_refused_with_its_annotation(write, box):
    for given in (box, [1, 2, 3, float("inf")], [1, 2, 3, 10**400], [True, 2, 3, 4]):
        with pytest.raises(InputError, match=r"annotation 1 has the box .*four finite numbers x, y, width, height"):
            read_keypoint_annotations(write(changed("bbox", given, row=1)))


@pytest.mark.parametrize(
    "spell", [str, lambda i: f"{i:012d}", lambda i: f"id-{i}", lambda i: 2**100 + i, lambda i: i + 0.5, float]
)
def test_ids_of_every_type_give_the_same_columns(write, spell):
    plain, content = read_keypoint_annotations(write(document())), document()
    for image in content["images"]:
        image["id"] = spell(image["id"])
    for annotation in content["annotations"]:
        annotation |= {"id": spell(annotation["id"]), "image_id": spell(annotation["image_id"])}
    read, found = noticed(write(content))
    kept = spell is float
    assert read.ground_truth.annotation_id.tolist() == ([3, 1, 4, 5, 6] if kept else [1, 2, 3, 4, 5])
    assert read.ground_truth.image_id.tolist() == ([7, 8, 7, 7, 7] if kept else [1, 2, 1, 1, 1])
    assert sum("numbered" in kind for kind in found) == (0 if kept else 2)
    for name, column in plain.ground_truth.columns().items():
        if not name.endswith("_id"):
            np.testing.assert_array_equal(getattr(read.ground_truth, name), column)


def test_text_refers_to_numbers_and_numbers_to_text(write):
    content = document()
    for annotation in content["annotations"]:
        annotation |= {"image_id": f"{annotation['image_id']:03d}", "category_id": "1"}
    assert read_keypoint_annotations(write(content)).ground_truth.image_id.tolist() == [7, 8, 7, 7, 7]
    content = document()
    for image in content["images"]:
        image["id"] = str(image["id"])
    assert read_keypoint_annotations(write(content)).ground_truth.image_id.tolist() == [1, 2, 1, 1, 1]


@pytest.mark.parametrize("bad", [None, [1], {}, True, float("nan")])
def test_ids_that_cannot_be_used_are_refused_with_their_position(write, bad):
    with pytest.raises(InputError, match=r"annotations\[1\] has the id .*; an id must be a number or a text"):
        read_keypoint_annotations(write(changed("id", bad, row=1)))
    with pytest.raises(InputError, match=r"annotation 1 (has no image_id|belongs to image .*does not list)"):
        read_keypoint_annotations(write(changed("image_id", bad, row=1)))


def test_entries_of_a_merged_file_that_say_the_same_are_used_once(write):
    content = document()
    content["images"] += [{**content["images"][0], "license": 3}]
    content["annotations"] += [{**content["annotations"][1], "segmentation": []}, content["annotations"][0]]
    read, found = noticed(write(content))
    assert read.ground_truth.annotation_id.tolist() == [3, 1, 4, 5, 6]
    assert found["images listed twice, used once"] == 1
    assert found["annotations listed twice, used once"] == 2


def test_different_annotations_with_one_id_are_refused_and_both_are_named(write):
    content = document()
    content["annotations"] = [{**document()["annotations"][0], "id": i} for i in range(100)]
    content["annotations"][98] |= {"id": 5, "bbox": [1, 2, 3, 4], "image_id": 8}
    with pytest.raises(InputError, match=r"the id 5: annotations\[5\] of image 7 and annotations\[98\] of image 8"):
        read_keypoint_annotations(write(content))


def test_annotations_of_other_categories_are_left_out(write):
    content = document()
    content["categories"] += [{"id": 2, "name": "dog"}]
    content["annotations"][0]["category_id"] = 2
    assert read_keypoint_annotations(write(content)).ground_truth.annotation_id.tolist() == [1, 4, 5, 6]
    content["annotations"][0] |= {"category_id": 9}
    with pytest.raises(
        InputError, match="annotation 3 has keypoints and the category_id 9, which the file does not list"
    ):
        read_keypoint_annotations(write(content))
    del content["annotations"][0]["keypoints"]
    read, found = noticed(write(content))
    assert len(read.ground_truth) == 4
    assert found["annotations left out because the file does not list their category"] == 1


def test_without_category_ids_the_only_category_is_meant(write):
    content = document()
    for annotation in content["annotations"]:
        annotation.pop("category_id")
    assert len(read_keypoint_annotations(write(content)).ground_truth) == 5
    content["categories"] += [{"id": 2, "name": "dog"}]
    with pytest.raises(InputError, match="annotation 3 has no category_id, and the file lists 2 categories"):
        read_keypoint_annotations(write(content))
    content["annotations"][0]["category_id"] = [1]
    with pytest.raises(InputError, match=r"annotation 3 has the category_id \[1\]"):
        read_keypoint_annotations(write(content))


def test_what_is_left_out_is_counted_by_reason(write):
    _, found = noticed(write(document()))
    assert found == {
        "persons left out because they are crowds": 1,
        "persons left out because no keypoint is labelled": 1,
        "persons left out because their box has no area inside the image": 1,
    }


def test_boxes_without_keypoints_are_enough_for_unlabelled_persons(write):
    content = document()
    del content["categories"][0]["keypoints"]
    for annotation in content["annotations"]:
        del annotation["keypoints"]
    with pytest.raises(InputError, match=r"none has keypoints.*--unlabelled"):
        read_keypoint_annotations(write(content))
    read = read_keypoint_annotations(write(content), unlabelled=True)
    assert read.instances.annotation_id.tolist() == [3, 1, 5]
    assert not read.instances.keypoints.any()


def test_images_alone_are_enough_for_a_detectors_boxes(write):
    boxes = write([{"image_id": 8, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.75}], "boxes.json")
    for content in ({"images": document()["images"]}, {**document(), "annotations": [], "categories": None}):
        read = read_keypoint_annotations(write(content), boxes=boxes)
        assert read.instances.file_name == ["sub/b.png"]
        assert len(read.ground_truth) == 0
        assert read.images.id.tolist() == [7, 8]
    with pytest.raises(InputError, match=r"lists 2 images and no annotation; give a detector's boxes"):
        read_keypoint_annotations(write({**document(), "annotations": []}))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([{"image_id": 7, "bbox": [1, 2, 3, 4], "score": 1}], "a list of detections, which --boxes takes"),
        ([{"id": 7, "file_name": "a.jpg"}], r"a list of 1 objects with \['file_name', 'id'\]"),
        ([], r"it is \[\]; COCO's file is an object"),
        (7, "it is 7; COCO's file is an object"),
        ({"data": document()}, "they are inside the entry 'data'; save that entry as a file of its own"),
        ({"shapes": [], "imagePath": "a.jpg", "version": "5"}, "a file of LabelMe"),
        ({"a.jpg123": {"filename": "a.jpg", "regions": []}}, "a file of the VGG Image Annotator"),
        ({"_via_settings": {}, "_via_img_metadata": {}}, "a file of the VGG Image Annotator"),
        ({"names": ["person"], "nc": 1}, r"it is an object with \['names', 'nc'\]"),
        ({**document(), "annotations": {}}, "lists are missing: annotations; it is an object"),
    ],
)
def test_other_documents_are_named(write, content, found):
    with pytest.raises(InputError, match=rf"person_keypoints.json is not a COCO annotation file: .*{found}"):
        read_keypoint_annotations(write(content))


def test_encodings_and_compression_do_not_matter(tmp_path):
    text = json.dumps({**document(), "info": {"description": "caf\u00e9"}}, ensure_ascii=False)
    plain = tmp_path / "plain.json"
    plain.write_text(text)
    expected = read_keypoint_annotations(plain).ground_truth
    for content in (
        text.encode("utf-8-sig"),
        text.encode("utf-16"),
        text.encode("utf-16-be"),
        gzip.compress(text.encode()),
    ):
        (tmp_path / "other.json").write_bytes(content)
        found = read_keypoint_annotations(tmp_path / "other.json").ground_truth
        for name, column in expected.columns().items():
            np.testing.assert_array_equal(getattr(found, name), column)
    (tmp_path / "other.json").write_text("0 0.5 0.5 0.1 0.2\n")  # YOLO
    with pytest.raises(InputError, match=r"other.json is not JSON .*convert the files of YOLO"):
        read_keypoint_annotations(tmp_path / "other.json")


def test_missing_files_and_wrong_detections_are_refused(write, tmp_path):
    with pytest.raises(InputError, match="there is no annotation file at"):
        read_keypoint_annotations(tmp_path / "nothing.json")
    with pytest.raises(InputError, match="contains neither one list of boxes nor COCO annotations"):
        read_keypoint_annotations(write(document()), boxes=write({"boxes": []}, "boxes.json"))


@needs_coco
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_annotations_are_those_that_pycocotools_reads(split):
    path = COCO_REAL / f"annotations/person_keypoints_{split}.json"
    with contextlib.redirect_stdout(io.StringIO()):
        persons = COCO(str(path)).loadAnns(COCO(str(path)).getAnnIds())
    read, found = noticed(path)
    truth = read.ground_truth
    assert truth.annotation_id.tolist() == [a["id"] for a in persons]
    assert truth.image_id.tolist() == [a["image_id"] for a in persons]
    assert truth.iscrowd.tolist() == [a["iscrowd"] for a in persons]
    np.testing.assert_array_equal(truth.bbox, [a["bbox"] for a in persons])
    np.testing.assert_array_equal(truth.area, [a["area"] for a in persons])
    np.testing.assert_array_equal(truth.keypoints.reshape(len(truth), -1), [a["keypoints"] for a in persons])
    labelled = [a["id"] for a in persons if a["num_keypoints"] and not a["iscrowd"]]
    assert read.instances.annotation_id.tolist() == labelled
    assert all(kind.startswith("persons left out because") for kind in found)


def test_boxes_and_joints_that_are_not_in_pixels_are_warned_of(write):
    notices = Notices()
    read_keypoint_annotations(write(document()), notices=notices)
    assert notices.warnings == []
    corners, fractions = document(), document()
    for annotation in corners["annotations"]:
        annotation["bbox"] = [50, 30, 89, 59]
    for annotation in fractions["annotations"]:
        annotation["keypoints"] = [number / 120 if i % 3 < 2 else number for i, number in enumerate([10, 20, 2] * 17)]
    read_keypoint_annotations(write(corners), notices=notices)
    read_keypoint_annotations(write(fractions), notices=notices)
    assert "boxes leave their image: bbox must be x, y, width, height in pixels; read as x1" in notices.warnings[0]
    assert "85 of 85 labelled joints lie between 0 and 1" in notices.warnings[1]
    assert len(notices.warnings) == 2
