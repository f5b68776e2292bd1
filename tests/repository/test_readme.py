"""Tests of the README: it is short, begins with what a newcomer needs, and its Python runs."""

import re
from pathlib import Path

import cv2
import numpy as np

from tests.support.stores.people import make_store
from tests.support.trained_student import make_checkpoint

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
COLOUR = re.compile("#[0-9a-f]{6}")


def test_the_first_two_commands_are_demo_and_test():
    commands = re.findall(r"^make ([a-z-]+)", README, re.MULTILINE)
    assert commands[:2] == ["demo", "test"]


def test_it_is_short_and_the_first_sixty_lines_answer_the_first_questions():
    lines = README.splitlines()
    assert len(lines) <= 150
    first = "\n".join(lines[:60])
    for answer in ("What to expect", "Who it is for", "Your own data", "make cache DATA=/", "Other backbones"):
        assert answer in first


def test_what_the_demos_numbers_mean_stands_before_them():
    meaning = README.index("they say nothing about human")
    numbers = [README.index(text) for text in ("390 drawn persons", "docs/images/report-")]
    assert meaning < min(numbers)


def test_each_diagram_exists_for_light_and_dark_and_differs_in_colours_alone():
    found = 0
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for dark, light in re.findall(
            r'<picture>\s*<source [^>]*dark[^>]*srcset="(.+?)">\s*<img .*?src="(.+?)">', page.read_text()
        ):
            dark_text, light_text = ((page.parent / name).read_text() for name in (dark, light))
            assert COLOUR.sub("", dark_text) == COLOUR.sub("", light_text)
            assert set(COLOUR.findall(dark_text)).isdisjoint(COLOUR.findall(light_text))
            found += 1
    assert found == 3


def test_its_python_runs_and_gives_the_shapes_that_it_states(tmp_path, monkeypatch):
    for folder in ("stores/photos", "runs/photos/distilled"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    make_store(Path("stores/photos/train.zarr"), 6)
    make_checkpoint(Path("runs/photos/distilled/best.pt"))
    cv2.imwrite("photo.jpg", np.random.default_rng(0).integers(0, 256, (480, 300, 3), np.uint8))
    names = {}
    for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(code, names)
    channels, height, width = names["sample"]["image"].shape
    assert channels == 3
    assert names["sample"]["logits"].shape == (17, height // 4, width // 4)
    assert names["keypoints"].shape == (1, 17, 3)
    assert names["store"].heatmaps([5, 3]).shape[::2] == (2, 17, width // 4)
