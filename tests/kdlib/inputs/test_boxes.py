"""Box files: every spelling of an image means the same image to every reader, and no image gets another one's boxes."""

import contextlib
import gzip
import io
import json
import unicodedata

import numpy as np
import pytest
from pycocotools.coco import COCO

from kdlib.errors import InputError
from kdlib.inputs.annotations import read_keypoint_annotations
from kdlib.inputs.boxes import BoxFile, FormatCheck
from kdlib.inputs.categories import Categories
from kdlib.inputs.image_index import ImageIndex
from kdlib.inputs.notices import Notices
from kdlib.skeletons.skeleton import COCO as SKELETON

NAMES = ["000000000139.jpg", "sub/caf\u00e9.png", "000000000785.jpg"]
IDS = [139, 12, 785]
SIZE = (200, 150)
ROWS = [
    {"image_id": 785, "category_id": 1, "bbox": [1, 2, 30, 40.5], "score": 0.9},
    {"image_id": 12, "category_id": 1, "bbox": [5, 6, 70, 80], "score": 0.25},
    {"image_id": 785, "category_id": 1, "bbox": [9, 9, 20, 20], "score": 0.5},
    {"image_id": 139, "category_id": 1, "bbox": [30, 20, 100, 90], "score": 1},
]
IMAGES = [{"id": i, "file_name": name, "width": SIZE[0], "height": SIZE[1]} for i, name in zip(IDS, NAMES, strict=True)]
PERSON = {"id": 1, "name": "person", "keypoints": list(SKELETON.joints)}


@pytest.fixture
def write(tmp_path):
    def write(content, name="boxes.json"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return write


def index_of(images):
    return ImageIndex.from_entries(images, "a.json")


def boxes_by_name(matched, names):
    return {names[i]: np.column_stack([b.xywh, b.scores]).tolist() for i, b in matched.by_image().items()}


def by_names(path, names=NAMES, notices=None):
    """What `train predict` reads."""
    return boxes_by_name(BoxFile(path, notices=notices).match_names(names, "pictures"), list(names))


def by_annotations(path, write, images=IMAGES, notices=None, categories=(PERSON,)):
    """What `precompute` reads."""
    joints = {"id": 1, "image_id": images[0]["id"], "category_id": categories[-1]["id"], "bbox": [1, 1, 50, 50]}
    labelled = {**joints, "keypoints": [10, 10, 2] * 17, "area": 9, "iscrowd": 0}
    document = {"images": images, "categories": list(categories), "annotations": [labelled]}
    read = read_keypoint_annotations(write(document, "annotations.json"), boxes=path, notices=notices).instances
    found = {}
    for name, box, score in zip(read.file_name, read.bbox.tolist(), read.score.tolist(), strict=True):
        found.setdefault(name, []).append([*box, score])
    return found


def by_pycocotools(images, path):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"images": images, "annotations": [], "categories": [PERSON]}
        truth.createIndex()
        loaded = truth.loadRes(str(path))
    names = {image["id"]: image["file_name"] for image in images}
    found = {}
    for row in loaded.loadAnns(loaded.getAnnIds()):
        found.setdefault(names[row["image_id"]], []).append([*map(float, row["bbox"]), float(row["score"])])
    return found


def named(key, spell):
    """The rows, with the image's name as `spell` writes it under a key instead of the image id."""
    names = dict(zip(IDS, NAMES, strict=True))
    return [{**{k: v for k, v in row.items() if k != "image_id"}, key: spell(names[row["image_id"]])} for row in ROWS]


def stem(name):
    return name.rpartition(".")[0]


def as_text(rows):
    return [{**row, "image_id": str(row["image_id"])} for row in rows]


SPELLINGS = {
    "name": named("file_name", str),
    "name as image": named("image", str),
    "name as image_name": named("image_name", str),
    "name as image_id": named("image_id", str),
    "stem": named("image_id", stem),
    "base name": named("file_name", lambda name: name.rpartition("/")[2]),
    "stem of the base name": named("image_id", lambda name: stem(name.rpartition("/")[2])),
    "folder before the name": named("file_name", lambda name: f"/data/coco/{name}"),
    "another separator": named("file_name", lambda name: "D:\\coco\\" + name.replace("/", "\\")),
    "URL": named("file_name", lambda name: f"http://images.example.org/{name}"),
    "NFD": named("file_name", lambda name: unicodedata.normalize("NFD", name)),
    "number or stem, as Ultralytics": named("image_id", lambda n: int(stem(n)) if stem(n).isdigit() else stem(n)),
    "numbers of a file with images": {"images": IMAGES, "annotations": ROWS, "categories": [PERSON]},
    "texts of a file with images": {"images": IMAGES, "predictions": as_text(ROWS)},
    "images with other ids": {
        "images": [{**image, "id": f"x{image['id']}"} for image in IMAGES],
        "detections": [{**row, "image_id": f"x{row['image_id']}"} for row in ROWS],
    },
    "images in folders": {
        "images": [{**image, "file_name": "data/" + image["file_name"]} for image in IMAGES],
        "annotations": ROWS,
    },
    "our own results": [
        {**row, "image_id": place, "keypoints": [1.0] * 51} for place, row in enumerate(named("file_name", str))
    ],
    "wrapped": {"info": {}, "results": named("file_name", str)},
    "BOM": b"\xef\xbb\xbf" + json.dumps(named("file_name", str)).encode(),
    "UTF-16": json.dumps(named("file_name", str), ensure_ascii=False).encode("utf-16"),
    "gzip": gzip.compress(json.dumps(named("file_name", str)).encode()),
    "texts as numbers": [
        {**row, "bbox": list(map(str, row["bbox"])), "score": str(row["score"])} for row in named("file_name", str)
    ],
}


@pytest.mark.parametrize("content", [ROWS, *SPELLINGS.values()], ids=["plain", *SPELLINGS])
def test_precompute_and_predict_read_what_pycocotools_reads_in_every_spelling(write, content):
    images = IMAGES
    if content == SPELLINGS["number or stem, as Ultralytics"]:
        assert [row["image_id"] for row in content] == [785, "sub/caf\u00e9", 785, 139]
    expected = by_pycocotools(IMAGES, write(ROWS, "plain.json"))
    path = write(content)
    assert by_annotations(path, write, images) == expected
    if content != ROWS:  # the plain rows have no name of the image that is no number
        assert by_names(path) == expected


@pytest.mark.parametrize("spell", [int, str, float, lambda i: f"{i:012d}", lambda i: f" {i}"])
def test_numbers_are_ids_of_the_annotation_file_and_numbers_in_names_where_there_is_none(write, spell):
    path = write([{**row, "image_id": spell(row["image_id"])} for row in ROWS if row["image_id"] != 12])
    notices = Notices()
    images = [image for image in IMAGES if image["id"] != 12]
    names = [image["file_name"] for image in images]
    expected = by_pycocotools(images, write([row for row in ROWS if row["image_id"] != 12], "plain.json"))
    assert by_names(path, names, notices) == by_annotations(path, write, images) == expected
    exact = spell(139) == "000000000139"
    assert ("number in their image's name, because no file lists images: 3" in "".join(notices.lines())) != exact


# --- whose box is it --------------------------------------------------------------------------------------------------

FRAMES = [f"{i:06d}.jpg" for i in range(5)]


def box_of(i):
    return [10 + i, 5, 30, 40]


@pytest.mark.parametrize("folder", ["", "data/"])
def test_frames_with_other_numbers_than_their_ids_get_their_own_boxes(write, folder):
    """Ids 1, 2, ... in the file, 000000.jpg, 000001.jpg, ... on disk; the file does not list the last frame."""
    listed = [{"id": i + 1, "file_name": folder + FRAMES[i], "width": 200, "height": 150} for i in range(4)]
    rows = [{"image_id": i + 1, "category_id": 1, "bbox": box_of(i), "score": 1} for i in range(4)]
    path = write({"images": listed, "annotations": rows})
    expected = {FRAMES[i]: [[*map(float, box_of(i)), 1.0]] for i in range(4)}
    assert by_names(path, FRAMES) == expected
    images = [{**image, "file_name": FRAMES[image["id"] - 1]} for image in listed]
    images.append({**images[0], "id": 5, "file_name": FRAMES[4]})
    for reordered in (images, [{**image, "id": 10 - image["id"]} for image in images]):
        assert by_annotations(path, write, reordered) == expected
    assert BoxFile(path).match_names(FRAMES, "").image_ids == {i: i + 1 for i in range(4)}


def test_two_folders_with_the_same_names_are_left_out_unless_the_folder_is_given(write):
    listed = [
        {"id": i, "file_name": name, "width": 200, "height": 150}
        for i, name in enumerate(["a/1.jpg", "b/1.jpg", "b/2.jpg"])
    ]
    rows = [{"image_id": i, "category_id": 1, "bbox": box_of(i)} for i in range(1, 3)]
    path, notices = write({"images": listed, "annotations": rows}), Notices()
    assert by_names(path, ["1.jpg", "2.jpg"], notices) == {"2.jpg": [[12, 5, 30, 40, 1]]}
    assert any("boxes whose image is ambiguous" in line and "'b/1.jpg'" in line for line in notices.lines())
    assert set(by_names(path, ["b/1.jpg", "a/1.jpg", "b/2.jpg"])) == {"b/1.jpg", "b/2.jpg"}
    assert set(by_names(path, ["x/1.jpg", "b/2.jpg"])) == {"b/2.jpg"}
    path = write([{"file_name": "1.jpg", "bbox": box_of(0)}])
    with pytest.raises(InputError, match="their names fit several images"):
        by_names(path, ["a/1.jpg", "b/1.jpg"])


def test_the_same_path_keeps_its_boxes_beside_a_name_in_another_folder(write):
    path = write([{"file_name": name, "bbox": box_of(i)} for i, name in enumerate(["old/1.jpg", "1.jpg", "1"])])
    notices = Notices()
    assert [box[0] for box in by_names(path, ["1.jpg"], notices)["1.jpg"]] == [11, 12]
    assert "boxes of images that are not here, left out: 1 (entry 0: 'old/1.jpg')" in notices.lines()


def test_a_picture_of_another_format_is_another_picture(write):
    path = write([{"file_name": "1.jpg", "bbox": box_of(0)}, {"file_name": "2.png", "bbox": box_of(1)}])
    assert set(by_names(path, ["1.png", "2.png"])) == {"2.png"}
    path = write([{"image_id": "1", "bbox": box_of(0)}, {"image_id": "2", "bbox": box_of(1)}])
    assert set(by_names(path, ["1.png", "1.jpg", "2.png"])) == {"2.png"}


def test_two_names_with_one_number_are_ambiguous(write):
    path, notices = write([{"image_id": i, "bbox": box_of(i)} for i in (1, 2)]), Notices()
    assert set(by_names(path, ["1.jpg", "001.jpg", "002.jpg", "x.jpg"], notices)) == {"002.jpg"}
    assert any(
        "boxes whose image is ambiguous" in line and ": 1 (entry 0: image_id 1)" in line for line in notices.lines()
    )


def test_ids_that_are_numbers_in_names_and_no_ids_are_refused(write):
    images = [{"id": i + 1, "file_name": FRAMES[i], "width": 200, "height": 150} for i in range(5)]
    path = write([{"image_id": i, "bbox": box_of(i)} for i in range(5)])
    with pytest.raises(InputError) as caught:
        by_annotations(path, write, images)
    assert str(caught.value).endswith(
        "boxes.json, entry 0: image_id 0 is not an id of the annotation file, but the number in '000000.jpg', whose id "
        "is 1; all ids of the box file are such numbers; give file_name instead of image_id"
    )
    notices = Notices()
    path = write([{"image_id": i + 1, "bbox": box_of(i)} for i in range(5)])
    assert by_annotations(path, write, images, notices) == {
        name: [[*map(float, box_of(i)), 1.0]] for i, name in enumerate(FRAMES)
    }
    assert "boxes found by an image_id that is also the number in another image's name: 4 (" in notices.lines()[0]


def test_a_text_that_is_a_name_and_another_images_id_is_refused(write):
    images = [{"id": i, "file_name": name, "width": 200, "height": 150} for i, name in ((1, "2.jpg"), (2, "1.jpg"))]
    with pytest.raises(InputError, match=r"entry 0: image_id '1' is the name of '1.jpg' and the id of '2.jpg'; write"):
        by_annotations(write([{"image_id": "1", "bbox": box_of(0)}]), write, images)
    path = write([{"image_id": "1.jpg", "bbox": box_of(0)}, {"image_id": 1, "bbox": box_of(1)}])
    assert {name: row[0][0] for name, row in by_annotations(path, write, images).items()} == {"1.jpg": 10, "2.jpg": 11}


def test_a_name_that_contradicts_the_list_of_images_is_refused(write):
    row = {"image_id": 12, "file_name": "000000000139.jpg", "bbox": box_of(0)}
    with pytest.raises(InputError, match=r"entry 0 is for '000000000139.jpg' and for image_id 12, which is 'sub/caf"):
        by_names(write({"images": IMAGES, "annotations": [row]}))
    row["file_name"] = "caf\u00e9.png"
    assert set(by_names(write({"images": IMAGES, "annotations": [row]}))) == {"sub/caf\u00e9.png"}


@pytest.mark.parametrize("key", ["file_name", "image_id"])
def test_a_rows_name_decides_where_the_list_of_images_has_it_twice(write, key):
    listed = [{"id": i, "file_name": name} for i, name in enumerate(["set/1.jpg", "set/a/1.jpg"])]
    path = write({"images": listed, "annotations": [{key: "1.jpg", "bbox": box_of(0)}]})
    assert set(by_names(path, ["1.jpg", "a/1.jpg"])) == {"1.jpg"}
    with pytest.raises(InputError, match=r"its list of images does not contain|their names fit several images"):
        by_names(path, ["a/1.jpg", "b/1.jpg"])


def test_a_path_that_the_list_does_not_have_is_not_that_of_a_shorter_one(write):
    listed = [{"id": 1, "file_name": "2.png"}]
    path = write({"images": listed, "annotations": [{"image_id": "a/2.png", "bbox": box_of(0)}]})
    assert set(by_names(path, ["2.png", "a/2.png"])) == {"a/2.png"}


def test_entries_of_an_image_that_the_file_does_not_list_are_counted(write):
    path, notices = write({"images": IMAGES[1:], "annotations": ROWS}), Notices()
    assert set(by_names(path, NAMES, notices)) == set(NAMES[1:])
    assert "boxes of images that the box file does not list, left out: 1 (entry 3: image_id 139)" in notices.lines()


def test_one_picture_listed_twice_is_refused(write):
    with pytest.raises(InputError, match="two images have the id 139"):
        by_names(write({"images": [*IMAGES, {**IMAGES[0], "file_name": "x.jpg"}], "annotations": ROWS}))


def test_what_does_not_match_is_refused_with_an_example_of_each_side(write):
    path = write([{"image_id": 4, "bbox": box_of(0)}])
    with pytest.raises(InputError) as caught:
        by_names(path, ["a.jpg"])
    assert str(caught.value) == (
        f"no image of pictures has a box in {path} that can be used: no file name or image_id matches: an image is "
        "'a.jpg'; entry 0 of the box file is for image_id 4; give each entry the name of its image as file_name, "
        "relative to the folder of the images"
    )
    with pytest.raises(
        InputError, match=r"none of the annotated images has .* an image is '000000000139.jpg' with id 139"
    ):
        by_annotations(path, write)
    path = write({"images": [{"id": 4, "file_name": "val/b.jpg"}], "annotations": [{"image_id": 4, "bbox": box_of(0)}]})
    with pytest.raises(
        InputError, match=r"an image is 'a.jpg'; entry 0 of the box file is for image_id 4 \('val/b.jpg'\)"
    ):
        by_names(path, ["a.jpg"])


def test_boxes_of_images_that_are_not_here_are_counted(write):
    path, notices = write(ROWS), Notices()
    assert set(by_names(path, ["000000000139.jpg"], notices)) == {"000000000139.jpg"}
    assert "boxes of images that are not here, left out: 3 (entry 0: image_id 785, " in "\n".join(notices.lines())
    notices = Notices()
    by_annotations(path, write, IMAGES[:1], notices)
    assert "boxes of images that the annotation file does not list, left out: 3 (" in "\n".join(notices.lines())


# --- image ids of results ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "ids"),
    [
        ({"images": IMAGES, "annotations": ROWS}, dict(enumerate(IDS))),
        ({"images": IMAGES, "annotations": as_text(ROWS)}, dict(enumerate(IDS))),
        ({"images": [{**IMAGES[0], "id": 139.0}], "annotations": ROWS[3:]}, {0: 139}),
        ({"images": [{**IMAGES[0], "id": "u-1"}], "annotations": [{**ROWS[3], "image_id": "u-1"}]}, {0: "u-1"}),
        ([{**ROWS[3], "file_name": NAMES[0], "image_id": 7}], {0: 7}),
        ([{**ROWS[3], "file_name": NAMES[0], "image_id": i} for i in (7, 8)], {}),
        (named("file_name", str), {}),
        (ROWS, {}),
    ],
)
def test_image_ids_are_those_that_the_file_gives_to_a_name(write, content, ids):
    found = BoxFile(write(content)).match_names(NAMES, "").image_ids
    assert found == ids
    assert all(type(found[i]) is type(ids[i]) for i in ids)


def test_sizes_of_images_are_those_that_the_file_lists(write):
    images = [{**IMAGES[0], "width": 200.0}, {"id": 12, "file_name": NAMES[1]}, IMAGES[2]]
    sizes = {0: SIZE, 2: SIZE}
    rows = [{**row, "file_name": dict(zip(IDS, NAMES, strict=True))[row["image_id"]]} for row in ROWS]
    for annotations in (ROWS, rows, [{**row, "image_id": None} for row in rows]):
        assert (
            BoxFile(write({"images": images, "annotations": annotations})).match_names(NAMES, "").image_sizes == sizes
        )
    assert BoxFile(write(rows)).match_names(NAMES, "").image_sizes == {}


# --- categories -------------------------------------------------------------------------------------------------------

DOG = {"id": 1, "name": "dog"}
ZERO = {"id": 0, "name": "things"}
MAN = {"id": 2, "name": "person"}


def of_categories(*categories):
    return [{"image_id": 139, "category_id": c, "bbox": box_of(i)} for i, c in enumerate(categories)]


@pytest.mark.parametrize(
    ("rows", "own", "kept"),
    [
        ((1, 2, 1), [DOG, MAN], [1]),
        ((1, 2, "2", "person", "dog", None), [ZERO, DOG, {**MAN, "keypoints": list(SKELETON.joints)}], [1, 2, 3, 5]),
        ((1, 2), [DOG, {"id": 2, "name": "pose", "keypoints": list(SKELETON.joints)}], [1]),
        ((1, 2), [{**DOG, "keypoints": ["nose"] * 17}, MAN], [1]),
        ((0, 1, 0), [{"id": 0, "name": "Person"}, DOG], [0, 2]),
        ((0, 0), [{"id": 0, "name": "player"}], [0, 1]),
        ((7.0, "7", 7), [{"id": "7", "name": "person"}, DOG], [0, 1, 2]),
        ((1, 3, None, 1), None, [0, 2, 3]),
        ((0, 0), None, [0, 1]),
        (("person", "car"), None, [0]),
        ((1, 2), [], [0]),
    ],
)
def test_the_files_own_categories_decide_in_both_commands(write, rows, own, kept):
    content = {"annotations": of_categories(*rows)}
    path = write(content if own is None else {**content, "categories": own})
    expected = {NAMES[0]: [[*map(float, box_of(i)), 1.0] for i in kept]}
    notices = Notices()
    assert by_names(path, notices=notices) == expected
    assert by_annotations(path, write) == expected
    others = [line for line in notices.lines() if line.startswith("boxes of categories other than ")]
    assert bool(others) == (len(kept) < len(rows))
    assert not others or f": {len(rows) - len(kept)} (category " in others[0]


def test_a_list_without_categories_has_those_of_the_annotation_file(write):
    path = write(of_categories(2, 1, 0, 2))
    found = by_annotations(path, write, categories=(ZERO, DOG, {**MAN, "keypoints": list(SKELETON.joints)}))
    assert [box[0] for box in found[NAMES[0]]] == [10, 13]


@pytest.mark.parametrize(
    ("rows", "own", "message"),
    [
        ((3, 3), None, "no box of a person (category 1, not a crowd): its 2 entries have category 3"),
        ((2,), None, "no box of a person (category 1, not a crowd): its 1 entries have category 2"),
        ((0, 1, 5), None, "its entries have the categories 0, 1, 5. Ids from 0 are not COCO's, where a person is 1"),
        ((1, 1), [DOG, MAN], "no box of a person (category 2, not a crowd): its 2 entries have category 1"),
        ((1, 2), [DOG, {"id": 2, "name": "cat"}], "none of its 2 categories is a person: 1 'dog', 2 'cat'; name the"),
        ((1,), ["person"], "categories[0] is 'person', not an object with an id"),
        ((1,), [{"id": [1]}], "categories[0] has the id [1]; an id must be a number or a text"),
        ((1,), {"1": "person"}, "categories is {'1': 'person'}, not a list"),
        (([1],), None, "entry 0: category_id must be a number or a text, got [1]"),
        ((True,), None, "entry 0: category_id must be a number or a text, got true"),
        ((), None, "no box of a person (category 1, not a crowd)"),
    ],
)
def test_files_without_a_person_are_refused_by_both_commands(write, rows, own, message):
    content = {"annotations": of_categories(*rows)}
    path = write(content if own is None else {**content, "categories": own})
    for read in (by_names, lambda p: by_annotations(p, write)):
        with pytest.raises(InputError) as caught:
            read(path)
        assert message in str(caught.value)
        assert str(path) in str(caught.value)


def test_category_0_is_no_person_where_the_annotation_file_gives_it_another_name(write):
    path = write(of_categories(0, 0))
    with pytest.raises(InputError, match=r"no box of a person \(category 2, not a crowd\)"):
        BoxFile(path, Categories([2], [0, 1]))
    notices = Notices()
    assert len(BoxFile(path, Categories([2], [1]), notices).rows.entry) == 2
    assert "boxes of category 0, taken for persons" in notices.lines()[0]


def test_crowds_are_left_out_and_counted(write):
    notices = Notices()
    rows = [{**row, "iscrowd": crowd} for row, crowd in zip(named("file_name", str), (1, 0, True, "0"), strict=True)]
    assert set(by_names(write(rows), notices=notices)) == set(NAMES[:2])
    assert "boxes of crowds, left out: 2 (entry 0, entry 2)" in notices.lines()
    rows = [{**row, "iscrowd": crowd} for row, crowd in zip(named("file_name", str), ("true", "false"), strict=False)]
    assert [int(i) for i in BoxFile(write(rows)).rows.entry] == [1]
    with pytest.raises(InputError, match="entry 1 has iscrowd 'maybe'; it must be 0 or 1"):
        BoxFile(write([ROWS[0], {**ROWS[1], "iscrowd": "maybe"}]))


# --- entries ----------------------------------------------------------------------------------------------------------


def test_a_score_may_be_missing_or_null(write):
    rows = named("file_name", str)
    del rows[0]["score"]
    rows[1]["score"] = None
    notices = Notices()
    matched = BoxFile(write(rows), notices=notices).match_names(NAMES, "")
    assert matched.scores.tolist() == [1, 1, 0.5, 1]
    assert notices.lines() == ["boxes whose score is null, taken as 1: 1 (entry 1)"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"bbox": [1, 2, 3]}, "bbox must be four finite numbers x, y, width, height, got [1, 2, 3]"),
        ({"bbox": [1, 2, 3, 4, 5]}, "bbox must be four finite numbers"),
        ({"bbox": [1, 2, 3, float("nan")]}, "bbox must be four finite numbers"),
        ({"bbox": [1, 2, 3, float("inf")]}, "bbox must be four finite numbers"),
        ({"bbox": [1, 2, 3, 1e300]}, "bbox must be four finite numbers"),
        ({"bbox": [1, 2, 3, 10**400]}, "bbox must be four finite numbers"),
        ({"bbox": [1, 2, 3, "x"]}, "bbox must be four finite numbers"),
        ({"bbox": [1, 2, 3, None]}, "bbox must be four finite numbers"),
        ({"bbox": [1, 2, 3, True]}, "bbox must be four finite numbers"),
        ({"bbox": [[1, 2], [3, 4]]}, "bbox must be four finite numbers"),
        ({"bbox": "1234"}, "bbox must be four finite numbers"),
        ({"bbox": {"x": 1}}, "bbox must be four finite numbers"),
        ({"bbox": None}, "image_id (or file_name) and bbox are needed"),
        ({"image_id": None}, "image_id (or file_name) and bbox are needed, got ['bbox', 'category_id', 'image_id'"),
        ({"image_id": [1]}, "image_id must be a number or a text, and file_name a text, got [1]"),
        ({"image_id": True}, "image_id must be a number or a text, and file_name a text, got true"),
        ({"image_id": ""}, "image_id must be a number or a text, and file_name a text"),
        ({"file_name": ["a.jpg"]}, 'file_name must be the name of an image file, got ["a.jpg"]'),
        ({"image_name": 7}, "image_name must be the name of an image file, got 7"),
        ({"file_name": " "}, "file_name must be the name of an image file"),
        ({"image_id": None, "image": {"id": 1}}, 'image must be the name of an image file, got {"id": 1}'),
        ({"score": "high"}, 'score must be a finite number, got "high"'),
        ({"score": float("nan")}, "score must be a finite number, got NaN"),
        ({"score": [0.5]}, "score must be a finite number, got [0.5]"),
        ({"score": True}, "score must be a finite number, got true"),
    ],
)
def test_a_bad_entry_is_refused_with_its_number(write, entry, message):
    path = write([*ROWS, {**ROWS[0], **entry}])
    for read in (by_names, lambda p: by_annotations(p, write)):
        with pytest.raises(InputError) as caught:
            read(path)
        assert f"{path}, entry 4: {message}" in str(caught.value)


def test_an_id_may_be_written_as_image(write):
    rows = [{"image": row["image_id"], "bbox": row["bbox"]} for row in ROWS]
    assert set(by_annotations(write(rows), write)) == set(NAMES)
    rows = [{**row, "image": {"id": 1}} for row in ROWS]
    assert set(by_annotations(write(rows), write)) == set(NAMES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"image_id,x,y,w,h\n1,2,3,4,5\n", "is not JSON .*CSV files and YOLO's label files"),
        (b"0 0.5 0.5 0.2 0.3\n", "is not JSON .*a box file is a JSON list of"),
        (b"\xff\xd8\xff\xe0", "is not JSON"),
        (b"1" * 5000, "is not JSON"),
        (b"7", "contains neither a list of boxes nor COCO annotations"),
        ({"boxes": []}, r"contains neither one list of boxes nor COCO annotations, but the keys \['boxes'\]"),
        ({"detections": ROWS, "results": ROWS}, "but the lists detections, results"),
        ({"annotations": {"1": []}}, "contains neither one list of boxes"),
        ([ROWS], r"entry 0 is \[\{.*, not an object"),
        ([*ROWS, 7], "entry 4 is 7, not an object"),
        ({"images": [{"id": 4}], "annotations": ROWS}, r"image 4 \(images\[0\]\) has the file_name None"),
        ({"images": {"4": "a.jpg"}, "annotations": ROWS}, r"images is \{'4': 'a.jpg'\}, not a list"),
    ],
)
def test_another_structure_is_refused(write, content, message):
    with pytest.raises(InputError, match=message) as caught:
        BoxFile(write(content))
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_box_file(tmp_path):
    with pytest.raises(InputError, match="is a folder; give the path of a JSON file as the box file"):
        BoxFile(tmp_path)


def test_an_empty_list_beside_a_full_one_and_an_empty_list_of_images_are_no_lists(write):
    rows = [row for row in ROWS if row["image_id"] != 12]
    path = write({"images": [], "annotations": [], "detections": rows})
    assert set(by_names(path)) == {NAMES[0], NAMES[2]}


def test_boxes_without_area_inside_their_image_are_left_out_of_a_store_and_counted(write):
    shapes = [[5, 5, 30, 50], [5, 5, 0, 50], [30, 30, -9, -9], [300, 5, 30, 50], [5, 5, 40, 50], [6, 5, 40, 50]]
    notices = Notices()
    path = write([{"image_id": 139, "bbox": box} for box in shapes])
    found = by_annotations(path, write, notices=notices)
    assert [box[:4] for box in found[NAMES[0]]] == [shapes[0], *shapes[4:]]
    assert "boxes without area inside their image, left out: 3 (entry 1, entry 2, entry 3)" in notices.lines()
    with pytest.raises(InputError, match="no box has an area inside its image: 1 of 1 boxes leave their image"):
        by_annotations(write([{"image_id": 139, "bbox": shapes[3]}]), write)


# --- corners and fractions --------------------------------------------------------------------------------------------


def people(count, seed=0):
    rng = np.random.default_rng(seed)
    first = rng.uniform(0, 0.7, (count, 2)) * SIZE
    return np.concatenate([first, rng.uniform(0.3, 1, (count, 2)) * (np.array(SIZE) - first)], axis=1)


def checked(boxes):
    check = FormatCheck()
    for part in np.array_split(boxes, 3):
        check.add(part, SIZE)
    return check.message()


def test_boxes_inside_their_image_are_no_warning():
    boxes = people(60)
    assert checked(boxes) is None
    boxes[:25, 0] += 150  # some leave their image
    assert checked(boxes) is None
    assert checked(np.empty((0, 4))) is None


def test_corners_and_fractions_are_a_warning():
    boxes = people(60)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    assert (corners[:, :2] + corners[:, 2:] > SIZE).any(axis=1).mean() > 0.5
    assert "read as x1, y1, x2, y2 they would fit" in checked(corners)
    fractions = boxes / [*SIZE, *SIZE]
    assert checked(fractions) == (
        "60 of 60 boxes lie between 0 and 1: bbox must be x, y, width, height in pixels, not fractions of the image"
    )
    boxes[:, 2:] *= -1
    assert checked(boxes) == "60 of 60 boxes leave their image: bbox must be x, y, width, height in pixels"
    assert "they would fit" not in checked(people(60) + 1000)


def test_corners_are_used_as_written_with_a_warning(write):
    notices = Notices()
    path = write([{"image_id": 139, "bbox": [90, 80, 150, 140]}])
    assert by_annotations(path, write, notices=notices) == {NAMES[0]: [[90, 80, 150, 140, 1]]}
    (warning,) = notices.warnings
    assert warning.startswith(
        f"{path}: 1 of 1 boxes leave their image: bbox must be x, y, width, height in pixels; read"
    )
    assert "boxes that seem not to be x, y, width, height in pixels: 1 (" in notices.lines()[0]


# --- videos -----------------------------------------------------------------------------------------------------------


def frames(path, notices=None):
    found = BoxFile(path, notices=notices).match_frames("clip.mp4").by_image()
    return {number: boxes.xywh[:, 0].tolist() for number, boxes in found.items()}


@pytest.mark.parametrize("extra", [{}, {"file_name": "clip.mp4"}, {"file_name": "videos/clip.mp4"}, {"image": "clip"}])
@pytest.mark.parametrize("spell", [int, str, float])
def test_in_a_video_the_image_id_is_the_number_of_the_frame(write, extra, spell):
    path = write([{"image_id": spell(i // 2), "bbox": box_of(i), **extra} for i in range(6)])
    assert frames(path) == {0: [10, 11], 1: [12, 13], 2: [14, 15]}


def test_boxes_of_another_video_or_without_a_frame_are_left_out(write):
    rows = [{"image_id": 1, "file_name": "other.mp4"}, {"file_name": "clip.mp4"}, {"image_id": "x"}, {"image_id": -1}]
    path, notices = write([{**row, "bbox": box_of(i)} for i, row in enumerate([*rows, {"image_id": 5}])]), Notices()
    assert frames(path, notices) == {5: [14]}
    assert "boxes of images that are not frames, left out: 4 (" in notices.lines()[0]
    with pytest.raises(
        InputError, match=r"no frame of clip.mp4 has a box in .* entry 0 of the box file is for 'other.mp4'"
    ):
        frames(write([{**rows[0], "bbox": box_of(0)}]))


def test_listed_images_must_be_frames(write):
    rows = [{"image_id": i, "bbox": box_of(i)} for i in range(3)]
    listed = [{"id": i, "file_name": f"frames/clip_{i:05d}.jpg"} for i in range(3)]
    assert frames(write({"images": listed, "annotations": rows})) == {0: [10], 1: [11], 2: [12]}
    listed[1]["file_name"] = "frames/clip_00000.png"
    with pytest.raises(
        InputError, match=r"for a video, image_id must be the number of a frame, from 0, but the file lists"
    ):
        frames(write({"images": listed, "annotations": rows}))
