"""Releases: the folder is complete and checked, its student predicts like the run's, and what is left out is said."""

import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess

import cv2
import numpy as np
import pytest

import cache
from kdlib.students import load_student
from kdlib.students.release import student_file
from tests.support.stores.people import make_store
from tests.support.trained_student import make_run
from train.__main__ import main
from train.commands import export, release
from train.errors import TrainError

pytest.importorskip("onnxscript", reason="exporting needs the extra [export]")
FILES = {
    *("README.md", "training.svg", "student.pt", "student.onnx", "student.int8.onnx", "report.html"),
    *("store.json", "val_store.json", "SHA256SUMS"),
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return make_store(folder / "train.zarr", 6), make_store(folder / "val.h5", 8, shift=0.7)


@pytest.fixture(scope="module")
def run(stores, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "distilled", *stores)


def command(run, stores, out, *flags):
    given = ["--store", *(str(store.path) for store in stores)] if stores else []
    return ["release", str(run), "--out", str(out), *given, *flags]


FAST = ["--max-drop", "100", "--calibration-crops", "4", "--check", "4"]


@pytest.fixture(scope="module")
def made(run, stores):
    """A complete release."""
    assert main(command(run, stores, run.parent / "my release", *FAST)) == 0
    return run.parent / "my release"


@pytest.fixture
def quick(monkeypatch, made):
    """Exports are copied from the complete release."""

    def copy(arguments, *_):
        shutil.copyfile(made / "student.onnx", arguments.out)

    def quantise(arguments, *_):
        target = arguments.out.with_suffix(".int8.onnx")
        shutil.copyfile(made / "student.int8.onnx", target)
        return {arguments.out: {}, target: {}}

    monkeypatch.setattr(export, "export_float32", copy)
    monkeypatch.setattr(export, "export_int8", quantise)


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def refused(capsys, *words):
    assert main([str(word) for word in words]) == 1
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith("error: ")
    return error[-1]


def test_a_release_is_complete_and_coreutils_confirm_its_checksums(made, run, stores):
    assert {file.name for file in made.iterdir()} == FILES
    assert [file.name for file in made.parent.iterdir() if file.name.endswith(".tmp")] == []
    subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=made, check=True, stdout=subprocess.DEVNULL)
    listed = [line.split("  ")[1] for line in (made / "SHA256SUMS").read_text().splitlines()]
    assert listed == sorted(FILES - {"SHA256SUMS"})
    assert (made / "student.pt").read_bytes() == (run / "best.pt").read_bytes()
    for name, store in zip(("store.json", "val_store.json"), stores, strict=True):
        assert json.loads((made / name).read_text()) == dict(store.manifest)


def test_a_release_made_again_is_the_same(made, run, stores):
    again = made.parent / "again"
    assert main(command(run, stores, again, *FAST)) == 0
    assert content(again) == content(made)


def test_no_file_holds_a_path_of_this_machine(made):
    here = [str(made.parent).encode(), str(export.__file__).rpartition("/train/")[0].encode()]
    assert [name for name, data in content(made).items() for path in here if path in data] == []


def test_the_folder_predicts_like_the_run_and_its_card_runs_as_it_stands(made, run, tmp_path, monkeypatch):
    folder = tmp_path / "downloaded"
    shutil.copytree(made, folder)
    (folder / "images").mkdir()
    photo = np.random.default_rng(0).integers(0, 256, (430, 250, 3), np.uint8)
    for name in ("photo.jpg", "person.jpg", "images/1.jpg"):
        cv2.imwrite(str(folder / name), photo)
    boxes = [{"image_id": 1, "category_id": 1, "bbox": [48, 20, 180, 400], "score": 0.9}]
    (folder / "detections.json").write_text(json.dumps(boxes))
    monkeypatch.chdir(folder)
    text = (folder / "README.md").read_text(encoding="utf-8")
    library, onnx = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    wanted = load_student(run / "best.pt").predict("photo.jpg", [[48, 20, 180, 400]])
    variables = {}
    exec(library, variables)
    np.testing.assert_allclose(variables["keypoints"][..., :2], wanted[..., :2], atol=0.05)  # ONNX: rounding, then DARK
    np.testing.assert_array_equal(load_student(folder).predict("photo.jpg", [[48, 20, 180, 400]]), wanted)
    exec(onnx, variables)
    crop = cv2.cvtColor(cv2.resize(photo, (48, 64)), cv2.COLOR_BGR2RGB)
    assert crop.shape == variables["crop"].shape
    maps = load_student(run / "best.pt").heatmaps(variables["crop"][None])[0]
    y, x = np.unravel_index(maps.reshape(17, -1).argmax(axis=1), maps.shape[1:])
    np.testing.assert_array_equal(variables["points"], 4 * np.stack([x, y], axis=1))
    predict = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)[0].splitlines()
    for line in [*predict, "python -m train predict photo.jpg --student . --out predictions"]:
        assert main(shlex.split(line)[3:]) == 0
    size = re.search(r"`student.onnx` \| ONNX, float32 \| (\S+) MB", text)[1]
    assert float(size) == pytest.approx((folder / "student.onnx").stat().st_size / 1e6, abs=0.05)


def test_a_changed_folder_is_refused_by_every_command(made, stores, tmp_path, capsys):
    folder = tmp_path / "changed"
    shutil.copytree(made, folder)
    (folder / "student.pt").write_bytes((folder / "student.pt").read_bytes()[:-1] + b"x")
    for words in (
        ("predict", "photo.jpg", "--student", folder, "--out", tmp_path / "out"),
        ("evaluate", "--store", stores[1].path, "--student", folder),
        ("export", "--student", folder, "--out", tmp_path / "x.onnx"),
    ):
        (tmp_path / "photo.jpg").write_bytes(b"")
        assert "student.pt does not match its checksum in SHA256SUMS" in refused(
            capsys, *(tmp_path / w if w == "photo.jpg" else w for w in words)
        )
    assert student_file(made).name == "student.pt"


def test_a_run_whose_stores_are_gone_leaves_out_what_needs_them_and_says_so(quick, stores, tmp_path, capsys):
    run = make_run(tmp_path / "run", *stores, manifests=False)
    assert main(command(run, [], tmp_path / "out")) == 0
    left = {"student.int8.onnx", "report.html", "store.json", "val_store.json"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == FILES - left
    lines = capsys.readouterr().err.splitlines()
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert {line.split(":")[0].removeprefix("left out ") for line in lines} == left
    assert all(f"Left out: `{name}`." in card for name in left)
    subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "out", check=True, stdout=subprocess.DEVNULL)


def test_the_reports_of_a_run_are_found_and_copied(quick, run, stores, made, tmp_path):
    assert (made / "report.html").read_bytes() == (run / "report.html").read_bytes()
    assert main(command(run, [], tmp_path / "out")) == 0  # without the stores
    assert (tmp_path / "out/report.html").read_bytes() == (run / "report.html").read_bytes()
    assert cache.open_store(stores[1].path).manifest["content_sha256"] in (made / "report.html").read_text()


def test_an_int8_file_that_costs_too_much_is_left_out_with_the_reason(
    run, stores, tmp_path, capsys, quick, monkeypatch
):
    def refuse(arguments, *_):
        raise TrainError(f"{arguments.out.with_suffix('.int8.onnx')} was not kept: int8 costs 7.5 points of PCK@0.1")

    monkeypatch.setattr(export, "export_int8", refuse)
    assert main(command(run, stores, tmp_path / "out")) == 0
    said = capsys.readouterr().err
    assert said == "left out student.int8.onnx: student.int8.onnx was not kept: int8 costs 7.5 points of PCK@0.1\n"
    assert {file.name for file in (tmp_path / "out").iterdir()} == FILES - {"student.int8.onnx"}
    assert "int8 costs 7.5 points of PCK@0.1." in (tmp_path / "out/README.md").read_text(encoding="utf-8")


def test_a_release_without_an_onnx_exporter_holds_the_checkpoint(run, stores, tmp_path, quick, monkeypatch):
    def refuse(arguments, *_):
        raise TrainError("exporting to ONNX needs onnx: pip install -e '.[export]'")

    monkeypatch.setattr(export, "export_float32", refuse)
    assert main(command(run, stores, tmp_path / "out")) == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == FILES - {"student.onnx", "student.int8.onnx"}
    assert 'load_student("student.pt")' in (tmp_path / "out/README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_failure_leaves_nothing_and_keeps_the_release_that_was_there(
    error, quick, run, made, tmp_path, monkeypatch, capsys
):
    shutil.copytree(made, tmp_path / "out")
    before = content(tmp_path / "out")

    def fail(*_):
        raise error

    monkeypatch.setattr(release, "_write_manifests", fail)
    assert main(command(run, [], tmp_path / "out", "--overwrite")) == 1
    assert main(command(run, [], tmp_path / "new/place")) == 1
    assert re.search("interrupted|No space left on device", capsys.readouterr().err)
    assert content(tmp_path / "out") == before
    assert [file.name for file in tmp_path.iterdir() if file.name != "new"] == ["out"]
    assert list((tmp_path / "new").iterdir()) == []


def test_folders_of_killed_processes_are_deleted_but_not_those_of_running_ones(quick, run, tmp_path):
    killed = [tmp_path / f".out.{middle}123.0123abcd.tmp" for middle in ("", "replaced.")]
    kept = [tmp_path / name for name in (".out.v2.123.0123abcd.tmp", ".out.tmp", ".outer.123.0123abcd.tmp")]
    running = tmp_path / ".out.124.0123abcd.tmp"
    for folder in (*killed, *kept, running):
        folder.mkdir()
        (folder / "student.pt").write_text("half")
    handle = os.open(running, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert main(command(run, [], tmp_path / "out")) == 0
    finally:
        os.close(handle)
    assert {path.name for path in tmp_path.iterdir()} == {"out", running.name, *(path.name for path in kept)}
    assert {file.name for file in (tmp_path / "out").iterdir()} <= FILES


def test_only_a_release_is_replaced_and_only_when_it_is_asked_for(quick, run, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    assert main(command(run, [], out)) == 0  # an empty folder
    before = content(out)
    assert "replace it with --overwrite" in refused(capsys, *command(run, [], out))
    (tmp_path / "link").symlink_to(out)
    assert main(command(run, [], tmp_path / "link", "--overwrite", "--license", "mit")) == 0
    assert b'license: "mit"' in (out / "README.md").read_bytes()
    assert (tmp_path / "link").is_symlink()
    assert main(command(run, [], out, "--overwrite")) == 0
    assert content(out) == before
    (out / "notes.txt").write_text("mine")
    assert "(notes.txt); it is not replaced" in refused(capsys, *command(run, [], out, "--overwrite"))
    assert (out / "notes.txt").read_text() == "mine"
    assert "is not a release, so it is not replaced" in refused(capsys, *command(run, [], run, "--overwrite"))
    assert "is a file" in refused(capsys, *command(run, [], out / "notes.txt", "--overwrite"))
    assert "is not a run folder" in refused(capsys, *command(tmp_path, [], tmp_path / "x"))
    assert "is a release, not a run" in refused(capsys, *command(out, [], tmp_path / "x"))
    assert not (tmp_path / "x").exists()


def test_cards_beside_exported_files_list_them_and_refuse_those_of_other_runs(made, run, stores, tmp_path, capsys):
    shutil.copyfile(made / "student.onnx", tmp_path / "my student.onnx")
    assert main(["card", str(run), "--student", str(tmp_path / "my student.onnx")]) == 0
    text = (tmp_path / "my student.md").read_text(encoding="utf-8")
    assert "| `my student.onnx` | ONNX, float32 |" in text
    assert "](<my student.svg>)" in text
    assert (tmp_path / "my student.svg").exists()
    known = json.loads((run / "exported.json").read_text())
    sha256 = hashlib.sha256((made / "student.onnx").read_bytes()).hexdigest()
    assert f"| {known[sha256]['ms']:.2f} |" in text
    other = make_run(tmp_path / "other", *stores, seed=5)
    words = ("card", other, "--student", made / "student.onnx", "--out", tmp_path / "x.md")
    assert "is not an export of" in refused(capsys, *words)
    baseline = make_run(tmp_path / "baseline", *stores, name="baseline")
    words = ("card", baseline, "--student", made / "student.int8.onnx", "--out", tmp_path / "x.md")
    assert "run distilled instead of baseline" in refused(capsys, *words)
    assert "no exported student at" in refused(capsys, "card", run, "--student", tmp_path / "none.onnx")
    assert "its name must end in .onnx or .pt2" in refused(capsys, "card", run, "--student", run / "best.pt")
    assert not (tmp_path / "x.md").exists()


def test_export_writes_the_card_too(run, stores, tmp_path, capsys):
    flags = ["--store", str(stores[1].path), "--check", "2", "--card"]
    assert main(["export", "--student", str(run / "best.pt"), "--out", str(tmp_path / "s.pt2"), *flags]) == 0
    text = (tmp_path / "s.md").read_text(encoding="utf-8")
    assert "| `s.pt2` | archive of `torch.export`, float32 |" in text
    assert 'load_student("best.pt")' in text
    (tmp_path / "s.md").write_text("mine")
    words = ("export", "--student", run / "best.pt", "--out", tmp_path / "s.pt2", "--card")
    assert "is not a card that this command wrote" in refused(capsys, *words)
