"""Each worked example of docs/extending.md, applied to a copy of the packages and used from there."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import cache
from tests.support import tiny_precompute
from tests.support.stores.people import make_store
from tests.support.tiny_training import FAST, PACKAGES, run_program

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/extending.md"
FAST_FLAGS = [word for flag in FAST.items() for word in flag]

STEP = re.compile(
    r"^(?:New file `(?P<new>[^`]+)`:"
    r"|In `(?P<file>[^`]+)`, (?P<how>above|below|replace) `(?P<anchor>[^`]+)`,? (?:add|with)"
    r"(?: `(?P<line>[^`]+)`\.|:))$"
    r"(?:\n\n```python\n(?P<block>.*?)```)?",
    re.MULTILINE | re.DOTALL,
)
"""One step of a section: a new file, or text for one place of a file, which stands on the same line or in a block."""

PROGRAM = """
import importlib, json, sys

for module, *words in json.loads(sys.argv[1]):
    assert importlib.import_module(f"{module}.__main__").main(words) == 0, (module, words)
"""


def section(title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)[1]


def edit(text, how, anchor, addition):
    """A file's text with the addition in place of the anchor, or above or below the line that holds it."""
    assert text.count(anchor) == 1, f"{anchor!r} is there {text.count(anchor)} times"
    if how == "replace":
        return text.replace(anchor, addition)
    lines = text.splitlines(keepends=True)
    (at,) = (number for number, line in enumerate(lines) if anchor in line)
    indent = re.match(" *", lines[at])[0]
    if how == "below":
        return "".join([*lines[: at + 1], f"{indent}{addition}\n", *lines[at + 1 :]])
    return "".join([*lines[:at], f"{addition}\n\n", *lines[at:]])


@pytest.fixture
def copy(tmp_path):
    """A copy of the packages, with what numba has compiled."""
    folder = tmp_path / "copy"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package)
    return folder


def apply(title, copy):
    """Do to the copy what a section of the page says; returns the files that it touches."""
    touched = set()
    for step in STEP.finditer(section(title)):
        path = copy / (step["new"] or step["file"])
        assert path.exists() == bool(step["file"]), path
        before = path.read_text() if step["file"] else ""
        addition = step["line"] or step["block"]
        assert addition, step[0]
        path.write_text(edit(before, step["how"], step["anchor"], addition) if step["file"] else addition)
        touched.add(path.relative_to(copy).as_posix())
    return touched


def counted(extension):
    """The number of files in the last but one column of the page's table."""
    return int(re.search(rf"^\| {extension} \|[^|]*\| (\d) \|", PAGE.read_text(), re.MULTILINE)[1])


def use(title, copy, folder, afterwards):
    """Run the section's commands in a folder, with the copy's packages, and then the code `afterwards`."""
    (shell,) = re.findall(r"```sh\n(.*?)```", section(title), re.DOTALL)
    commands = [shlex.split(line.removeprefix("python -m ")) for line in shell.splitlines()]
    commands = [[*words, *FAST_FLAGS] if words[:2] == ["train", "distill"] else words for words in commands]
    return run_program(PROGRAM + afterwards, json.dumps(commands), packages=copy, folder=folder)


@pytest.fixture
def here(tmp_path):
    """The folder in which the commands are run."""
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


@pytest.fixture
def stores(here):
    for name in ("train", "val"):
        make_store(here / f"{name}.zarr")
    return here


def test_a_codec_writes_reads_verifies_and_converts_stores(copy, stores):
    touched = apply("A codec", copy)
    assert len(touched) == counted("codec") == 2
    printed = use(
        "A codec",
        copy,
        stores,
        """
import numpy as np
import cache

exact, small = (cache.open_store(f"{name}.zarr") for name in ("train", "small"))
assert small.codec.name == "linear8"
rows = np.arange(len(small))
maps, found = exact.heatmaps(rows), small.heatmaps(rows)
peak = maps.max(axis=(-2, -1), keepdims=True)
assert ((maps >= small.codec.floor) == (found > 0)).all()
assert (abs(found - maps) <= (peak - small.codec.floor) / 254 / 2 + 1e-6)[(found > 0) & (maps < peak * 254 / 255)].all()
flat = lambda values: values.reshape(*values.shape[:-2], -1).argmax(axis=-1)
assert (flat(maps) == flat(found)).all()
main = importlib.import_module("cache.__main__").main
assert main(["convert", "small.zarr", "small.h5"]) == 0
assert main(["convert", "small.h5", "back.zarr"]) == 0
digests = {cache.open_store(name).manifest["content_sha256"] for name in ("small.zarr", "small.h5", "back.zarr")}
assert len(digests) == 1
assert main(["convert", "small.zarr", "again.zarr", "--codec", "root4"]) == 0
""",
    )
    assert "linear8" in printed


def test_a_teacher_makes_a_store(copy, here):
    touched = apply("A teacher", copy)
    assert len(touched) == counted("PyTorch teacher") == 2
    tiny_precompute.write(here / "data")
    scope = {}
    exec((copy / "precompute/teacher/pose_resnet.py").read_text(), scope)
    torch.manual_seed(0)
    model = scope["build"]("pose_resnet18", 17, (96, 128))
    torch.nn.init.normal_(model.final_layer.weight, std=0.1)
    save_file(model.state_dict(), here / "pose_resnet18.safetensors")
    use(
        "A teacher",
        copy,
        here,
        """
import cache

teacher = cache.open_store("train.zarr").manifest["provenance"]["teacher"]
assert (teacher["name"], teacher["heatmap_size"]) == ("pose_resnet18", [24, 32]), teacher
""",
    )


def test_a_function_makes_a_store(here):
    tiny_precompute.write(here / "data")
    (code,) = re.findall(r"```python\n(.*?)```", section("A teacher that is a function"), re.DOTALL)
    for _ in range(2):  # the second run finds the store complete
        assert run_program(code, packages=ROOT, folder=here).splitlines()[-1] == "train.zarr 11"
    teacher = cache.open_store(here / "train.zarr").manifest["provenance"]["teacher"]
    assert (teacher["name"], teacher["heatmap_size"]) == ("middle", [24, 32])


def test_a_loss_trains_evaluates_and_is_named_by_exported_files(copy, stores):
    touched = apply("A loss", copy)
    assert len(touched) == counted("loss") == 2
    pytest.importorskip("onnx")
    use(
        "A loss",
        copy,
        stores,
        """
from kdlib.students import load_student

for path in ("runs/huber/best.pt", "student.onnx"):
    student = load_student(path, device="cpu")
    assert student.readout.loss == "huber"
""",
    )


def test_a_head_trains_and_evaluates(copy, stores):
    touched = apply("A head", copy)
    assert len(touched) == counted("head") == 1
    use(
        "A head",
        copy,
        stores,
        """
from kdlib.students import load_student

assert type(load_student("runs/shuffle/best.pt", device="cpu").model.head).__name__ == "ShuffleHead"
""",
    )


def test_what_the_page_adds_keeps_the_rules_of_the_code(copy):
    touched = sorted(set().union(*(apply(title, copy) for title in ("A codec", "A teacher", "A loss", "A head"))))
    shutil.copy(ROOT / "pyproject.toml", copy)
    for words in (["format"], ["check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, *touched], cwd=copy, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout
