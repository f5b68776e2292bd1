"""The examples of docs/interop.md run as they stand, and are as short as they are meant to be."""

import ast
import importlib.util
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from kdlib.samples import DistillationDataset
from tests.support.stores.people import make_store
from tests.support.tiny_training import run_program
from tests.support.trained_student import make_checkpoint

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/interop.md"
FEWER_LINES = {"Predict keypoints": 10, "Plain PyTorch": 40, "Lightning": 40, "Predict with your own model": 10}


def examples():
    """The Python block of each section of the page that has one."""
    sections = re.split(r"^## (.*)$", PAGE.read_text(), flags=re.MULTILINE)[1:]
    pairs = zip(sections[::2], sections[1::2], strict=True)
    found = {title: re.findall(r"```python\n(.*?)```", text, re.DOTALL) for title, text in pairs}
    assert all(len(blocks) < 2 for blocks in found.values())
    return {title: blocks[0] for title, blocks in found.items() if blocks}


@pytest.fixture
def here(tmp_path):
    """A folder with what the examples read: a store, a student and an image."""
    store = tmp_path / "stores/sample/train.zarr"
    store.parent.mkdir(parents=True)
    make_store(store)
    (tmp_path / "runs/sample/distilled").mkdir(parents=True)
    make_checkpoint(tmp_path / "runs/sample/distilled/best.pt")
    image = np.random.default_rng(0).integers(0, 256, (128, 96, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "photo.jpg"), image)
    return tmp_path


def run(title, folder):
    """Run the example of a section as a script in a folder, in a process of its own; return what it printed."""
    return run_program(examples()[title], packages=ROOT, folder=folder)


def run_here(title, monkeypatch, folder):
    """Run the example of a section in a folder and in this process."""
    monkeypatch.chdir(folder)
    exec(compile(examples()[title], title, "exec"), {"__name__": "__main__"})


def test_every_example_is_short():
    found = {title: len(code.strip().splitlines()) for title, code in examples().items()}
    assert found.keys() == FEWER_LINES.keys()
    assert {title: lines for title, lines in found.items() if lines >= FEWER_LINES[title]} == {}


def test_prediction_prints_one_line_per_joint(here, monkeypatch, capsys):
    run_here("Predict keypoints", monkeypatch, here)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 17
    assert all(re.fullmatch(r"-?\d+\.\d -?\d+\.\d \d\.\d\d", line) for line in lines)


def test_plain_pytorch_trains_two_epochs(here):
    assert len(re.findall(r"epoch \d: loss \d+\.\d+", run("Plain PyTorch", here))) == 2


@pytest.mark.skipif(importlib.util.find_spec("lightning") is None, reason="Lightning is not installed")
def test_lightning_trains_and_saves_a_checkpoint(here):
    run("Lightning", here)
    assert (here / "distillation.ckpt").is_file()


def test_a_model_of_ones_own_predicts(here, monkeypatch, capsys):
    run_here("Predict with your own model", monkeypatch, here)
    assert capsys.readouterr().out == "(1, 17, 3)\n"


def test_the_table_lists_every_key_of_a_sample_with_its_shape_and_type(here):
    rows = re.findall(r"^\| `(\w+)` \| (\(.*?\)) \| (\w+) \|", PAGE.read_text(), re.MULTILINE)
    sample = DistillationDataset(here / "stores/sample/train.zarr")[0]
    assert {name: kind for name, _, kind in rows} == {
        name: str(value.dtype).removeprefix("torch.") for name, value in sample.items()
    }
    height, width = sample["image"].shape[1:]
    sizes = {"H": height, "W": width, "K": 17, "H/4": height // 4, "W/4": width // 4, "3": 3, "": None}
    shapes = {
        name: tuple(sizes[part.strip()] for part in shape[1:-1].split(",") if part.strip()) for name, shape, _ in rows
    }
    assert shapes == {name: tuple(value.shape) for name, value in sample.items()}


def test_the_examples_import_public_parts_of_the_library_alone():
    imported = {
        node.module or ""
        for code in examples().values()
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom)
    }
    assert {name.partition(".")[0] for name in imported} <= {"kdlib", "torch", "torchvision"}
