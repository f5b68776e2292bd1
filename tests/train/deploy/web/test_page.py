"""The page in a real browser: its numbers are those of Python, it loads nothing from elsewhere, it fits a phone.

The tests need Chromium and the files of onnxruntime-web, which `python -m train web` installs at its first start.
"""

import json
import threading
import time

import cv2
import numpy as np
import pytest

from kdlib.geometry import box_to_region, clip_boxes, region_affine
from kdlib.heatmaps import DECODERS, dark_kernel
from kdlib.inputs.folders import find_images
from kdlib.resample.exact import warp_image
from kdlib.students.loading import OnnxStudent, load_checkpoint
from tests.support.headless_browser import browser
from tests.support.trained_student import make_checkpoint
from train.deploy.formats import write_onnx
from train.deploy.network import Deployable, describe, sample_crops, to_strings
from train.deploy.web import runtime
from train.deploy.web.server import PageServer, resources

pytest.importorskip("onnxscript", reason="exporting needs the extra [export]")
if not runtime.is_complete(runtime.default_folder()):
    pytest.skip("onnxruntime-web is not installed: `make web` installs it with npm", allow_module_level=True)

SHOWN = "document.querySelector('#error')?.textContent || document.querySelector('#table')?.rows.length"
TABLE = (
    "[...document.querySelectorAll('#table tr')].map(row => [...row.querySelectorAll('td')].map(c => +c.textContent))"
)
CROP = """
(async () => {
    const { clipBox, cropAffine, invert, warp } = await import('/geometry.mjs');
    const { pixelsOf, servedPictures } = await import('/pictures.mjs');
    const image = pixelsOf(await (await servedPictures())[0].open());
    const size = [48, 64];
    return BOXES.map(box => {
        const affine = cropAffine(clipBox(box, [image.width, image.height]), size);
        return [affine, [...warp(image, affine, size)]];
    });
})()
"""
DECODE = """
(async () => {
    const { decodeArgmax, decodeDark } = await import('/decode.mjs');
    return MAPS.map(map => [decodeArgmax(map, 12, 16), decodeDark(map, 12, 16, BLUR)].map(p => [p.x, p.y, p.height]));
})()
"""


def picture(width, height):
    """A smooth picture with a few edges, (height, width, 3) uint8 RGB."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (7, 5, 3), np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(4):
        x, y = rng.integers(0, [width, height]).tolist()
        cv2.circle(image, (x, y), 12, rng.integers(0, 256, 3).tolist(), -1)
    return image


def write_normalised(path, student):
    """Write a file with normalised input whose network is one convolution: an export takes seconds."""
    from onnx import TensorProto, helper, numpy_helper, save

    weights = np.random.default_rng(1).normal(0, 0.1, (17, 3, 7, 7)).astype(np.float32)
    node = helper.make_node("Conv", ["image", "weights"], ["heatmaps"], strides=[4, 4], pads=[3, 3, 3, 3])
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 64, 48])
    output = helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, ["batch", 17, 16, 12])
    graph = helper.make_graph([node], "g", [image], [output], [numpy_helper.from_array(weights, "weights")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, to_strings(describe(student, normalised=True)))
    save(model, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Students with both kinds of input, a picture without loss, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("page")
    student = load_checkpoint(make_checkpoint(folder / "best.pt"))
    write_onnx(Deployable(student), sample_crops(student), describe(student, normalised=False), folder / "uint8.onnx")
    write_normalised(folder / "normalised.onnx", student)
    (folder / "photos").mkdir()
    cv2.imwrite(str(folder / "photos/a.png"), picture(150, 110)[..., ::-1])
    (folder / "photos/b.png").write_text("no picture")
    return folder


@pytest.fixture(scope="module", params=["uint8"])
def served(request, folder):
    """The address of the page of one student, by the kind of its input, and the same student in Python."""
    path = folder / f"{request.param}.onnx"
    table = resources(path, runtime.default_folder(), find_images(folder / "photos"))
    with PageServer(table, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server.url, OnnxStudent(path)
        server.shutdown()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A browser with a simulated camera."""
    fake = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with browser(tmp_path_factory.mktemp("profile"), *fake) as opened:
        yield opened


def wait(page, expression):
    """Wait until an expression is truthy; returns its value."""
    deadline = time.monotonic() + 60
    while not (value := page.evaluate(expression)):
        assert time.monotonic() < deadline, page.evaluate("document.body.innerText")
        time.sleep(0.05)
    return value


def changed(page, action):
    """Do something that predicts again; returns the new table as an array (K, 3)."""
    before = page.evaluate(TABLE)
    page.evaluate(action)
    wait(page, f"JSON.stringify({TABLE}) !== {json.dumps(json.dumps(before, separators=(',', ':')))}")
    return np.array(page.evaluate(TABLE))


@pytest.mark.parametrize("served", ["uint8", "normalised"], indirect=True, scope="module")
def test_keypoints_in_the_browser_are_those_of_onnxruntime(page, served, folder):
    url, student = served
    page.open(url, 390, 800)
    assert wait(page, SHOWN) == 17
    pixels = cv2.imread(str(folder / "photos/a.png"))[..., ::-1]
    whole = student.predict(pixels)[0]
    np.testing.assert_allclose(np.array(page.evaluate(TABLE)), whole, atol=0.05)  # 5 heatmap pixels are 20 image pixels
    box = [31.5, 8, 62, 90.25]
    typing = "".join(
        f"document.querySelector('#{side}').value = {value};"
        for side, value in zip(("x", "y", "width", "height"), box, strict=True)
    )
    found = changed(page, typing + "document.querySelector('#x').dispatchEvent(new Event('change'))")
    np.testing.assert_allclose(found, student.predict(pixels, [box])[0], atol=0.05)
    select = "document.querySelector('#decoder').value = 'argmax';"
    found = changed(page, select + "document.querySelector('#decoder').dispatchEvent(new Event('change'))")
    np.testing.assert_allclose(found, student.predict(pixels, [box], decoder="argmax")[0], atol=0.05)
    assert np.abs(found[:, :2] - whole[:, :2]).max() > 1
    assert page.errors() == []
    assert len(page.requests()) > 10
    assert [a for a in page.requests() if not a.removeprefix("blob:").startswith("http://127.0.0.1:")] == []
    assert page.evaluate("crossOriginIsolated")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_box_drawn_with_the_mouse_is_the_box_of_the_prediction(page, served, folder):
    url, student = served
    page.open(url, 1280, 900)
    assert wait(page, SHOWN) == 17
    area = page.evaluate("(r => [r.x, r.y, r.width])(document.querySelector('#canvas').getBoundingClientRect())")
    scale = area[2] / 150
    before = page.evaluate(TABLE)
    for kind, x, y in (
        ("mousePressed", 100, 20),
        ("mouseMoved", 60, 50),
        ("mouseMoved", 40, 90),
        ("mouseReleased", 40, 90),
    ):
        where = {"x": area[0] + x * scale, "y": area[1] + y * scale}
        page.call("Input.dispatchMouseEvent", type=kind, button="left", buttons=1, clickCount=1, **where)
    wait(page, f"JSON.stringify({TABLE}) !== {json.dumps(json.dumps(before, separators=(',', ':')))}")
    box = [float(page.evaluate(f"document.querySelector('#{side}').value")) for side in ("x", "y", "width", "height")]
    np.testing.assert_allclose(box, [40, 20, 60, 70], atol=1)
    pixels = cv2.imread(str(folder / "photos/a.png"))[..., ::-1]
    np.testing.assert_allclose(np.array(page.evaluate(TABLE)), student.predict(pixels, [box])[0], atol=0.5)


def test_the_status_says_that_no_joint_is_drawn_as_long_as_that_is_so(page, served, folder):
    url, student = served
    page.open(url, 800, 800)
    assert wait(page, SHOWN) == 17
    highest = student.predict(cv2.imread(str(folder / "photos/a.png"))[..., ::-1])[0, :, 2].max()
    move = "(e => { e.max = 99; e.value = VALUE; e.dispatchEvent(new Event('input')) })"
    move += "(document.querySelector('#threshold'))"
    status = "document.querySelector('#status').textContent"
    page.evaluate(move.replace("VALUE", "99"))
    stated = page.evaluate(status).partition("no joint is drawn: the highest is ")[2]
    assert float(stated) == pytest.approx(highest, rel=0.06)
    page.evaluate(move.replace("VALUE", "0"))
    assert "joint" not in page.evaluate(status)


def test_a_file_that_is_no_picture_is_one_line_on_the_page_and_the_next_choice_removes_it(page, served):
    url, _ = served
    page.open(url, 800, 800)
    assert wait(page, SHOWN) == 17
    page.evaluate("document.querySelector('#next').click()")
    line = wait(page, "document.querySelector('#error').textContent")
    assert line == "Error: b.png is not a picture that this browser can show"
    page.evaluate("document.querySelector('#previous').click()")
    wait(page, "document.querySelector('#error').hidden")


def test_the_camera_is_predicted_frame_by_frame_until_it_is_stopped(page, served):
    url, student = served
    page.open(url, 800, 800)
    assert wait(page, SHOWN) == student.joints
    page.evaluate("document.querySelector('#camera').click()")
    wait(page, "/^[0-9.]+ frames per second, [0-9.]+ ms/.test(document.querySelector('#status').textContent)")
    assert page.evaluate("document.querySelector('#error').hidden")
    assert page.evaluate("+document.querySelector('#width').value / +document.querySelector('#height').value") > 1
    page.evaluate("document.querySelector('#camera').click()")
    wait(page, "document.querySelector('#camera').textContent === 'Use the camera'")
    assert page.errors() == []


def test_crops_are_those_of_opencv_to_the_last_bit(page, served, folder):
    url, _ = served
    page.open(url, 800, 800)
    boxes = [[0, 0, 150, 110], [31.5, 8, 62, 90.25], [-20, 40, 60, 300], [140, 100, 40, 40], [3.3, 2.7, 20.1, 9.4]]
    found = page.evaluate(CROP.replace("BOXES", json.dumps(boxes)))
    pixels = cv2.imread(str(folder / "photos/a.png"))[..., ::-1].copy()
    inside = clip_boxes(boxes, [[150, 110]] * len(boxes))
    for (affine, crop), center, size in zip(found, *box_to_region(inside, (48, 64)), strict=True):
        wanted = region_affine(center, size, (48, 64))
        np.testing.assert_allclose(affine, wanted.reshape(-1), rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(np.array(crop).reshape(64, 48, 3), warp_image(pixels, wanted, (48, 64)))


def test_points_are_those_of_the_decoders_also_at_borders_and_in_flat_maps(page, served):
    url, _ = served
    page.open(url, 800, 800)
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:16, :12]
    centers = rng.uniform([-1, -1], [12, 17], (60, 2))
    maps = np.exp(-((columns - centers[:, 0, None, None]) ** 2 + (rows - centers[:, 1, None, None]) ** 2) / 4)
    maps = (maps + rng.normal(0, 0.02, maps.shape)).astype(np.float32)
    special = np.zeros((4, 16, 12), np.float32)
    special[1], special[2, 7, 5], special[3] = -1, 1, rng.normal(size=(16, 12))
    maps = np.concatenate([maps, special])
    blur = cv2.getGaussianKernel(dark_kernel(16), 0)[:, 0].tolist()
    script = DECODE.replace("MAPS", json.dumps(maps.reshape(64, -1).tolist())).replace("BLUR", json.dumps(blur))
    found = np.array(page.evaluate(script))
    for i, decoder in enumerate(("argmax", "dark")):
        points, heights = DECODERS[decoder](maps)
        np.testing.assert_allclose(found[:, i, :2], points, atol=1e-5)
        np.testing.assert_allclose(found[:, i, 2], heights)
