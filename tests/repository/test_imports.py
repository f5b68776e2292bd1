"""Tests of the import law: which package may import which, in the source and in a running interpreter."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("kdcli", "cache", "kdlib", "precompute", "train")
FORBIDDEN = {
    "kdcli": {"cache", "kdlib", "precompute", "train", "benchmarks", "tests", "torch", "numpy", "zarr", "h5py"},
    "cache": {"kdlib", "precompute", "train", "benchmarks", "tests", "torch", "torchvision", "cv2"},
    "kdlib": {"precompute", "train", "benchmarks", "tests", "zarr", "h5py", "onnxruntime", "onnx"},
    "precompute": {"train", "benchmarks", "tests", "zarr", "h5py"},
    "train": {"precompute", "benchmarks", "tests", "onnxruntime", "onnx", "zarr", "h5py"},
}
ALLOWED = {  # inside functions: these modules write and read students as ONNX files, not teachers
    "kdlib/students/loading.py": {"onnxruntime"},
    "train/deploy/formats.py": {"onnx"},
    "train/deploy/quantise.py": {"onnx", "onnxruntime"},
}
FLOORS = {
    "cache": ("errors", "codec", "format", "files", "layouts", "reading", "writing", "sharing", "commands", "__main__"),
    "kdlib": (
        ("errors", "skeletons", "geometry", "images", "heatmaps", "losses", "machine"),
        ("resample", "metrics", "inputs"),
        ("readout",),
        ("students",),
        ("samples",),
    ),
    "precompute": ("errors", "data", "fetch", "teacher", "run", "sample", "__main__"),
    "train": (
        *("errors", "recipe", "supervision", "sources", "evaluate", "stores", "show"),
        ("deploy", "run"),
        *("commands", "__main__"),
    ),
}
"""The parts of each package, lowest first. A part may import parts below it and those of its own tuple."""
GRAB_BAGS = {"utils.py", "common.py", "helpers.py", "misc.py"}
MOST_ENTRIES = 14


def modules(path):
    """Yield every module that a file imports, anywhere in it, and the names imported from it: ``a.b`` and ``a.b.c``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}, line {node.lineno}: imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(room):
    found = sorted((ROOT / room).rglob("*.py"))
    assert found
    return [(path, path.relative_to(ROOT).as_posix()) for path in found]


@pytest.mark.parametrize("room", ROOMS)
def test_no_file_imports_a_room_above_its_own(room):
    found = {(name, module.split(".")[0]) for path, name in files(room) for module in modules(path)}
    assert {(name, top) for name, top in found if top in FORBIDDEN[room] - ALLOWED.get(name, set())} == set()


def test_only_the_samples_of_the_library_read_stores():
    readers = {name for path, name in files("kdlib") for module in modules(path) if module.split(".")[0] == "cache"}
    assert readers
    assert {name for name in readers if not name.startswith("kdlib/samples/")} == set()


@pytest.mark.parametrize("room", FLOORS)
def test_inside_a_room_imports_only_point_down(room):
    floor = {
        part: height
        for height, parts in enumerate(FLOORS[room])
        for part in ((parts,) if isinstance(parts, str) else parts)
    }
    parts = {name.removeprefix(f"{room}/").split("/")[0].removesuffix(".py") for _, name in files(room)}
    assert parts - {"__init__"} == floor.keys()
    upwards = [
        (name, module)
        for path, name in files(room)
        for module in modules(path)
        for own, other in [(name.split("/")[1].removesuffix(".py"), [*module.split("."), ""][1])]
        if module.startswith(f"{room}.") and own != other and own in floor and floor.get(other, -1) > floor[own]
    ]
    assert upwards == []


IMPORTED = """
import importlib, json, sys

for names in json.loads(sys.argv[1]):
    for name in names:
        importlib.import_module(name)
    print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), flush=True)
"""


def module_names(room):
    """Return the names of all modules of a room."""
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path, _ in files(room)]
    return [name.removesuffix(".__init__") for name in names]


def imported(*stages):
    """Import modules stage by stage in a new process; return the packages that are imported after each stage."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, json.dumps(stages)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = [set(json.loads(line)) for line in done.stdout.splitlines()]
    assert len(found) == len(stages)
    return found


@pytest.fixture(scope="module")
def loaded():
    """The packages that are imported by parts of the library, by all of it, and by it and the trainer."""
    parts = ["kdlib.students", "kdlib.losses", "kdlib.metrics", "kdlib.readout"]
    stages = {"parts": parts, "kdlib": module_names("kdlib"), "train": module_names("train")}
    return dict(zip(stages, imported(*stages.values()), strict=True))


def test_every_module_of_the_cache_runs_without_torch_and_the_library():
    (found,) = imported(module_names("cache"))
    assert "cache" in found
    assert not {"torch", "torchvision", "cv2", "kdlib"} & found


@pytest.mark.parametrize(
    ("room", "never"),
    [
        ("kdlib", {"precompute", "train", "onnxruntime", "onnx"}),
        ("train", {"precompute", "onnxruntime", "onnx"}),
    ],
)
def test_every_module_of_a_room_runs_without_what_the_room_must_not_know(room, never, loaded):
    assert room in loaded[room]
    assert not never & loaded[room]


def test_students_losses_and_metrics_run_without_a_store(loaded):
    assert "kdlib" in loaded["parts"]
    assert not {"cache", "zarr", "h5py"} & loaded["parts"]


@pytest.mark.parametrize("room", ROOMS)
def test_a_package_is_the_one_of_this_repository(room):
    assert Path(importlib.util.find_spec(room).origin).parent == ROOT / room


def folders():
    """Return every folder of code and tests, except caches and data."""
    roots = [ROOT / name for name in (*ROOMS, "tests", "benchmarks")]
    return [f for root in roots for f in (root, *(p for p in root.rglob("*") if p.is_dir())) if list(f.glob("*.py"))]


def test_no_folder_shows_more_than_a_dozen_entries_and_each_says_what_it_is():
    shown = {
        f.relative_to(ROOT).as_posix(): [e.name for e in f.iterdir() if e.name != "__pycache__"] for f in folders()
    }
    assert {name: len(entries) for name, entries in shown.items() if len(entries) > MOST_ENTRIES} == {}
    silent = [name for name in shown if not ast.get_docstring(ast.parse((ROOT / name / "__init__.py").read_text()))]
    assert silent == []


def test_there_is_no_grab_bag():
    assert [f for folder in folders() for f in folder.glob("*.py") if f.name in GRAB_BAGS] == []


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
