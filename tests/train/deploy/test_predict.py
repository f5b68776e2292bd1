"""Keypoints of images and videos: coordinates, image ids, files on disk, and unreadable files."""

import json
import re

import cv2
import numpy as np
import pytest

from kdlib.inputs.boxes import Boxes
from kdlib.inputs.folders import find_images
from kdlib.inputs.image_files import ImageFileError
from kdlib.readout import Readout
from kdlib.skeletons.skeleton import COCO
from kdlib.students.loading import LoadedStudent
from tests.support.trained_student import make_checkpoint
from train.__main__ import main
from train.deploy.people import Scene, estimate, whole_image
from train.show.drawing import COLOURS, draw_persons


class DotFinder(LoadedStudent):
    """A student that finds the one bright dot of a crop: its heatmaps are the crop's brightness at the map's size."""

    name, input_size, joints, skeleton, readout = "dots", (96, 128), 17, COCO, Readout("kl", 1.0)

    def __init__(self, stride=4):
        self.stride = stride

    def heatmaps(self, crops):
        self.batch = len(crops)
        grey = crops.astype(np.float32).mean(axis=3) / 255
        small = np.stack([cv2.GaussianBlur(g, (0, 0), self.stride)[:: self.stride, :: self.stride] for g in grey])
        return np.repeat((small / small.max(axis=(1, 2), keepdims=True))[:, None], 17, axis=1)


def dotted(size, *dots):
    image = np.zeros((size[1], size[0], 3), np.uint8)
    for dot in dots:
        cv2.circle(image, dot, 5, (255, 255, 255), -1, cv2.LINE_AA)
    return image


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_points_come_back_in_the_pixels_of_their_picture_whatever_the_batches(stride):
    wide, tall = dotted((400, 150), (90, 60), (330, 100)), dotted((120, 300), (70, 210))
    boxes = Boxes(np.array([[40.0, 20, 100, 90], [280, 60, 90, 80]]), np.array([0.5, 0.9]))
    scenes = [Scene("wide", 1, wide, boxes), Scene("tall", 2, tall, whole_image(tall))]
    for batch_size in (1, 2, 32):
        one, two = estimate(DotFinder(stride), scenes, batch_size)
        np.testing.assert_allclose(one.scores, [0.9, 0.5])  # best first
        np.testing.assert_allclose(one.points[:, 3], [[330, 100], [90, 60]], atol=1.5)
        np.testing.assert_allclose(two.points[0, 16], [70, 210], atol=2.5)
        np.testing.assert_array_equal(one.boxes, boxes.xywh[::-1])


def test_no_batch_is_larger_than_asked_for():
    image = dotted((200, 100), (50, 50))
    boxes = Boxes(np.tile([[30.0, 30, 40, 40]], (7, 1)) + np.arange(7)[:, None] * [3.0, 2, 0, 0], np.ones(7))
    student, sizes = DotFinder(), []
    call = student.heatmaps
    student_call = type("Counted", (DotFinder,), {"heatmaps": lambda _, crops: sizes.append(len(crops)) or call(crops)})
    list(estimate(student_call(), [Scene("a", 1, image, boxes)] * 2, 3))
    assert max(sizes) == 3
    assert sum(sizes) == 14


def test_boxes_outside_their_picture_are_left_out_and_duplicates_suppressed():
    image = dotted((200, 100), (50, 50))
    boxes = Boxes(np.array([[30.0, 30, 40, 40], [300, 20, 50, 50], [30, 30, 40, 40]]), np.array([0.4, 1.0, 0.8]))
    (people,) = estimate(DotFinder(), [Scene("a", 1, image, boxes)], 8)
    np.testing.assert_allclose(people.scores, [0.8])


def test_a_drawing_leaves_its_picture_alone_and_colours_the_sides():
    image = dotted((160, 120), (80, 60))
    (people,) = estimate(DotFinder(), [Scene("a", 1, image, whole_image(image))], 8)
    people.points[0] = np.stack([np.linspace(10, 150, 17), np.full(17, 30.0)], axis=1)
    before = image.copy()
    shown = people.boxes, people.points, people.joint_scores
    drawn = draw_persons(image, *shown, 0.5, COCO)
    assert (image == before).all()
    for joint, side in ((0, "mid"), (9, "left"), (16, "right")):
        x, y = people.points[0, joint].round().astype(int)
        assert tuple(drawn[y, x][::-1]) == COLOURS[side]
    assert (draw_persons(image, *shown, 1.5, COCO) == image).all()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("student") / "best.pt")


def write_pictures(folder, *names, size=(90, 70)):
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), np.random.default_rng(i).integers(0, 256, (size[1], size[0], 3), np.uint8))


def keypoints(out):
    return json.loads((out / "keypoints.json").read_text())


def test_a_folder_gives_coco_results_and_pictures_and_goes_on_past_what_is_broken(checkpoint, tmp_path, capsys):
    write_pictures(tmp_path / "in", "000000000139.jpg", "sub/000000000285.png")
    (tmp_path / "in/000000000300.jpg").write_bytes(b"no picture")
    (tmp_path / "in/notes.txt").write_text("not looked at")
    out = tmp_path / "out"
    assert main(["predict", str(tmp_path / "in"), "--student", str(checkpoint), "--out", str(out)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert "000000000300.jpg is not an image that OpenCV can read (10 bytes)" in lines[0]
    assert lines[-1] == "error: 1 of 3 images could not be read; the others were predicted"
    assert [(r["image_id"], r["file_name"]) for r in keypoints(out)] == [
        (139, "000000000139.jpg"),
        (285, "sub/000000000285.png"),
    ]
    drawn = cv2.imread(str(out / "pictures/sub/000000000285.png"))
    assert drawn.shape == (70, 90, 3)
    assert sorted(p.name for p in out.rglob("*.*")) == ["000000000139.jpg", "000000000285.png", "keypoints.json"]


@pytest.fixture
def predict(checkpoint, tmp_path, capsys):
    """Runs the command on a source below `tmp_path`; returns its exit code, stdout and stderr."""

    def run(source, *flags, out="out"):
        command = ["predict", str(tmp_path / source), "--student", str(checkpoint), "--out", str(tmp_path / out)]
        code = main([*command, "--draw-above", "0", *flags])
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


def test_names_that_differ_in_their_format_alone_stay_apart(predict, tmp_path):
    names = ["a.bmp", "a.jpeg", "a.jpg", "a.png", "a.png.jpg", "a.tif", "a.webp"]
    sizes = {name: (40 + 8 * i, 60) for i, name in enumerate(names)}
    for name, size in sizes.items():
        write_pictures(tmp_path / "in", name, size=size)
    assert predict("in")[0] == 0
    assert [r["file_name"] for r in keypoints(tmp_path / "out")] == names
    drawn = {path.name: cv2.imread(str(path)) for path in (tmp_path / "out/pictures").iterdir()}
    assert {name: (image.shape[1], image.shape[0]) for name, image in drawn.items()} == sizes


@pytest.mark.parametrize("out", ["in/predictions", "in"])
def test_a_second_run_does_not_take_the_drawings_of_the_first_for_pictures(predict, tmp_path, out):
    write_pictures(tmp_path / "in", "a.png", "sub/b.png")
    assert predict("in", out=out) == predict("in", out=out)
    assert [r["file_name"] for r in keypoints(tmp_path / out)] == ["a.png", "sub/b.png"]
    assert len(list((tmp_path / "in").rglob("*.png"))) == 4


def test_an_output_inside_the_source_is_left_out_through_a_link_too(predict, tmp_path):
    write_pictures(tmp_path / "in", "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for _ in range(2):
        assert predict("in", out="link/out")[1].endswith(": 1 person in 1 image\n")
    (tmp_path / "in/a.png").unlink()
    assert "in contains no images except the drawings in" in predict("in", out="in/out")[2]


def test_drawings_never_replace_their_pictures(predict, tmp_path):
    write_pictures(tmp_path / "out/pictures", "a.png")
    before = (tmp_path / "out/pictures/a.png").read_bytes()
    for source in ("out/pictures", "out/pictures/a.png"):
        code, _, error = predict(source)
        assert code == 1
        assert "the drawings would replace the images in" in error
    assert (tmp_path / "out/pictures/a.png").read_bytes() == before


def test_pictures_without_a_drawn_joint_are_said_with_a_height_that_draws(checkpoint, tmp_path, capsys):
    write_pictures(tmp_path / "in", "1.png", "2.png")
    command = ["predict", str(tmp_path / "in"), "--student", str(checkpoint), "--out", str(tmp_path / "out")]
    assert main([*command, "--draw-above", "100"]) == 0
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "show no joint" in line)
    highest = max(max(r["keypoints"][2::3]) for r in keypoints(tmp_path / "out"))
    found = re.fullmatch(
        r"2 of 2 images show no joint: the highest heatmap is (\S+), below --draw-above 100; "
        r"give --draw-above (\S+) to see more",
        line,
    )
    assert float(found[1]) == pytest.approx(highest, rel=0.06)
    bare = [(tmp_path / f"out/pictures/{i}.png").read_bytes() for i in (1, 2)]
    assert main([*command, "--draw-above", found[2]]) == 0
    drawn = [(tmp_path / f"out/pictures/{i}.png").read_bytes() for i in (1, 2)]
    assert drawn != bare
    capsys.readouterr()
    assert main([*command, "--draw-above", "100", "--no-pictures"]) == 0
    assert "show no joint" not in capsys.readouterr().err


def test_pycocotools_reads_the_results(checkpoint, tmp_path):
    from pycocotools.coco import COCO

    write_pictures(tmp_path / "in", "7.jpg")
    assert main(["predict", str(tmp_path / "in/7.jpg"), "--student", str(checkpoint), "--out", str(tmp_path)]) == 0
    truth = COCO()
    truth.dataset = {"images": [{"id": 7}], "annotations": [], "categories": [{"id": 1}]}
    truth.createIndex()
    loaded = truth.loadRes(str(tmp_path / "keypoints.json"))
    (annotation,) = loaded.loadAnns(loaded.getAnnIds())
    assert len(annotation["keypoints"]) == 51
    assert annotation["keypoints"][2] > 0  # the height of the joint's heatmap


def test_half_a_picture_is_not_looked_at(tmp_path):
    write_pictures(tmp_path, "000139.jpg")
    (picture,) = find_images(tmp_path)
    picture.read()
    content = picture.path.read_bytes()
    picture.path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageFileError, match=r"000139\.jpg is truncated"):
        picture.read()


def test_a_drawing_that_opencv_does_not_encode_is_no_empty_file(checkpoint, tmp_path, monkeypatch, capsys):
    write_pictures(tmp_path / "in", "000139.jpg")
    monkeypatch.setattr(cv2, "imencode", lambda *_: (False, np.empty(0, np.uint8)))
    command = ["predict", str(tmp_path / "in"), "--student", str(checkpoint), "--out", str(tmp_path / "out")]
    assert main(command) == 1
    assert "cannot write" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*.jpg"))


def test_a_folder_called_pictures_is_a_source_where_nothing_is_drawn(checkpoint, tmp_path):
    write_pictures(tmp_path / "pictures", "000139.jpg")
    command = ["predict", str(tmp_path / "pictures"), "--student", str(checkpoint), "--out", str(tmp_path)]
    assert main(command) == 1
    assert main([*command, "--no-pictures"]) == 0
    assert len(keypoints(tmp_path)) == 1


def test_detections_say_where_to_look(checkpoint, tmp_path, capsys):
    write_pictures(tmp_path / "in", "000139.jpg", "000285.jpg")
    detections = [
        {"image_id": 139, "category_id": 1, "bbox": [5, 5, 30, 50], "score": 0.9},
        {"image_id": 139, "category_id": 1, "bbox": [50, 10, 30, 40], "score": 0.8},
        {"image_id": 139, "category_id": 1, "bbox": [1, 1, 9, 9], "score": 0.1},
        {"image_id": 139, "category_id": 3, "bbox": [1, 1, 9, 9], "score": 1.0},
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(detections))
    command = ["predict", str(tmp_path / "in"), "--student", str(checkpoint), "--boxes", str(tmp_path / "boxes.json")]
    assert main([*command, "--out", str(tmp_path / "out"), "--no-pictures"]) == 0
    assert "1 of 2 images have no boxes" in capsys.readouterr().err
    assert sorted(r["bbox"] for r in keypoints(tmp_path / "out")) == [[5, 5, 30, 50], [50, 10, 30, 40]]
    assert not (tmp_path / "out/pictures").exists()


def boxes_of(out):
    return {name: box for name, box in sorted((r["file_name"], r["bbox"]) for r in keypoints(out))}


def test_a_picture_that_the_file_does_not_list_gets_no_other_pictures_boxes(predict, tmp_path):
    """Ids 1, 2, ... in the file, 000000.jpg, 000001.jpg, ... on disk. The image ids are those of the file, by name."""
    names = [f"{i:06d}.jpg" for i in range(4)]
    write_pictures(tmp_path / "in", *names)
    boxes = [[5 + i, 5, 30, 50] for i in range(3)]
    content = {
        "images": [{"id": i + 1, "file_name": f"data/{names[i]}", "width": 90, "height": 70} for i in range(3)],
        "annotations": [{"image_id": i + 1, "category_id": 1, "bbox": boxes[i]} for i in range(3)],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    code, _, error = predict("in", "--boxes", str(tmp_path / "boxes.json"))
    assert code == 0
    assert "1 of 4 images have no boxes in" in error
    assert boxes_of(tmp_path / "out") == dict(zip(names, boxes, strict=False))
    assert [r["image_id"] for r in keypoints(tmp_path / "out")] == [1, 2, 3]


def test_the_results_are_a_box_file_for_the_same_pictures(predict, tmp_path):
    write_pictures(tmp_path / "in", "b.jpg", "sub/a.jpg")
    rows = [{"file_name": "b.jpg", "image_id": 20, "bbox": [5, 5, 30, 50]}, {"image_id": "a", "bbox": [9, 5, 40, 50]}]
    (tmp_path / "boxes.json").write_text(json.dumps(rows))
    assert predict("in", "--boxes", str(tmp_path / "boxes.json"), out="one")[0] == 0
    flags = ("--min-box-score=-1e9", "--boxes", str(tmp_path / "one/keypoints.json"))
    assert predict("in", *flags, out="two")[0] == 0
    assert (
        boxes_of(tmp_path / "two")
        == boxes_of(tmp_path / "one")
        == {"b.jpg": rows[0]["bbox"], "sub/a.jpg": rows[1]["bbox"]}
    )
    assert [r["image_id"] for r in keypoints(tmp_path / "two")] == [r["image_id"] for r in keypoints(tmp_path / "one")]


def test_what_was_left_out_of_the_box_file_is_said(predict, tmp_path):
    write_pictures(tmp_path / "in", "1.png", "2.png")
    rows = [
        {"image_id": 1, "category_id": 1, "bbox": [60, 40, 80, 60], "score": None},
        {"image_id": 1, "category_id": 3, "bbox": [5, 5, 30, 50], "score": 0.9},
        {"image_id": 2, "category_id": 1, "bbox": [5, 5, 30, 50], "score": 0.2},
        {"image_id": 3, "category_id": 1, "bbox": [5, 5, 30, 50], "score": 0.9},
    ]
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(rows))
    code, _, error = predict("in", "--boxes", str(path))
    assert code == 0
    assert error.splitlines() == [
        f"1 of 2 images have no boxes in {path} with a score of 0.3 or more: left out",
        f"noticed: {path}: boxes of categories other than 1, left out: 1 (category 3)",
        f"noticed: {path}: boxes whose score is null, taken as 1: 1 (entry 0)",
        f"noticed: {path}: boxes found by the number in their image's name, because no file lists images: 2 "
        "(entry 0: image_id 1, entry 2: image_id 2)",
        f"noticed: {path}: boxes of images that are not here, left out: 1 (entry 3: image_id 3)",
        f"noticed: {path}: boxes with a score below --min-box-score 0.3, left out: 1 (entry 2)",
        f"warning: {path}: 1 of 1 boxes leave their image: bbox must be x, y, width, height in pixels; read as x1, y1, "
        "x2, y2 they would fit",
    ]


def test_boxes_without_area_inside_their_picture_are_counted(predict, tmp_path):
    write_pictures(tmp_path / "in", "1.png", "2.png", size=(90, 70))
    shapes = [[5, 5, 30, 50], [5, 5, 0, 50], [30, 30, -9, -9], [200, 5, 30, 50]]
    (tmp_path / "boxes.json").write_text(json.dumps([{"image_id": 1, "bbox": box} for box in shapes]))
    code, output, _ = predict("in", "--boxes", str(tmp_path / "boxes.json"))
    assert code == 0
    assert output.endswith("keypoints.json: 1 person in 1 image; 3 boxes left out: no area inside the image\n")
    (tmp_path / "boxes.json").write_text(json.dumps([{"image_id": i, "bbox": [5, 5, 0, 9]} for i in (1, 1, 2)][1:]))
    assert ": 0 persons in 2 images; 2 boxes left out" in predict("in", "--boxes", str(tmp_path / "boxes.json"))[1]


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([], "boxes.json contains no box of a person (category 1, not a crowd)"),
        (
            [(1, 3, 1.0)],
            "boxes.json contains no box of a person (category 1, not a crowd): its 1 entries have category 3",
        ),
        ([(1, 1, 0.1), (2, 1, 0.25)], "boxes.json has a score below --min-box-score 0.3; the highest is 0.25"),
        (
            [(1, 1, 0.1), (2, 1, 0.9)],
            "that can be used: each has a score below --min-box-score 0.3; the highest is 0.1",
        ),
        (
            [(2, 1, 0.9)],
            "that can be used: no file name or image_id matches: an image is '1.png'; entry 0 of the box file is for "
            "image_id 2; give each entry the name of its image as file_name, relative to the folder of the images",
        ),
    ],
)
def test_pictures_without_boxes_are_refused_with_the_reason(predict, tmp_path, boxes, message):
    write_pictures(tmp_path, "1.png")
    entries = [{"image_id": i, "category_id": c, "bbox": [1, 2, 30, 40], "score": s} for i, c, s in boxes]
    (tmp_path / "boxes.json").write_text(json.dumps(entries))
    code, _, error = predict("1.png", "--boxes", str(tmp_path / "boxes.json"))
    assert code == 1
    assert error.endswith(f"{message}\n")
    assert error.count("\n") == 1


def test_pictures_are_upright_and_names_that_are_no_numbers_are_counted(tmp_path):
    content = cv2.imencode(".jpg", dotted((40, 20), (5, 10)))[1].tobytes()
    orientation = b"\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00"  # a quarter turn
    exif = b"\xff\xe1\x00\x22Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00" + orientation + bytes(4)
    (tmp_path / "turned.jpg").write_bytes(content[:2] + exif + content[2:])
    (picture,) = find_images(tmp_path)
    assert picture.read().shape == (40, 20, 3)
    np.testing.assert_array_equal(picture.read(), cv2.imread(str(picture.path), cv2.IMREAD_COLOR))
    assert picture.number is None


def test_a_video_comes_back_frame_by_frame(checkpoint, tmp_path, capsys):
    clip = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for i in range(5):
        writer.write(np.full((48, 64, 3), 40 * i, np.uint8))
    writer.release()
    (tmp_path / "boxes.json").write_text(json.dumps([{"image_id": 3, "bbox": [2, 2, 50, 40]}]))
    command = ["predict", str(clip), "--student", str(checkpoint), "--out", str(tmp_path / "out")]
    assert main([*command, "--batch-size", "2", "--draw-above", "100"]) == 0
    assert "5 of 5 frames show no joint" in capsys.readouterr().err
    assert [r["image_id"] for r in keypoints(tmp_path / "out")] == [0, 1, 2, 3, 4]
    capture = cv2.VideoCapture(str(tmp_path / "out/clip.mp4"))
    assert [capture.read()[0] for _ in range(6)] == [True] * 5 + [False]
    assert main([*command, "--boxes", str(tmp_path / "boxes.json")]) == 0
    assert [r["image_id"] for r in keypoints(tmp_path / "out")] == [3]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"clip.mp4", "keypoints.json"}
    (tmp_path / "boxes.json").write_text(json.dumps([{"image_id": 5, "bbox": [2, 2, 50, 40]}]))
    assert main([*command, "--boxes", str(tmp_path / "boxes.json")]) == 1
    assert "no frame of" in capsys.readouterr().err
    assert main(["predict", str(clip), "--student", str(checkpoint), "--out", str(tmp_path)]) == 1
    assert "is the video itself" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.jpg", "there is no image"),
        ("empty", "contains no images"),
        ("text.avi", "neither an image nor a video"),
    ],
)
def test_a_source_without_pictures_is_refused_in_one_line(checkpoint, tmp_path, name, message, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.avi").write_text("hello")
    assert main(["predict", str(tmp_path / name), "--student", str(checkpoint), "--out", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err


def test_a_url_is_no_local_file(checkpoint, tmp_path, capsys):
    url = "https://x.y/z.jpg"
    assert main(["predict", url, "--student", str(checkpoint), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error == f"error: {url} is a URL; predict reads local files: download it and give the path of the file\n"


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("file", "file is a file; give a folder"),
        ("file/below", "below: Not a directory"),
        ("taken", "taken/keypoints.json: Is a directory"),
        ("drawn", "drawn/pictures/a.png: Is a directory"),
    ],
)
def test_an_output_that_cannot_be_written_is_one_line(predict, tmp_path, out, message):
    write_pictures(tmp_path / "in", "a.png")
    (tmp_path / "file").write_text("")
    (tmp_path / "taken/keypoints.json").mkdir(parents=True)
    (tmp_path / "drawn/pictures/a.png").mkdir(parents=True)
    code, _, error = predict("in", out=out)
    assert code == 1
    assert message in error
    assert "Errno" not in error
    assert error.count("\n") == 1


def test_where_no_picture_can_be_read_nothing_is_said_of_others(predict, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    code, output, error = predict("a.png")
    assert code == 1
    assert output.endswith(": 0 persons in 0 images\n")
    assert error.splitlines()[-1] == "error: no image could be read"
