"""A trained student predicts keypoints in the pixels of an image, from a checkpoint and from an exported file."""

import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import kdlib
from kdlib.errors import KdlibError
from kdlib.geometry import box_to_region, clip_boxes, region_affine, transform_points
from kdlib.students import LoadedStudent, load_student
from kdlib.students.checkpoint import read
from kdlib.students.loading import TorchStudent
from tests.support.trained_student import make_checkpoint
from train.__main__ import main
from train.run.folder import save_checkpoint

WIDTH, HEIGHT = 150, 110
BOXES = [[10, 5, 50, 90], [60.5, 20.25, 70, 80], [-20, 30, 60, 60]]


@pytest.fixture(scope="module")
def image():
    """Smooth random colours (H, W, 3)."""
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("student") / "best.pt")


@pytest.fixture(scope="module")
def student(checkpoint):
    return load_student(checkpoint, "cpu")


class BrightestPixel(LoadedStudent):
    """Its heatmaps are the brightness of every fourth pixel, so its keypoints are the brightest pixel of a crop."""

    name, input_size, joints = "brightest", (96, 128), 17

    def heatmaps(self, crops):
        brightness = crops.astype(np.float32).mean(axis=3) / 255
        blurred = np.stack([cv2.GaussianBlur(one, (0, 0), 4)[::4, ::4] for one in brightness])
        return np.repeat(blurred[:, None], 17, axis=1)


def test_keypoints_are_in_image_pixels():
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    cv2.circle(image, (40, 62), 3, (255, 255, 255), -1, cv2.LINE_AA)
    keypoints = BrightestPixel().predict(image, [[20, 30, 50, 60], [0, 0, WIDTH, HEIGHT]])
    assert keypoints.shape == (2, 17, 3)
    np.testing.assert_allclose(keypoints[..., :2], np.broadcast_to([40, 62], (2, 17, 2)), atol=1.5)


def test_predictions_are_the_decoded_maps_of_hrnets_crop(student, image):
    """By hand, for an input that is not square: crop, normalise, softmax, maximum, and back to the image."""
    box = np.array([BOXES[0]], float)
    (center,), (size,) = box_to_region(clip_boxes(box, [[WIDTH, HEIGHT]]), (48, 64))
    affine = region_affine(center, size, (48, 64))
    crop = cv2.warpAffine(image, affine, (48, 64), flags=cv2.INTER_LINEAR)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    inputs = torch.from_numpy(((crop / 255 - mean) / std).transpose(2, 0, 1)[None]).float()
    with torch.inference_mode():
        maps = student.model(inputs)[0]
    keypoints = student.predict(image, box, decoder="argmax")[0]
    row, column = np.divmod(maps.flatten(1).argmax(dim=1).numpy(), maps.shape[-1])
    peaks = transform_points(keypoints[:, :2], affine) / 4
    assert np.abs(peaks - np.stack([column, row], axis=1)).max() <= 0.26
    temperature, sigma = student.readout.temperature, student.readout.sigma
    density = (maps.flatten(1) / temperature).softmax(dim=1)
    heights = density.amax(dim=1) * 2 * np.pi * sigma**2 * temperature
    np.testing.assert_allclose(keypoints[:, 2], heights, rtol=1e-3)


def test_an_array_and_its_file_give_the_same_keypoints(student, image, tmp_path):
    Image.fromarray(image).save(tmp_path / "image.png")
    expected = student.predict(image, BOXES)
    assert expected.shape == (3, 17, 3)
    assert np.isfinite(expected).all()
    for path in (tmp_path / "image.png", str(tmp_path / "image.png")):
        np.testing.assert_array_equal(student.predict(path, BOXES), expected)


def test_the_exif_orientation_of_a_file_is_applied(student, image, tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6  # rotate by 90 degrees clockwise to view
    Image.fromarray(np.rot90(image).copy()).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(student.predict(tmp_path / "turned.png", BOXES), student.predict(image, BOXES))


def test_without_boxes_the_whole_image_is_one_box(student, image):
    whole = student.predict(image, [[0, 0, WIDTH, HEIGHT]])
    np.testing.assert_array_equal(student.predict(image), whole)


@pytest.mark.parametrize("boxes", [[], np.empty((0, 4))])
def test_no_boxes_give_no_keypoints(student, image, boxes):
    assert student.predict(image, boxes).shape == (0, 17, 3)


def test_a_box_outside_the_image_gives_nan_and_height_0(student, image):
    boxes = [BOXES[0], [500, 5, 20, 20], [10, 10, 0, 30], BOXES[1]]
    keypoints = student.predict(image, boxes)
    np.testing.assert_array_equal(keypoints[[0, 3]], student.predict(image, BOXES[:2]))
    assert np.isnan(keypoints[1:3, :, :2]).all()
    assert (keypoints[1:3, :, 2] == 0).all()


def test_the_batch_size_changes_nothing(student, image):
    expected = student.predict(image, BOXES)
    for batch_size in (1, 2):
        np.testing.assert_allclose(student.predict(image, BOXES, batch_size=batch_size), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((8, 8), np.uint8), r"an image must be an array \(H, W, 3\) of uint8 RGB, got shape \(8, 8\)"),
        (np.zeros((8, 8, 4), np.uint8), r"got shape \(8, 8, 4\)"),
        (np.zeros((8, 8, 3), np.float32), "and dtype float32"),
        ("nowhere.jpg", "cannot read the image nowhere.jpg: No such file"),
    ],
)
def test_what_is_not_an_image_is_refused(student, wrong, message):
    with pytest.raises(KdlibError, match=message):
        student.predict(wrong)


def test_a_file_that_is_not_an_image_is_refused(student, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(KdlibError, match=r"the image .*text\.jpg is not an image that OpenCV can read"):
        student.predict(tmp_path / "text.jpg")


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([1, 2, 3, 4], r"boxes must be numbers \(N, 4\), .* got an array of shape \(4,\)"),
        ([[1, 2, 3]], r"got an array of shape \(1, 3\)"),
        (np.zeros((3, 0)), r"got an array of shape \(3, 0\)"),
        ([[1, 2, 3, 4], [1, 2]], r"boxes must be numbers \(N, 4\)"),
        ([["a", "b", "c", "d"]], r"boxes must be numbers \(N, 4\)"),
        ([[0, 0, 5, 5], [1, 2, float("nan"), 4]], r"boxes must be finite; box 1 is \[1.0, 2.0, nan, 4.0\]"),
        ([[1, 2, float("inf"), 4]], "boxes must be finite; box 0"),
    ],
)
def test_what_are_not_boxes_is_refused(student, image, boxes, message):
    with pytest.raises(KdlibError, match=message):
        student.predict(image, boxes)


def test_an_unknown_decoder_and_an_empty_batch_are_refused(student, image):
    with pytest.raises(KdlibError, match="unknown decoder 'drak'; choose argmax, dark"):
        student.predict(image, decoder="drak")
    with pytest.raises(KdlibError, match="the batch size must be positive, got 0"):
        student.predict(image, batch_size=0)


def test_the_command_predicts_the_same(student, checkpoint, image, tmp_path):
    cv2.imwrite(str(tmp_path / "7.png"), image[:, :, ::-1])
    detections = [{"image_id": 7, "category_id": 1, "bbox": box, "score": 0.9 - 0.1 * i} for i, box in enumerate(BOXES)]
    (tmp_path / "boxes.json").write_text(json.dumps(detections))
    flags = ["--student", str(checkpoint), "--boxes", str(tmp_path / "boxes.json"), "--out", str(tmp_path / "out")]
    assert main(["predict", str(tmp_path / "7.png"), *flags, "--device", "cpu", "--no-pictures"]) == 0
    keypoints = student.predict(image, BOXES)
    results = json.loads((tmp_path / "out" / "keypoints.json").read_text())
    assert len(results) == 3
    for result in results:
        expected = keypoints[[box == result["bbox"] for box in BOXES].index(True)]
        np.testing.assert_allclose(np.reshape(result["keypoints"], (17, 3)), expected, atol=6e-4)  # 3 decimals


@pytest.mark.parametrize("flags", [[], ["--normalised"]])
def test_an_exported_student_predicts_what_its_checkpoint_predicts(student, checkpoint, image, tmp_path, flags):
    pytest.importorskip("onnxscript", reason="exporting needs the extra [export]")
    pytest.importorskip("onnxruntime", reason="exporting needs the extra [export]")
    path = tmp_path / "student.onnx"
    assert main(["export", "--student", str(checkpoint), "--out", str(path), *flags]) == 0
    exported = load_student(path, "cpu")
    assert (exported.name, exported.input_size, exported.joints) == (student.name, (48, 64), 17)
    assert exported.readout.joint_threshold("dark") == student.readout.joint_threshold("dark")
    np.testing.assert_allclose(exported.predict(image, BOXES), student.predict(image, BOXES), atol=0.02)


def test_the_library_loads_a_student_by_its_first_name(checkpoint):
    student = kdlib.students.load_student(str(checkpoint), device="cpu")
    assert isinstance(student, TorchStudent)
    assert (student.backbone, student.head, student.device.type) == ("squeezenet1_1", "fused", "cpu")


def changed(checkpoint, path, change):
    content = read(checkpoint)
    change(content)
    save_checkpoint(path, content)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c.update(joints=5),
            r"changed\.pt has 5 joints per instance and states no skeleton, which means COCO's, with 17",
        ),
        (lambda c: c["model"].pop("head.final.bias"), "it has [0-9]+ of the [0-9]+ tensors of the student"),
        (lambda c: c["model"].update(more=torch.zeros(1)), "its entry 'more' does not belong to the student"),
        (lambda c: c.pop("supervision"), r"changed\.pt is not a complete checkpoint of a student: .*'supervision'"),
        (lambda c: c.update(model=[1, 2]), "is not a complete checkpoint"),
        (lambda c: c["recipe"].update(head="fusde"), r"cannot build the student of .*changed\.pt: no head is called"),
        (lambda c: c.update(input_size="large"), r"cannot build the student of .*changed\.pt: an input size looks"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_in_one_line(checkpoint, tmp_path, change, message):
    path = changed(checkpoint, tmp_path / "changed.pt", change)
    with pytest.raises(KdlibError, match=message) as refusal:
        load_student(path, "cpu")
    assert "\n" not in str(refusal.value)


def test_files_that_are_not_students_are_refused(tmp_path):
    (tmp_path / "text.pt").write_text("no checkpoint")
    (tmp_path / "text.onnx").write_text("no network")
    for name, message in (
        ("gone.pt", "no student at"),
        ("text.pt", "is not a student's checkpoint: it is truncated or was not written by PyTorch"),
        ("gone.onnx", "no student at"),
        ("text.onnx", "onnxruntime cannot open"),
    ):
        if name.endswith(".onnx"):
            pytest.importorskip("onnxruntime", reason="exported students need the extra [export]")
        with pytest.raises(KdlibError, match=message):
            load_student(tmp_path / name)
