"""The library from a wheel: what the wheel holds, and its use in a folder that has modules named like our commands.

The wheel is built and installed into a fresh virtual environment. A `.pth` file there names the site-packages of the
environment that runs the tests, so that no dependency is downloaded; the `.pth` files of that folder, and with them an
editable installation of this project, are not followed from there.
"""

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from kdlib.skeletons.reading import BUILT_IN
from tests.support.stores.people import make_store
from tests.support.trained_student import make_checkpoint

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/interop.md"
PACKAGES = ("cache", "kdcli", "kdlib", "precompute", "train")
DATA_FILES = {
    *(f"kdlib/skeletons/known/{path.name}" for path in BUILT_IN.iterdir()),
    "precompute/sample/hrnet_w16_sample.safetensors",
    *("train/show/report/charts.css", "train/show/report/report.css"),
    *(f"train/deploy/web/{name}" for name in ("package.json", "package-lock.json")),
    *(f"train/deploy/web/page/{name}" for name in ("index.html", "style.css")),
    *(f"train/deploy/web/page/{name}.mjs" for name in ("decode", "drawing", "geometry", "main", "pictures", "student")),
}
"""What packages hold beside their modules."""
FOREIGN = ("console", "data", "models", "precompute", "tests", "utils")
"""Names that the user's own files have; `train` is the script itself."""

TRAIN = """
import json
import sys
from pathlib import Path

import torch

import cache
import console
import data
import kdcli
import kdlib
import models
import precompute
import tests
import utils
from kdlib.losses import spatial_kl
from kdlib.samples import Augmentation, DistillationDataset
from kdlib.students import load_student


def train(dataset, method):
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, num_workers=2, multiprocessing_context=method)
    model = models.build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for batch in loader:
        loss = spatial_kl(model(batch["image"]), batch["logits"], batch["confidence"], temperature=0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main():
    store, checkpoint, image = sys.argv[1:]
    dataset = DistillationDataset(store)
    dataset[0]
    keypoints = load_student(checkpoint, device="cpu").predict(image)
    modules = (cache, console, data, kdcli, kdlib, models, precompute, tests, utils)
    report = {
        "files": {module.__name__: module.__file__ for module in modules},
        "marks": [module.MARK for module in (console, data, models, precompute, tests, utils)],
        "losses": {method: train(dataset, method) for method in ("fork", "spawn")},
        "keypoints": keypoints.shape,
    }
    Path("report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
"""

MODELS = """
import torch
from torch import nn

MARK = "mine"


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 17, 3, padding=1), nn.AvgPool2d(4))
"""


def run(command, **options):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    built = run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A fresh environment with the wheel and its dependencies: its Python, and its site-packages."""
    folder = tmp_path_factory.mktemp("environment")
    made = run([sys.executable, "-m", "venv", "--without-pip", folder])
    assert made.returncode == 0, made.stderr
    places = sysconfig.get_paths("venv", {"base": str(folder), "platbase": str(folder)})
    executable, site_packages = Path(places["scripts"]) / "python", Path(places["purelib"])
    installer = [sys.executable, "-m", "pip", "--python", executable, "install", "--no-compile"]
    if importlib.util.find_spec("pip") is None:  # `make setup` used uv
        installer = ["uv", "pip", "install", "--python", executable]
    installed = run([*installer, "--no-deps", "--no-index", wheel])
    assert installed.returncode == 0, installed.stderr
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return executable, site_packages


@pytest.fixture
def site_packages(environment):
    return environment[1]


@pytest.fixture
def python(environment):
    """A function that runs Python of the fresh environment in a folder, without PYTHONPATH and the like."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def start(folder, *words):
        return run([environment[0], *words], cwd=folder, env=settings | {"OMP_NUM_THREADS": "1"})

    return start


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory):
    """A store of eight instances, a student and an image: the arguments of the user's script."""
    folder = tmp_path_factory.mktemp("fixtures")
    image = folder / "photo.jpg"
    cv2.imwrite(str(image), np.random.default_rng(0).integers(0, 256, (128, 96, 3), np.uint8))
    return make_store(folder / "train.zarr").path, make_checkpoint(folder / "best.pt"), image


@pytest.fixture
def project(tmp_path):
    """The user's folder."""
    folder = tmp_path / "my project"
    folder.mkdir()
    for name in ("data", "tests"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text('MARK = "mine"\n')
    for name in ("console", "precompute", "utils"):
        (folder / f"{name}.py").write_text('MARK = "mine"\n')
    (folder / "models.py").write_text(MODELS)
    (folder / "train.py").write_text(TRAIN)
    return folder


def test_the_wheel_holds_the_packages_with_their_data_files_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == sources
    assert {name for name in names if not name.endswith(".py")} == DATA_FILES


def test_neither_the_repository_nor_an_editable_installation_is_on_the_path_of_the_environment(
    site_packages, python, tmp_path
):
    done = python(tmp_path, "-c", "import json, sys; print(json.dumps(sys.path))")
    paths = json.loads(done.stdout)
    assert {str(site_packages), sysconfig.get_path("purelib")} <= set(paths)
    editable = [path.read_text().strip() for path in Path(sysconfig.get_path("purelib")).glob("_editable*.pth")]
    assert not {str(ROOT), *editable} & set(paths)


def test_a_folder_with_modules_named_like_our_commands_trains_and_predicts(site_packages, python, project, fixtures):
    done = python(project, "train.py", *fixtures)
    assert done.returncode == 0, done.stderr
    report = json.loads((project / "report.json").read_text())
    files = {name: Path(file) for name, file in report["files"].items()}
    ours = {"cache", "kdcli", "kdlib"}
    assert files.keys() == ours | set(FOREIGN)
    assert {name for name in files if files[name].is_relative_to(site_packages)} == ours
    assert {name for name in files if files[name].is_relative_to(project)} == set(FOREIGN)
    assert report["marks"] == ["mine"] * len(FOREIGN)
    assert len(report["losses"]["fork"]) == 2
    assert report["losses"]["spawn"] == report["losses"]["fork"]
    assert all(map(np.isfinite, report["losses"]["fork"]))
    assert report["keypoints"] == [1, 17, 3]


@pytest.mark.parametrize("command", ["train", "precompute"])
def test_with_p_our_commands_run_beside_files_of_their_names(command, python, tmp_path):
    (tmp_path / f"{command}.py").write_text('print("mine")\n')
    assert python(tmp_path, "-m", command).stdout == "mine\n"
    ours = python(tmp_path, "-P", "-m", command, "--help")
    assert ours.returncode == 0, ours.stderr
    assert f"usage: python -m {command}" in ours.stdout


@pytest.mark.parametrize(
    ("name", "statement", "error"),
    [
        (
            "cache",
            "from kdlib.samples import DistillationDataset",
            "ImportError: kdlib.samples needs the package 'cache'",
        ),
        ("kdlib", "from kdlib.losses import spatial_kl", "ModuleNotFoundError: No module named 'kdlib.losses'"),
        ("kdcli", "import kdlib.students.loading", "ImportError: cannot import name 'system' from 'kdcli'"),
    ],
)
def test_the_names_that_still_collide_end_in_one_line_that_names_the_file_or_the_package(
    name, statement, error, python, tmp_path
):
    foreign = tmp_path / f"{name}.py"
    foreign.write_text('MARK = "mine"\n')
    (tmp_path / "train.py").write_text(statement + "\n")
    done = python(tmp_path, "train.py")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(error)
    assert (str(foreign) if name in ("cache", "kdcli") else f"'{name}' is not a package") in last
    assert error.split(": ")[1] in PAGE.read_text()


def test_a_foreign_cache_lives_in_a_package_or_beside_a_program_that_only_predicts(python, tmp_path):
    (tmp_path / "mine").mkdir()
    for place in (tmp_path / "mine/cache.py", tmp_path / "service/cache.py"):
        place.parent.mkdir(exist_ok=True)
        place.write_text('MARK = "mine"\n')
    (tmp_path / "train.py").write_text("from kdlib.samples import DistillationDataset\nfrom mine.cache import MARK\n")
    assert python(tmp_path, "train.py").returncode == 0
    (tmp_path / "service/main.py").write_text("import cache\nimport kdlib.students.loading\nprint(cache.MARK)\n")
    assert python(tmp_path, "service/main.py").stdout == "mine\n"
