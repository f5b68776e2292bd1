"""Tests of dependencies: the fixed packages and their own dependencies suffice; all other packages are optional."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from safetensors.torch import load_file

import cache
from cache.format import compress
from precompute.__main__ import main as precompute
from precompute.teacher.checkpoint import CheckpointError
from precompute.teacher.weights_file import read_weights_file
from tests.support import tiny_precompute
from tests.support.tiny_training import FAST, results, same_weights
from train.__main__ import main as train
from train.show.tensorboard import Board

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FIXED = {"torch", "torchvision", "numpy", "h5py", "zarr", "pycocotools", "opencv-python-headless", "numba", "tqdm"}
OPTIONAL = {"zlib-ng", "simplejpeg", "tensorboard", "safetensors"}


def names(requirements):
    return {canonicalize_name(Requirement(requirement).name) for requirement in requirements}


def with_dependencies(packages):
    """Return these packages and, recursively, their installed dependencies."""
    found, pending = set(), set(packages)
    while pending:
        name = pending.pop()
        try:
            requirements = [Requirement(text) for text in importlib.metadata.requires(name) or ()]
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        applicable = (r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""}))
        pending |= {canonicalize_name(r.name) for r in applicable} - found
    return found


def test_what_is_required_beyond_the_fixed_packages_comes_with_them():
    required = names(PROJECT["dependencies"])
    assert required >= FIXED
    installed = with_dependencies(FIXED)
    assert required <= installed
    assert not OPTIONAL & installed


def test_the_environment_of_make_setup_has_all_of_them():
    extras = {name: names(requirements) for name, requirements in PROJECT["optional-dependencies"].items()}
    assert extras["dev"] >= OPTIONAL
    others = set().union(*(extra for name, extra in extras.items() if name != "dev"))
    assert others >= OPTIONAL


PROGRAM = """
import importlib, json, sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    absent = set(json.loads(sys.argv[1]))

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in cls.absent else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
for module, *words in json.loads(sys.argv[2]):
    assert importlib.import_module(f"{module}.__main__").main(words) == 0, (module, words)
print(sorted(Finder.absent & set(sys.modules)))
"""


def absent_modules(*extras):
    """Return the top-level modules of all installed packages that the required ones and the extras do not install."""
    required = names(PROJECT["dependencies"]).union(*(names(PROJECT["optional-dependencies"][name]) for name in extras))
    needed = with_dependencies(required) | {canonicalize_name(PROJECT["name"])}
    owners = importlib.metadata.packages_distributions()
    return sorted(module for module, of in owners.items() if not needed & {canonicalize_name(name) for name in of})


def commands(data, folder):
    """Return the commands from images to a report; the second store is HDF5, whose chunks are inflated."""
    teacher = ["--data", data, "--teacher", "hrnet_w16_sample", "--input-size", "128x96", "--precision", "fp32"]
    teacher += ["--checkpoint", data / "teacher.pth"]
    stores = ["--store", folder / "train.zarr", "--val-store", folder / "val.h5"]
    fast = [word for flag in (FAST | {"--epochs": "1"}).items() for word in flag]
    lines = [
        ["precompute", *teacher, "--store", folder / "train.zarr"],
        ["precompute", *teacher, "--store", folder / "val.h5", "--flip-test"],
        ["cache", "verify", folder / "val.h5"],
        ["train", "distill", *stores, "--out", folder / "run", *fast],
        ["train", "evaluate", "--store", folder / "val.h5", "--student", folder / "run/best.pt"],
        ["train", "report", "--store", folder / "val.h5", "--runs", folder / "run", "--out", folder / "report.html"],
    ]
    return [[str(word) for word in line] for line in lines]


def test_with_the_required_packages_alone_the_same_stores_and_the_same_student_are_made(tmp_path):
    data = tiny_precompute.write(tmp_path / "data")
    torch.save(load_file(data / "teacher.safetensors"), data / "teacher.pth")
    absent = absent_modules()
    assert {"zlib_ng", "simplejpeg", "tensorboard", "safetensors", "onnxruntime", "timm", "scipy"} <= set(absent)
    assert not {"torch", "numcodecs", "google_crc32c", "filelock", "precompute", "tests"} & set(absent)
    bare = tmp_path / "bare"
    bare.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(absent), json.dumps(commands(data, bare))],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stderr.count("TensorBoard is not installed") == 1
    assert not list((bare / "run").glob("events*"))

    full = tmp_path / "full"
    full.mkdir()
    for module, *words in commands(data, full)[:4]:
        assert {"precompute": precompute, "cache": cache_main, "train": train}[module](words) == 0
    for store in ("train.zarr", "val.h5"):
        one, other = (cache.open_store(folder / store).manifest["content_sha256"] for folder in (bare, full))
        assert one == other
    assert results(bare / "run") == results(full / "run")
    assert same_weights(bare / "run/best.pt", full / "run/best.pt")
    assert len(list((full / "run").glob("events*"))) == 1


def imported_by_the_notebook():
    """Return the top-level modules that the notebook imports."""
    (path,) = (ROOT / "notebooks").glob("*.ipynb")
    cells = [cell["source"] for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    code = "".join(line for cell in cells if not cell[0].startswith("%%") for line in [*cell, "\n"])
    tree = ast.parse(re.sub(r"(?m)^( *)%.*", r"\1pass", code))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    named = [[node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names] for node in nodes]
    return {name.partition(".")[0] for names_of_one in named for name in names_of_one}


def test_the_notebooks_extra_is_all_that_its_imports_and_its_teacher_need(tmp_path):
    absent = absent_modules("notebook")
    imported = imported_by_the_notebook()
    assert {"matplotlib", "torch", "precompute", "numpy"} <= imported
    assert not imported & set(absent)
    assert "onnxruntime" in absent
    data = tiny_precompute.write(tmp_path / "data")
    words = ["precompute", *tiny_precompute.command(data, tmp_path / "s.zarr", "--limit", "2")]
    assert any(word.endswith(".safetensors") for word in words)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(absent), json.dumps([words])],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def cache_main(words):
    from cache.__main__ import main

    return main(words)


@pytest.fixture(params=["zlib-ng", "zlib"])
def inflater(request, monkeypatch):
    if request.param == "zlib":
        monkeypatch.setattr(compress, "inflater", zlib)
    else:
        pytest.importorskip("zlib_ng")
        assert compress.inflater is not zlib
    return request.param


def test_either_library_inflates_what_we_and_hdf5_deflate(inflater):
    codes = np.random.default_rng(0).integers(0, 9, 5000, np.uint8)
    for stream in (compress.deflate_compress(codes), zlib.compress(codes.tobytes(), 9)):
        assert (compress.deflate_decompress(stream, 5000) == codes).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stream: stream[:-9], "deflate: "),
        (lambda stream: stream + b"x", "5000 bytes decoded; expected exactly 5000 and no data after them"),
        (lambda stream: stream[:40] + b"\xff" * 9 + stream[49:], "deflate: "),
        (lambda stream: b"no stream at all", "deflate: "),
        (lambda stream: zlib.compress(bytes(10**6)), "5001 bytes decoded; expected exactly 5000"),
    ],
)
def test_either_library_refuses_what_is_no_whole_stream(inflater, change, message):
    codes = np.random.default_rng(0).integers(0, 9, 5000, np.uint8)
    with pytest.raises(cache.StoreFormatError, match=message):
        compress.deflate_decompress(change(compress.deflate_compress(codes)), 5000)


def test_without_tensorboard_a_board_says_so_once_and_keeps_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    board = Board(tmp_path, 0)
    for step in range(3):
        board.add("train", {"loss": 1.0}, step)
        board.show("val/people", np.zeros((8, 8, 3), np.uint8), step)
    board.flush()
    board.close()
    message = capsys.readouterr().err
    assert re.fullmatch(r"TensorBoard is not installed; .*: pip install -e '\.\[tensorboard\]'\n", message)
    assert not list(tmp_path.iterdir())


def test_without_safetensors_its_files_are_refused_in_one_line(tmp_path, monkeypatch):
    checkpoint = ROOT / "precompute/sample/hrnet_w16_sample.safetensors"
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(CheckpointError, match=r"sample\.safetensors needs safetensors: pip install safetensors$"):
        read_weights_file(checkpoint)
