"""The report in a real browser: no errors, no requests, every image decoded, nothing cut off on a phone."""

import json

import numpy as np
import pytest

from tests.support.headless_browser import browser
from tests.support.stores.people import HEATMAP_SIZE, INPUT_SIZE, make_store
from train.__main__ import main

LONG = "onnx:a_teacher_with_a_name_that_no_phone_is_wide_enough_for_256x192.onnx"
DECODED = """
Promise.all([...document.querySelectorAll('image')].map(async element => {
    const image = new Image();
    image.src = element.href.baseVal;
    await image.decode();
    return [image.naturalWidth, image.naturalHeight];
}))
"""
VISIBLE = """
[...document.querySelectorAll('.panels svg, .chart')].map(element => {
    const box = element.getBoundingClientRect();
    return [box.left, box.right, box.width, box.height];
})
"""
LUMINANCE = """
[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color].map(
    colour => colour.match(/[0-9.]+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0))
"""
TEXTS_OUTSIDE = """
[...document.querySelectorAll('.chart text')].filter(text => {
    const box = text.getBoundingClientRect();
    return box.width && (box.left < 0 || box.right > innerWidth + 1);
}).map(text => text.textContent)
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    make_store(folder / "train.zarr", 8)
    teacher = {"name": LONG, "weights_sha256": "ab" * 32, "input_size": INPUT_SIZE, "heatmap_size": HEATMAP_SIZE}
    make_store(folder / "val.h5", 10, shift=0.7, provenance={"teacher": teacher})
    fast = ["--pretrained", "none", "--batch-size", "8", "--epochs", "1", "--threads", "1", "--precision", "fp32"]
    stores = ["--store", str(folder / "train.zarr"), "--val-store", str(folder / "val.h5")]
    for command in ("baseline", "distill"):
        assert main([command, *stores, "--out", str(folder / command), *fast]) == 0
    runs = [str(folder / command) for command in ("baseline", "distill")]
    assert main(["report", "--store", str(folder / "val.h5"), "--runs", *runs, "--out", str(folder / "r.html")]) == 0
    return (folder / "r.html").as_uri()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_silent_whole_and_as_wide_as_its_window(page, address, width, dark):
    page.open(address, width, 900, dark=dark)
    sizes = page.evaluate(DECODED)
    assert page.errors() == []
    assert page.requests() == [address]
    assert len(sizes) == page.evaluate("document.querySelectorAll('image').length") > 10
    assert all(side > 1 for size in sizes for side in size)
    boxes = np.array(page.evaluate(VISIBLE))
    assert (boxes[:, 2:] > 40).all()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert boxes[:, 0].min() >= 0
    assert boxes[:, 1].max() <= width
    assert page.evaluate(TEXTS_OUTSIDE) == []
    paper, ink = page.evaluate(LUMINANCE)
    assert (paper < ink) == dark
    assert abs(paper - ink) > 400


def test_every_shown_frame_is_found_where_it_is_used(page, address):
    page.open(address, 1280, 900)
    found = page.evaluate(
        "JSON.stringify([...document.querySelectorAll('use')].map(u => document.querySelector(u.href.baseVal).tagName))"
    )
    tags = json.loads(found)
    assert len(tags) > 10
    assert set(tags) == {"image"}
