"""The embedded sample's teacher: the committed weights work on the sample, and their training script still works."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from kdlib.geometry import transform_points
from kdlib.inputs.annotations import Annotations, read_keypoint_annotations
from kdlib.skeletons.skeleton import COCO
from precompute.sample import train_teacher
from precompute.sample.dataset import write_sample
from precompute.sample.spec import SampleSpec
from precompute.sample.train_teacher import HEATMAP_SIZE, INPUT_SIZE, MODEL, evaluate, main
from precompute.sample.training_views import STRIDE, InstanceViews, _shuffled_rows, shuffled_batches
from precompute.teacher.checkpoint import load_weights
from precompute.teacher.hrnet import HRNet, build_hrnet

COMMITTED = Path(train_teacher.__file__).with_name("hrnet_w16_sample.safetensors")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """On busy cores, several threads make such small networks many times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first images of the demo's sample."""
    out = tmp_path_factory.mktemp("teacher") / "people"
    write_sample(out, SampleSpec(train=10, val=40))
    return out


@pytest.fixture(scope="module")
def val(sample: Path) -> Annotations:
    return read_keypoint_annotations(sample / "annotations/person_keypoints_val.json")


@pytest.fixture(scope="module")
def views(sample: Path, val: Annotations) -> InstanceViews:
    return InstanceViews(sample / "images", val.instances, INPUT_SIZE)


@pytest.fixture(scope="module")
def teacher() -> HRNet:
    model = build_hrnet(MODEL)
    load_weights(model, COMMITTED)
    return model


def test_the_committed_teacher_finds_the_joints_of_pictures_it_never_saw(
    teacher: HRNet, views: InstanceViews, val: Annotations
) -> None:
    """The bounds allow for the noise of few instances: on the demo's whole val split, PCK is 71 and 86."""
    metrics = evaluate(teacher, views, val)
    assert metrics["instances"] == len(views) > 50
    assert metrics["pck@0.05"] > 62
    assert metrics["pck@0.1"] > 78


def test_the_committed_file_says_how_it_was_made() -> None:
    with safe_open(COMMITTED, "pt") as file:
        metadata = file.metadata()
        kinds = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    assert kinds == {torch.float16, torch.int64}
    assert metadata["model"] == MODEL
    assert metadata["command"].startswith("python -m precompute.sample.train_teacher ")
    assert json.loads(metadata["data"])["seed"] != SampleSpec().seed
    assert json.loads(metadata["metrics"])["pck@0.05"] > 70


def test_the_training_script_writes_weights_that_load(sample: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.safetensors"
    assert main(["--data", str(sample), "--out", str(out), "--samples", "64"]) == 0
    load_weights(build_hrnet(MODEL), out)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_training_on_a_foreign_folder_fails_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["--data", str(tmp_path), "--out", str(tmp_path / "x.safetensors")]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_without_safetensors_nothing_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["--data", str(tmp_path / "data"), "--out", str(tmp_path / "x.safetensors")]) == 1
    error = capsys.readouterr().err
    assert error == "error: safetensors is needed to save the weights: pip install safetensors\n"
    assert not (tmp_path / "data").exists()


def test_a_random_view_moves_joints_with_the_pixels(views: InstanceViews, val: Annotations) -> None:
    """A visible joint has the same colour as in the plain crop, at that joint or at its mirror joint."""
    rows = np.arange(len(views))
    plain, affines = views.plain(rows)
    points = transform_points(val.instances.keypoints[..., :2], affines)
    drawn = views.random(rows, np.random.default_rng(0))
    seen = (drawn.weights > 0) & (val.instances.keypoints[..., 2] == 2)
    differences = [
        min(
            np.abs(_colour(drawn.crops[i], drawn.points[i, k] * STRIDE) - _colour(plain[i], points[i, j])).max()
            for j in same
        )
        for i, k in np.argwhere(seen)
        for same in [(k, COCO.flip_order[k])]
    ]
    assert np.median(differences) < 15


def _colour(picture: np.ndarray, point: np.ndarray) -> np.ndarray:
    x, y = np.clip(np.round(point).astype(int), 0, np.array(picture.shape[1::-1]) - 1)
    return picture[y, x].astype(int)


def test_labelled_joints_of_a_view_lie_on_its_heatmaps(views: InstanceViews) -> None:
    for batch in shuffled_batches(views, 8, 3, np.random.default_rng(0)):
        assert batch.crops.shape == (8, INPUT_SIZE[1], INPUT_SIZE[0], 3)
        labelled = batch.points[batch.weights > 0]
        assert (labelled >= 0).all()
        assert (labelled < np.array(HEATMAP_SIZE)).all()


def test_every_epoch_takes_every_person_once() -> None:
    rows = _shuffled_rows(10, 4, np.random.default_rng(0))
    drawn = np.concatenate([next(rows) for _ in range(5)])
    for epoch in (drawn[:10], drawn[10:]):
        assert sorted(epoch) == list(range(10))
