"""Tests of the Makefile with a fake Python that records its arguments: folders with spaces, early refusals."""

import json
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
    stores = {a.store for a in by_command if a.command not in ("predict", "web")}
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
    assert distil.store == Path("stores/photos/train.zarr")
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
