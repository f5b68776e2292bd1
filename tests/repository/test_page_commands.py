"""Tests that run the commands of the user's pages, each page from top to bottom in its own folder, on tiny data.

A command that is added to a page runs unchanged. It fails here until the test provides what it needs, or until it is in
`NOT_RUN` with a reason. Each test's `typed` and `flags` list the differences from the page. The quickstart is run by
`tests/repository/test_docs.py`.
"""

import hashlib
import importlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import urllib.request
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

import cache
from precompute.fetch import coco
from tests.cache.commands.test_repair import damage
from tests.cache.files.test_object_stores import bucket, endpoint  # noqa: F401
from tests.support import tiny_precompute
from tests.support.servers.range_server import RangeServer
from tests.support.servers.web_server import serve
from tests.support.stores.people import IMAGE_SIZE, make_store
from tests.support.trained_student import make_run

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("precompute", "training", "coco", "students", "sharing", "looking")

SLURM = "needs Slurm; tests/repository/test_sbatch.py runs the script with replaced commands"
NOT_RUN = {
    "pip install -e '.[export]'": "installs packages; that the extra exists is looked up below",
    "pip install -e '.[share]'": "installs packages; that the extra exists is looked up below",
    "pip uninstall onnxruntime": "removes a package that other tests need",
    "pip install -e '.[teacher-gpu]'": "installs packages; that the extra exists is looked up below",
    "torchrun --standalone --nproc-per-node 4 -m precompute $RUN --resume": (
        "the page runs it with two processes; tests/precompute/run/test_team.py has four on one GPU"
    ),
    "torchrun --standalone --nproc-per-node 4 -m precompute --config configs/coco-teacher.toml --split train "
    "--store stores/coco/train.zarr": (
        "the page of precompute runs torchrun; tests/precompute/run/test_team.py compares its store with one process's"
    ),
    "torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST1:29500 --rdzv-id coco "
    "-m precompute $RUN --resume": "two hosts; tests/precompute/run/test_team.py has two agents on one machine",
    "torchrun --standalone --nproc-per-node 2 -m train distill --store train.zarr --val-store val.zarr --out runs/d": (
        "takes half a minute; tests/train/run/test_distributed.py runs torchrun with the trainer"
    ),
    "torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m train distill ...": (
        "two hosts with eight GPUs each"
    ),
    "torchrun --standalone --nproc-per-node 4 -m train distill --config configs/coco.toml --out runs/coco/distilled": (
        "takes half a minute; tests/train/run/test_distributed.py runs torchrun with the trainer"
    ),
    "srun --nodes 2 --ntasks-per-node 1 --gpus-per-node 8 torchrun --nnodes 2 --nproc-per-node 8 --max-restarts 3 "
    "--rdzv-backend c10d --rdzv-endpoint HOST1:29500 --rdzv-id coco -m train distill --config configs/coco.toml "
    "--out runs/coco/distilled --resume": "two hosts with eight GPUs each, under Slurm",
    "array=$(sbatch --parsable configs/slurm/precompute.sbatch)": SLURM,
    'sbatch --array=0 --dependency="afterany:$array" --export=ALL,COMPLETE=1 configs/slurm/precompute.sbatch': SLURM,
    "sbatch configs/slurm/train.sbatch": SLURM,
    "python -m cache push stores/coco/train.zarr hf://datasets/team/coco-teacher/": (
        "the Hugging Face Hub and an account; tests/cache/files/test_object_stores.py pushes to a Hub in memory"
    ),
    "python -m precompute --data data/coco --teacher hrnet_w48_coco_wholebody_384x288 --joints-from-teacher data "
    "--store body.zarr": ("downloads weights; tests/precompute/teacher/hrnet cuts that network with random ones"),
    "python -m precompute --data data/mpii --teacher hrnet_w32 --input-size 256x256 --checkpoint "
    "pose_hrnet_w32_256x256.pth --teacher-skeleton mpii --store mpii.zarr": (
        "needs MPII and its weights; tests/precompute/teacher has random ones"
    ),
    "make report DATA=sample": "needs `make demo` first, minutes; the next command of the page does the same",
    "python -m train web student.onnx --images images/": (
        "serves until Ctrl-C; tests/train/deploy/web opens the page and runs the command"
    ),
    "make fiftyone DATA=sample": "downloads FiftyOne, 1 GB, and opens its App",
    "python -m venv fo && fo/bin/python -m pip install fiftyone": "downloads FiftyOne, 1 GB",
    "fo/bin/python -m train.show.gallery.database": (
        "downloads FiftyOne's database; tests/train/show/test_gallery_database.py runs it with a replaced pip"
    ),
    "python -m train fiftyone --store val.zarr --images data/coco/val2017 --teacher --student runs/baseline/best.pt "
    "runs/distilled/best.pt --python fo/bin/python": (
        "needs FiftyOne and opens its App; tests/train/show/test_gallery.py runs it without the App if installed"
    ),
    "fo/bin/python -m train.show.gallery --gallery runs/fiftyone --images data/coco/val2017": (
        "needs FiftyOne and opens its App; tests/train/show/test_gallery.py reads the gallery without both"
    ),
}
TEACHER = "--teacher hrnet_w16_sample --input-size 128x96 --checkpoint teacher.safetensors"
STUDENT = "--pretrained none --input-size 64x48 --batch-size 4 --epochs 1 --threads 1 --precision fp32"


def page_lines(page):
    """Return the command lines of a page's shell blocks, without comments; of a console block, the typed commands."""
    text = re.sub(r"\\\n", " ", (ROOT / f"docs/{page}.md").read_text())
    lines = []
    for language, body in re.findall(r"```(bash|console)\n(.*?)```", text, re.DOTALL):
        lines += body.splitlines() if language == "bash" else re.findall(r"^\$ (.*)$", body, re.MULTILINE)
    return [line for line in (" ".join(re.sub(r"(^|\s)#.*", "", line).split()) for line in lines) if line]


def execute(words):
    """Run a command, Python modules in this process; return its exit code."""
    if words[:2] == ["python", "-m"]:
        package = (ROOT / words[2].replace(".", "/")).is_dir()
        return importlib.import_module(f"{words[2]}.__main__" if package else words[2]).main(words[3:])
    if words[0] == "torchrun":
        launch = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.run(launch, env=environment, capture_output=True, timeout=240, check=False).returncode
    if words[0] == "tensorboard":
        return check_tensorboard(words)
    raise AssertionError(f"{words[0]}: no test runs it, and NOT_RUN does not list it")


def run_page(page, typed=(), flags=(), before=(), fails=()):
    """Run the commands of a page in the current folder.

    Args:
        page: Name of the page.
        typed: (text of the page, replacement); every text must be on the page.
        flags: (part of a command, flags to append).
        before: (command, function to call before it).
        fails: Commands that end with exit code 1.
    """
    used, variables, happens = set(), {}, dict(before)
    assert {*happens, *fails} <= set(page_lines(page))
    for line in page_lines(page):
        if line in NOT_RUN:
            continue
        if defined := re.fullmatch(r'(\w+)="(.*)"', line):
            variables[defined[1]] = defined[2]
            continue
        if line in happens:
            happens[line]()
        command = re.sub(r"\$(\w+)", lambda name: variables[name[1]], line)
        for old, new in typed:
            if old in command:
                used.add(old)
                command = command.replace(old, new)
        command = " ".join([command, *(more for begins, more in flags if begins in command)])
        assert execute(shlex.split(command)) == (line in fails), f"{page}: {line}\nrun as: {command}"
    assert used == {old for old, _ in typed}


def check_tensorboard(words):
    """Start TensorBoard at a free port, request its list of runs, and stop it."""
    command = [sys.executable, "-m", "tensorboard.main", *words[1:], "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as started:
        try:
            lines = iter(started.stderr.readline, "")
            address = next(found[0] for line in lines if (found := re.search(r"http://localhost:\d+", line)))
            with urllib.request.urlopen(f"{address}/data/runs", timeout=30) as response:
                assert {name.partition("/")[0] for name in json.load(response)} == {"baseline", "distilled"}
        finally:
            started.terminate()
    return 0


def test_what_is_not_run_stands_on_a_page_and_each_has_its_reason():
    lines = {line for page in PAGES for line in page_lines(page)}
    assert set(NOT_RUN) <= lines
    assert all(NOT_RUN.values())
    assert len(lines - set(NOT_RUN)) > 2 * len(NOT_RUN)


def test_every_extra_that_a_page_installs_is_one_of_the_project():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pages = [path.read_text() for path in (ROOT / "docs").rglob("*.md")]
    installed = [extra for page in pages for names in re.findall(r"\.\[([\w,]+)\]", page) for extra in names.split(",")]
    assert len(installed) > 3
    assert set(installed) <= set(extras)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The reader's folder: it contains `configs` as a clone does; each test adds what else its page uses."""
    folder = tmp_path / "a clone"
    folder.mkdir()
    (folder / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(folder)
    return folder


def test_precompute(here):
    (here / "precompute").symlink_to(ROOT / "precompute")
    (here / "teacher.safetensors").symlink_to(ROOT / "precompute/sample/hrnet_w16_sample.safetensors")
    repair = "python -m cache verify train.zarr --repair"
    run_page(
        "precompute",
        typed=[("--train 90 --val 10", "--train 2 --val 1")],
        flags=[("configs/coco-teacher.toml", f"--data small {TEACHER}")],
        before=[(repair, lambda: damage(Path("train.zarr"), 1))],
        fails=[repair],
    )
    assert {path.name for path in here.glob("*.zarr*")} == {"train.zarr"}


def test_training(here):
    for name in ("train", "val", "stores/photographs/train", "stores/photographs/val"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        make_store(Path(f"{name}.zarr"), 6)
    make_store(Path("coco.zarr"), 6)
    make_store(Path("mine.h5"), 6, shift=1.0)
    run_page("training", flags=[("-m train", STUDENT)])
    assert [path.parent.name for path in sorted(here.glob("runs/*/best.pt"))] == ["a", "b", "c", "e"]


def archive(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


@pytest.fixture
def small_coco(here, monkeypatch):
    """COCO's site on loopback, with six images per split, and a teacher's weights in the reader's folder."""
    tiny = tiny_precompute.write(here / "tiny")
    (tiny / "teacher.safetensors").rename(here / "teacher.safetensors")
    annotations = (tiny / "annotations/person_keypoints_train.json").read_text().replace(".png", ".jpg")
    files = {"annotations": {f"annotations/person_keypoints_{s}2017.json": annotations for s in ("train", "val")}}
    for split in ("train", "val"):
        pictures = {path.stem: path.read_bytes() for path in (tiny / "images").iterdir()}
        files[split] = {f"{split}2017/{name}.jpg": data for name, data in pictures.items()}
        monkeypatch.setitem(coco.IMAGES, split, len(pictures))
    shutil.rmtree(tiny)
    monkeypatch.setattr(coco, "SPARE", 0)
    with serve() as site:
        for name, content in files.items():
            path, data = coco.FILES[name][0], archive(content)
            site.files[f"/{path}"] = data
            monkeypatch.setitem(coco.FILES, name, (path, len(data), hashlib.sha1(data).hexdigest()))
        yield site


def test_coco_at_full_scale(small_coco):
    run_page(
        "coco",
        flags=[
            ("-m precompute.fetch.coco", f"--site {small_coco.url}"),
            ("-m precompute --config", TEACHER),
            ("-m train distill", STUDENT),
        ],
    )
    assert Path("runs/coco/distilled/best.pt").is_file()
    assert len(cache.open_store("stores/coco/train.zarr")) == len(cache.open_store("stores/coco/val.zarr")) == 11


def picture(path, width=96, height=128):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def test_students(here):
    made = {}
    for name in ("train.zarr", "val.zarr", "stores/coco/train.zarr", "stores/coco/val.zarr"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        made[name] = make_store(Path(name), 6)
    make_run(Path("runs/coco/distilled"), made["stores/coco/train.zarr"], made["stores/coco/val.zarr"])
    picture(Path("photo.jpg"))
    picture(Path("images/000000000007.jpg"))
    Path("detections.json").write_text(
        json.dumps([{"image_id": 7, "category_id": 1, "bbox": [10, 10, 60, 90], "score": 0.9}])
    )
    clip = cv2.VideoWriter("clip.mp4", cv2.VideoWriter.fourcc(*"mp4v"), 10, (96, 128))
    for _ in range(3):
        clip.write(cv2.imread("photo.jpg"))
    clip.release()
    run_page("students", flags=[("-m train distill", STUDENT), ("--int8", "--max-drop 100")])
    assert all(Path(name).is_file() for name in ("student.onnx", "student.int8.onnx", "student.pt2"))
    assert {"student.md", "student.svg"} <= {file.name for file in Path().iterdir()}
    assert {"README.md", "student.pt", "student.onnx"} <= {file.name for file in Path("release").iterdir()}
    assert [result["image_id"] for result in json.loads(Path("predictions/keypoints.json").read_text())] == [0, 1, 2]


def test_sharing(here, bucket):  # noqa: F811
    Path("stores/coco").mkdir(parents=True)
    for name in ("train", "val"):
        store = make_store(Path(f"stores/coco/{name}.zarr"), 8)
    data = tiny_precompute.write(here / "data")
    (data / "teacher.safetensors").rename(here / "teacher.safetensors")
    for name in set(store.instances["file_name"]):
        picture(here / "pictures" / name, *IMAGE_SIZE)
    shutil.copytree("stores/coco", "site/coco")
    Path("nas/coco").mkdir(parents=True)
    with RangeServer(here / "site").running() as server:
        server.lists = True
        run_page(
            "sharing",
            typed=[
                ("/mnt/nas", "nas"),
                ("s3://team", f"s3://{bucket}"),
                ("https://host", server.url),
                ("hf://datasets/team/coco-teacher", f"{server.url}/coco"),  # over HTTP instead of the Hub
                ("/data/coco/train2017", "pictures"),
                ("train.zarr stores/coco/train.zarr", "train.zarr pulled/coco/train.zarr"),  # as on another machine
                ("stores/coco --split", "pulled/coco2 --split"),
                ("unpack val.zip stores/coco", "unpack val.zip unpacked/coco"),
                ("--limit 5000", "--limit 5"),
                ("precompute ...", f"precompute --data data --store bare.zarr {TEACHER}"),
                ("pictures ...", "pictures --val-store stores/coco/val.zarr --out runs/b"),
            ],
            flags=[("-m train distill", STUDENT)],
        )
    assert not cache.open_store("bare.zarr").has_frames
    assert len(cache.open_store("part.zarr")) == 5


def test_looking(here):
    make_store(Path("train.zarr"), 6)
    make_store(Path("val.zarr"), 6)
    for name, command in (("baseline", "baseline"), ("distilled", "distill")):
        words = f"python -m train {command} --store train.zarr --val-store val.zarr --out runs/{name} {STUDENT}"
        assert execute(shlex.split(words)) == 0
    run_page("looking")
    assert "</html>" in Path("report.html").read_text()
