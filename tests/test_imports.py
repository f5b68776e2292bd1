"""The import law: who may know whom, checked in the source and in a running interpreter."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("kdlib", "cache", "console", "precompute", "train")
FORBIDDEN = {
    "kdlib": {"cache", "precompute", "train", "zarr", "h5py"},
    "cache": {"kdlib", "precompute", "train", "torch", "torchvision", "cv2"},
    "console": {"cache", "kdlib", "precompute", "train", "benchmarks", "torch", "numpy", "zarr", "h5py"},
    "precompute": {"train", "zarr", "h5py"},
    "train": {"precompute", "onnxruntime", "onnx", "zarr", "h5py"},
}
ALLOWED = {
    "train/export/formats.py": {"onnx"},  # inside functions: students leave as ONNX files, none of these is a teacher
    "train/export/onnx_session.py": {"onnxruntime"},
    "train/export/quantise.py": {"onnx", "onnxruntime"},
}
GRAB_BAGS = {"utils.py", "common.py", "helpers.py", "misc.py"}


def imported(path):
    """Top-level names that a file imports anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_imports_what_its_room_must_not_know(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    names = [(f.relative_to(ROOT).as_posix(), name) for f in files for name in imported(f)]
    offences = [(f, name) for f, name in names if name in FORBIDDEN[package] - ALLOWED.get(f, set())]
    assert offences == []


def test_every_module_of_the_trainer_runs_without_a_teacher():
    modules = [
        ".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for f in sorted((ROOT / "train").rglob("*.py"))
    ]
    program = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print(sorted({'precompute', 'onnxruntime', 'onnx', 'cache'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = ast.literal_eval(done.stdout.strip().splitlines()[-1])
    assert set(loaded) <= {"cache"}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_the_one_of_this_repository(package):
    assert Path(importlib.util.find_spec(package).origin).parent == ROOT / package


def test_there_is_no_grab_bag():
    tracked = [f for package in (*PACKAGES, "tests") for f in (ROOT / package).rglob("*.py")]
    assert [f for f in tracked if f.name in GRAB_BAGS] == []


@pytest.mark.parametrize("command", ["precompute", "train", "cache"])
def test_help_answers_without_importing_torch(command):
    program = (
        f"import runpy, sys\nsys.argv = ['{command}', '--help']\n"
        f"try: runpy.run_module('{command}', run_name='__main__')\nexcept SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip().splitlines()[-1] == "False", done.stderr
    assert "usage" in done.stdout
