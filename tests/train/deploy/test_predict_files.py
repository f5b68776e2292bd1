"""What predict does with the files it meets: orientations, formats, sizes, frame rates, and drawings that fail."""

import json

import cv2
import numpy as np
import pytest

from kdlib.inputs.boxes import Boxes
from tests.support import oriented
from tests.support.trained_student import make_checkpoint
from train.__main__ import main
from train.deploy.output import VideoWriter, drawing_names
from train.deploy.people import People, Scene

SCENE = cv2.resize(np.random.default_rng(5).integers(0, 256, (7, 9, 3)).astype(np.uint8), (90, 70))
BOX = [12.0, 8.0, 40.0, 50.0]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("student") / "best.pt")


@pytest.fixture
def predict(checkpoint, tmp_path, capsys):
    """Runs the command on a source below `tmp_path`; returns its exit code, the results, and the lines on stderr."""

    def run(source, *flags, out="out"):
        folder = tmp_path / out
        (folder / "keypoints.json").unlink(missing_ok=True)
        command = ["predict", str(tmp_path / source), "--student", str(checkpoint), "--out", str(folder)]
        code = main([*command, *flags])
        written = folder / "keypoints.json"
        results = json.loads(written.read_text()) if written.exists() else None
        return code, results, capsys.readouterr().err.splitlines()

    return run


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_bytes(content)


def annotate(path, name, size, box):
    image = {"id": 7, "file_name": name, "width": size[0], "height": size[1]}
    annotation = {"id": 1, "image_id": 7, "category_id": 1, "bbox": box}
    document = {"images": [image], "annotations": [annotation], "categories": [{"id": 1, "name": "person"}]}
    path.write_text(json.dumps(document))
    return ["--boxes", str(path)]


def numbers(results):
    return [result["keypoints"] for result in results]


def test_boxes_of_annotations_are_in_the_pixels_of_their_size(predict, tmp_path):
    """The same boxes on the upright and on the stored pixels give what plain images give."""
    stored = oriented.unview(SCENE, 6)
    write(tmp_path / "turned", a_png=oriented.png(stored, oriented.exif(6)))
    write(tmp_path / "upright", a_png=oriented.png(SCENE))
    write(tmp_path / "stored", a_png=oriented.png(stored))
    for plain, size in (("upright", (90, 70)), ("stored", (70, 90))):
        flags = annotate(tmp_path / "boxes.json", "a.png", size, BOX)
        code, expected, lines = predict(plain, *flags)
        assert (code, lines) == (0, [])
        code, found, lines = predict("turned", *flags)
        assert code == 0
        assert numbers(found) == numbers(expected)
        kind = "turned by their EXIF orientation" if plain == "upright" else "used as stored, without their EXIF"
        assert [line for line in lines if f"images {kind}" in line and line.endswith("1 (a.png)")]
    everything = predict("turned")[1], predict("upright")[1]
    assert numbers(everything[0]) == numbers(everything[1])
    ignored = predict("turned", "--exif", "ignore")[1], predict("stored")[1]
    assert numbers(ignored[0]) == numbers(ignored[1])


def test_every_format_is_predicted_on_and_drawn_in_one_that_can_be_written(predict, tmp_path):
    def encoded(suffix):
        return cv2.imencode(suffix, SCENE)[1].tobytes()

    write(tmp_path / "in", plain=encoded(".png"), b_gif=encoded(".gif"), c_jfif=encoded(".jpg"), d_txt=b"no image")
    write(tmp_path / "in", b_gif_jpg=encoded(".jpg"), e_HEIC=b"\0\0\0\x18ftypheic" + bytes(60))
    code, results, lines = predict("in")
    assert code == 0
    assert [r["file_name"] for r in results] == ["b.gif", "b.gif.jpg", "c.jfif", "plain"]
    assert [r["image_id"] for r in results] == [1, 2, 3, 4]
    assert len([line for line in lines if "OpenCV cannot read here" in line and "e.HEIC (HEIC)" in line]) == 1
    drawn = sorted(path.name for path in (tmp_path / "out/pictures").iterdir())
    assert drawn == ["b.gif.jpg", "b.gif.png", "c.jfif.jpg", "plain.jpg"]
    assert all(cv2.imread(str(path)).shape == (70, 90, 3) for path in (tmp_path / "out/pictures").iterdir())


def test_names_of_drawings_are_different_for_different_images():
    names = ["a.gif", "a.gif.jpg", "a.gif.png", "sub/a.gif", "a", "a.JPG"]
    drawn = drawing_names(names)
    assert len(set(drawn.values())) == len(names)
    assert (drawn["a.gif.jpg"], drawn["a.JPG"], drawn["sub/a.gif"]) == ("a.gif.jpg", "a.JPG", "sub/a.gif.jpg")


def test_an_image_in_a_format_that_opencv_cannot_read_is_one_line(predict, tmp_path):
    write(tmp_path, IMG_jpg=b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(60))
    code, results, (line,) = predict("IMG.jpg")
    assert (code, results) == (1, None)
    assert line.endswith("IMG.jpg is a HEIC image, which OpenCV cannot read here; convert it to JPEG or PNG")


def test_one_image_beyond_all_limits_costs_no_other(predict, tmp_path):
    content = bytearray(oriented.png(SCENE))
    content[16:33] = oriented.chunk(b"IHDR", (60_000).to_bytes(4, "big") * 2 + content[24:29])[8:]
    write(tmp_path / "in", a_png=oriented.png(SCENE), b_png=content, c_png=oriented.png(SCENE))
    code, results, lines = predict("in")
    assert code == 1
    assert [r["file_name"] for r in results] == ["a.png", "c.png"]
    assert any("b.png cannot be decoded by OpenCV (pixels <= CV_IO_MAX_IMAGE_PIXELS; " in line for line in lines)
    assert lines[-1] == "error: 1 of 3 images could not be read; the others were predicted"


def test_a_huge_image_gives_the_points_of_its_part(predict, tmp_path):
    wide = np.zeros((70, 33_000, 3), np.uint8)
    wide[:, 32_000:32_090] = SCENE
    narrow = np.zeros((70, 300, 3), np.uint8)
    narrow[:, 100:190] = SCENE
    write(tmp_path, wide_png=oriented.png(wide), narrow_png=oriented.png(narrow))
    found = {}
    for name, start in (("wide.png", 32_000), ("narrow.png", 100)):
        box = [BOX[0] + start, *BOX[1:]]
        flags = annotate(tmp_path / "boxes.json", name, (33_000 if start > 100 else 300, 70), box)
        code, results, _ = predict(name, *flags, "--no-pictures")
        assert code == 0
        found[name] = np.reshape(results[0]["keypoints"], (17, 3)) - [start, 0, 0]
    np.testing.assert_allclose(found["wide.png"], found["narrow.png"], atol=0.02)


def test_an_image_of_one_column_is_no_crash(predict, tmp_path):
    write(tmp_path / "in", a_png=oriented.png(SCENE[:, :1]), b_png=oriented.png(SCENE))
    code, results, _ = predict("in")
    assert code == 0
    assert [r["file_name"] for r in results] == ["b.png"]  # as in HRNet, a box of one column has no area


# --- videos and drawings ----------------------------------------------------------------------------------------------


def write_clip(path, rate=25.0, frames=3, code="MJPG"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), rate, (64, 48))
    for i in range(frames):
        writer.write(np.full((48, 64, 3), 60 * i, np.uint8))
    writer.release()


@pytest.mark.parametrize("rate", [66.667, 211.222])
def test_a_video_of_an_odd_rate_is_drawn_at_nearly_that_rate(predict, tmp_path, rate):
    write_clip(tmp_path / "a.avi", rate)
    code, results, _ = predict("a.avi")
    assert code == 0
    assert [r["image_id"] for r in results] == [0, 1, 2]
    capture = cv2.VideoCapture(str(tmp_path / "out/a.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(rate, rel=1e-4)
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 3


def test_a_video_that_cannot_be_drawn_is_still_predicted(predict, tmp_path, monkeypatch):
    write_clip(tmp_path / "a.avi")
    monkeypatch.setattr(cv2.VideoWriter, "isOpened", lambda self: False)
    code, results, lines = predict("a.avi", "--draw-above", "0")
    assert code == 1
    assert len(results) == 3
    assert [line for line in lines if line.startswith("error: ")] == lines
    assert "cannot write" in lines[0]
    assert lines[0].endswith("(keypoints.json is complete)")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["keypoints.json"]


def test_images_that_cannot_be_drawn_are_still_predicted(predict, tmp_path, monkeypatch):
    write(tmp_path / "in", **{f"{i}_png": oriented.png(SCENE) for i in range(6)})
    monkeypatch.setattr(cv2, "imencode", lambda *_: (False, np.empty(0, np.uint8)))
    code, results, lines = predict("in", "--draw-above", "0")
    assert code == 1
    assert len(results) == 6
    assert [line.endswith("give --no-pictures to skip the drawings") for line in lines] == [True] * 3 + [False] * 2
    assert lines[3] == "2 more drawings could not be written"
    assert lines[4].startswith("error: this OpenCV cannot write ")
    assert lines[4].endswith("(keypoints.json is complete)")


def test_frames_of_another_size_are_drawn_at_that_of_the_first(tmp_path):
    def people(width, height):
        scene = Scene("a", 0, np.full((height, width, 3), 200, np.uint8), Boxes(np.empty((0, 4)), np.empty(0)))
        none = np.empty((0, 17), np.float32)
        return People(scene, np.empty((0, 4)), np.empty((0, 17, 2)), none, np.empty(0), 0)

    with VideoWriter(tmp_path / "a.mp4", 25.0, 0.1) as writer:
        for size in ((64, 48), (32, 80), (64, 48)):
            writer.write(people(*size))
    assert writer.failure is None
    capture = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    frames = [capture.read()[1] for _ in range(3)]
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 3
    assert not capture.read()[0]


@pytest.mark.parametrize("content", [b"", b"hello"])
def test_what_is_neither_image_nor_video_is_one_line(predict, tmp_path, content):
    write(tmp_path, clip0001_txt=content)
    code, results, (line,) = predict("clip0001.txt")
    assert (code, results) == (1, None)
    assert line.endswith("clip0001.txt is neither an image nor a video that OpenCV can read")
