"""Tests of the Makefile with a fake Python that records its arguments: folders with spaces, early refusals."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from precompute import __main__ as precompute
from precompute.sample.demo import NEXT
from precompute.teacher.hrnet import HRNET
from train import __main__ as train

ROOT = Path(__file__).resolve().parents[2]
RECORD = "import json, sys; print(json.dumps(sys.argv[1:]), file=open('calls', 'a'))"


def store_of(arguments):
    """The store of a command; a training has a list of them, here of one."""
    if not isinstance(arguments.store, list):
        return arguments.store
    (store,) = arguments.store
    return Path(store.place)


@pytest.fixture
def clone(tmp_path):
    """A folder with the Makefile and environments that contain only the fake Python, which runs the demo's stages."""
    folder = tmp_path / "a clone of mine"
    for environment in (".venv", ".venv-fiftyone"):
        (folder / environment / "bin").mkdir(parents=True)
    for name in ("pyproject.toml", "Makefile"):
        shutil.copy(ROOT / name, folder)
    for environment in (".venv", ".venv-fiftyone"):
        python = folder / environment / "bin/python"
        demo = f'[ "$2" = precompute.sample.demo ] && PYTHONPATH="{ROOT}" exec "{sys.executable}" "$@"'
        python.write_text(f'#!/bin/sh\n{demo}\nexec "{sys.executable}" -c "{RECORD}" "$@"\n')
        python.chmod(0o755)
        (folder / environment / "ready").touch()
    return folder


def make(folder, *words):
    return subprocess.run(["make", *words], cwd=folder, capture_output=True, text=True, check=False)


def calls(folder, *words):
    """Run a make command; return the arguments of every `python -m ...` it runs, from the module name on."""
    done = make(folder, *words)
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, (folder / "calls").read_text().splitlines())
    (folder / "calls").unlink()
    return [words[1:] for words in lines]


def train_arguments(words):
    assert words[0] == "train"
    return train._parser().parse_args(words[1:])


@pytest.mark.parametrize("data", ["sets/my people", "sets/my people/"])
def test_every_target_takes_a_data_folder_with_spaces(clone, data):
    pictures = clone / "sets/my people/images/val"
    pictures.mkdir(parents=True)
    for run in ("baseline", "distilled"):
        (clone / "runs/my people" / run).mkdir(parents=True)
        (clone / "runs/my people" / run / "best.pt").touch()
    targets = ["cache", "baseline", "distill", "evaluate", "report", "export", "predict", "web", "fiftyone"]
    made = calls(clone, *targets, f"DATA={data}", "SOURCE=a photo.jpg", "TEACHER=onnx:my net.onnx")
    for split, words in zip(("train", "val"), made[:2], strict=True):
        arguments = precompute._parser().parse_args(words[1:])
        assert (arguments.data, arguments.split, arguments.teacher) == (Path(data), split, "onnx:my net.onnx")
        assert arguments.store == Path(f"stores/my people/{split}.zarr")
    assert made.pop(-2) == ["train.show.gallery.database"]  # before anything is computed
    by_command = [train_arguments(words) for words in made[2:]]
    commands = [
        "baseline",
        "distill",
        "evaluate",
        "evaluate",
        "evaluate",
        "report",
        "export",
        "predict",
        "web",
        "fiftyone",
    ]
    assert [arguments.command for arguments in by_command] == commands
    runs = Path("runs/my people")
    assert [a.out for a in by_command if a.command != "web"] == [
        *(runs / "baseline", runs / "distilled", runs / "teacher.json"),
        *(runs / "baseline/evaluation.json", runs / "distilled/evaluation.json", runs / "report.html"),
        *(runs / "student.onnx", runs / "predictions", runs / "fiftyone"),
    ]
    stores = {store_of(a) for a in by_command if a.command not in ("predict", "web")}
    assert stores == {Path("stores/my people/train.zarr"), Path("stores/my people/val.zarr")}
    assert by_command[-3].source == "a photo.jpg"
    assert (by_command[-2].student, by_command[-2].images) == (runs / "student.onnx", Path("a photo.jpg"))
    assert by_command[-1].images == pictures.relative_to(clone)
    assert by_command[-1].student == [runs / "baseline/best.pt", runs / "distilled/best.pt"]


def test_stores_and_runs_with_spaces_reach_the_demo_and_the_checkpoint_the_teacher(clone):
    given = ["STORE=my stores", "RUNS=my runs", "CHECKPOINT=the weights.pth"]
    made = calls(clone, "demo", *given)
    assert made[0] == ["precompute.sample", "--out", "data/sample", "--few", "150"]
    train, val = (precompute._parser().parse_args(words[1:]) for words in made[1:3])
    assert (train.split, train.unlabelled, train.store) == ("few", True, Path("my stores/train.zarr"))
    assert (val.split, val.unlabelled, val.store) == ("val", False, Path("my stores/val.zarr"))
    (checkpoint,) = {words[words.index("--checkpoint") + 1] for words in made if "--checkpoint" in words}
    assert checkpoint == "the weights.pth"
    assert [train_arguments(words).out for words in made[3:5]] == [
        Path("my runs") / n for n in ("baseline", "distilled")
    ]
    assert train_arguments(made[-1]).runs == [Path("my runs/baseline"), Path("my runs/distilled")]
    assert train_arguments(made[-1]).store == Path("my stores/val.zarr")


def test_the_demo_continues_an_unfinished_run_and_replaces_a_finished_one(clone):
    finished = clone / "my runs/baseline/metrics.json"
    finished.parent.mkdir(parents=True)
    finished.touch()
    made = calls(clone, "demo", "RUNS=my runs", "TRAIN_ARGS=--seed 3")
    baseline, distilled = map(train_arguments, made[3:5])
    assert (baseline.overwrite, baseline.resume, distilled.overwrite, distilled.resume) == (True, False, False, True)
    assert baseline.seed == distilled.seed == 3
    for words in calls(clone, "baseline", "distill", "RUNS=my runs"):
        assert not train_arguments(words).overwrite
        assert not train_arguments(words).resume


def test_what_the_demo_suggests_at_its_end_are_commands_that_parse(clone):
    (clone / "photos/images").mkdir(parents=True)
    commands = [line.partition("#")[0].split() for line in NEXT.splitlines() if line.startswith("  make ")]
    assert len(commands) == 3
    made = [words for command in commands for words in calls(clone, *command[1:])]
    for split, words in zip(("train", "val"), made[:2], strict=True):
        arguments = precompute._parser().parse_args(words[1:])
        assert (arguments.data, arguments.split, arguments.unlabelled) == (Path("photos"), split, True)
        assert arguments.teacher in {published.name for published in HRNET.published}
    distil, export, predict = map(train_arguments, made[2:])
    assert (distil.command, export.command, predict.command) == ("distill", "export", "predict")
    assert store_of(distil) == Path("stores/photos/train.zarr")
    assert export.student == distil.out / "best.pt"
    assert (predict.student, predict.source) == (export.out, "photo.jpg")


def test_card_and_release_get_the_stores_and_the_exported_file_that_there_are(clone):
    data, runs = "DATA=sets/my people", Path("runs/my people")
    card, release = map(train_arguments, calls(clone, "card", "release", data))
    assert (card.run, card.student, card.store) == (runs / "distilled", [], [])
    assert (release.run, release.out, release.store) == (runs / "distilled", runs / "release", [])
    stores = [Path(f"stores/my people/{split}.zarr") for split in ("train", "val")]
    for folder in stores:
        (clone / folder).mkdir(parents=True)
    (clone / runs).mkdir(parents=True)
    (clone / runs / "student.onnx").touch()
    words = ("card", "release", data, "CARD_ARGS=--license mit", "RELEASE_ARGS=--overwrite")
    card, release = map(train_arguments, calls(clone, *words))
    assert (card.student, card.store, card.license) == ([runs / "student.onnx"], stores, "mit")
    assert (release.store, release.overwrite) == (stores, True)


def test_a_folder_whose_name_has_coco_among_its_words_is_not_downloaded(clone):
    assert [words[0] for words in calls(clone, "cache", "DATA=my coco")] == ["precompute", "precompute"]
    assert calls(clone, "cache", "DATA=coco")[0] == ["precompute.fetch.coco", "--out", "data/coco"]


@pytest.mark.parametrize(
    ("data", "recipe"), [("sample", "configs/sample.toml"), ("coco", "configs/coco.toml"), ("my coco", None)]
)
def test_a_data_set_that_is_known_has_its_recipe(clone, data, recipe):
    (command,) = calls(clone, "distill", f"DATA={data}")
    assert (command[command.index("--config") + 1] if "--config" in command else None) == recipe


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["predict"], "give an image, a folder or a video: make predict SOURCE=photo.jpg"),
        (["fiftyone", "DATA=my people"], "no validation images in my people; give their folder with IMAGES=DIR"),
    ],
)
def test_what_is_missing_is_said_before_an_environment_is_made(clone, words, said):
    for environment in (".venv", ".venv-fiftyone"):
        shutil.rmtree(clone / environment)
    done = make(clone, *words, "PYTHON=false")
    assert done.returncode != 0
    assert said in done.stderr
    assert sorted(path.name for path in clone.iterdir()) == ["Makefile", "pyproject.toml"]


def test_the_list_of_targets_shows_folders_with_spaces(clone):
    shown = make(clone, "help", "DATA=sets/my people").stdout
    assert "(stores/my people, runs/my people)" in shown
    assert "sample, coco, or the path of a data folder (sets/my people)" in shown


ELSEWHERE = {"help", "demo", "fiftyone", "clean"}
"""Targets that the page describes in words."""


def plain_commands():
    """Target -> the commands of docs/platforms.md, without the interpreter."""
    page = (ROOT / "docs/platforms.md").read_text(encoding="utf-8")
    block = re.search(r"```text\n(# setup.*?)```", page, re.DOTALL)[1]
    found = {}
    for part in block.strip().split("\n\n"):
        title, *commands = part.splitlines()
        words = [shlex.split(command) for command in commands]
        assert all(command[0] == "python" for command in words)
        targets = title.removeprefix("# ").partition(":")[0].split(", ")
        found |= {target: [command[1:] for command in words] for target in targets}
    return found


def test_the_page_for_those_without_make_has_every_target(clone):
    """With a sample, stores, runs and an exported student in place, as after the targets before."""
    for name in ("stores/sample/train.zarr", "stores/sample/val.zarr", "data/sample/images"):
        (clone / name).mkdir(parents=True)
    for name in ("baseline/best.pt", "distilled/best.pt", "student.onnx"):
        (clone / "runs/sample" / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / "runs/sample" / name).touch()
    page = plain_commands()
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert page.keys() == targets - ELSEWHERE
    for target in sorted(page.keys() - {"setup"}):
        done = make(clone, target, "SOURCE=photo.jpg" if target == "predict" else "SOURCE=")
        assert done.returncode == 0, done.stderr
        run = [json.loads(line) for line in (clone / "calls").read_text().splitlines()]
        (clone / "calls").unlink()
        expected = page["sample"] + page[target] if target == "cache" else page[target]
        assert run == expected, target


def test_the_setup_of_the_page_installs_what_make_installs():
    (extras,) = re.findall(r"\$\$install -e '(.*?)'", (ROOT / "Makefile").read_text())
    assert plain_commands()["setup"] == [["-m", "venv", ".venv"], ["-m", "pip", "install", "-e", extras]]


def test_the_demo_is_the_targets_that_the_page_names(clone):
    for run in ("baseline", "distilled"):
        (clone / "runs/sample" / run).mkdir(parents=True)
        (clone / "runs/sample" / run / "best.pt").touch()
    page = plain_commands()
    order = ("sample", "cache", "baseline", "distill", "evaluate", "report")
    expected = [command[1:] for target in order for command in page[target]]
    begins = ("--overwrite", "--resume")  # of a training; the page's commands start a new one
    made = [[word for word in words if words[0] != "train" or word not in begins] for words in calls(clone, "demo")]
    assert made == expected
