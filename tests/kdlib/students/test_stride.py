"""Maps of other strides, from training to prediction, and checkpoints that do not record the stride."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import cache
from kdlib.geometry import MAP_STRIDES, invert_affine, transform_points
from kdlib.machine.cost import multiply_adds, parameter_count
from kdlib.students.checkpoint import read
from kdlib.students.loading import load_checkpoint
from kdlib.students.networks import build_student
from tests.support.stores.people import make_store
from tests.support.tiny_training import command
from train.__main__ import main
from train.evaluate import predict, student_loader
from train.recipe import Recipe
from train.run.folder import save_checkpoint
from train.show.report.evidence import gather
from train.show.report.people import _student
from train.supervision import supervision_of

PAGE = Path(__file__).resolve().parents[3] / "docs" / "students.md"


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    make_store(folder / "train.zarr", 8)
    make_store(folder / "val.h5", 5)
    return folder


@pytest.fixture(scope="module")
def run(stores):
    """A run of one epoch with maps of stride 8 and inputs of 96x64."""
    flags = {"epochs": 1, "stride": 8, "input_size": "96x64"}
    assert main(command(stores, stores / "run", **flags)) == 0
    return stores / "run"


def test_the_students_maps_and_their_gaussians_are_of_the_runs_stride(run):
    student = load_checkpoint(run / "best.pt")
    assert student.model.stride == 8
    assert student.model(torch.zeros(1, 3, 96, 64)).shape == (1, 17, 12, 8)
    assert json.loads((run / "metrics.json").read_text())["instances"] == 5
    for stride, sigma in ((2, 2.0), (4, 1.0), (8, 1.0)):  # 64, 32 and 16 rows; never below a pixel
        assert supervision_of(Recipe(stride=stride), (96, 128), 0.003, distil=True).sigma == sigma


def test_a_run_of_another_stride_is_not_resumed(run, stores, capsys):
    flags = {"epochs": 1, "stride": 4, "input_size": "96x64", "resume": True}
    assert main(command(stores, run, **flags)) == 1
    assert "resuming would change recipe.stride: 8 -> 4" in capsys.readouterr().err


def test_the_exported_file_says_its_stride_and_gives_the_checkpoints_joints(run, stores, tmp_path):
    pytest.importorskip("onnxscript", reason="exporting needs the extra [export]")
    pytest.importorskip("onnxruntime", reason="exporting needs the extra [export]")
    from kdlib.students.loading import OnnxStudent

    out, best = tmp_path / "s.onnx", run / "best.pt"
    flags = ["--check", "4", "--store", str(stores / "val.h5")]
    assert main(["export", "--student", str(best), "--out", str(out), *flags]) == 0
    exported = OnnxStudent(out)
    maps = exported.heatmaps(np.zeros((1, *reversed(exported.input_size), 3), np.uint8))
    assert int(exported.metadata["stride"]) == 8 == exported.input_size[0] / maps.shape[-1]
    store, student = cache.open_store(stores / "val.h5"), load_checkpoint(best)
    loader = student_loader(store, student.input_size, 4, torch.device("cpu"))
    one = predict(student, loader)
    np.testing.assert_allclose(one.points, predict(OnnxStudent(out), loader).points, atol=0.05)
    cv2.imwrite(str(tmp_path / "in.png"), np.random.default_rng(0).integers(0, 256, (150, 100, 3), np.uint8))
    said = {}
    for source in (best, out):
        assert main(["evaluate", "--store", str(stores / "val.h5"), "--student", str(source)]) == 0
        folder = tmp_path / source.suffix
        assert main(["predict", str(tmp_path / "in.png"), "--student", str(source), "--out", str(folder)]) == 0
        (person,) = json.loads((folder / "keypoints.json").read_text())
        said[source] = np.reshape(person["keypoints"], (17, 3))[:, :2]
    np.testing.assert_allclose(said[best], said[out], atol=0.05)


def test_the_report_lays_the_maps_on_their_stride(run, stores):
    evidence = gather(cache.open_store(stores / "val.h5"), [run])
    (trained,) = evidence.students
    drawn = _student(evidence, trained, np.arange(2), "a")
    assert drawn.heatmaps.shape == (2, 17, 12, 8)
    batch = next(student_loader(evidence.store, (64, 96), 2, torch.device("cpu")).epoch())
    of_input = invert_affine(batch["affine"].numpy())
    pixels = np.array([[0.0, 0.0], [7.0, 11.0]])
    np.testing.assert_allclose(transform_points(pixels, drawn.to_image), transform_points(8 * pixels, of_input))


@pytest.mark.parametrize("stride", [4, 2])
def test_a_run_of_before_there_was_a_choice_has_stride_4_and_goes_on(stores, tmp_path, stride, capsys):
    out = tmp_path / "run"
    assert main(command(stores, out, epochs=1)) == 0
    for name in ("last.pt", "best.pt"):
        content = read(out / name)
        assert content["recipe"].pop("stride") == 4
        save_checkpoint(out / name, content)
    student = load_checkpoint(out / "best.pt")
    assert student.model.stride == 4
    assert main(command(stores, out, epochs=1, resume=True, stride=stride)) == (stride != 4)
    assert ("resuming would change recipe.stride: 4 -> 2" in capsys.readouterr().err) == (stride != 4)


def test_a_stride_in_a_file_is_one_of_the_three(stores, tmp_path, capsys):
    (tmp_path / "wide.toml").write_text("stride = 16\n")
    assert main([*command(stores, tmp_path / "run"), "--config", str(tmp_path / "wide.toml")]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'wide.toml'}: stride: one of 2, 4, 8 is needed, got 16\n"


def test_the_page_says_what_each_stride_costs():
    rows = re.findall(
        r"^\| (\d) \| (\d+)x(\d+) \| ([\d.]+) M \| ([\d.]+) \| ([\d.]+) \|$", PAGE.read_text(), re.MULTILINE
    )
    assert [int(row[0]) for row in rows] == list(MAP_STRIDES)
    for stride, height, width, millions, large, small in rows:
        student = build_student("squeezenet1_1", "fused", 17, (192, 256), int(stride))
        assert student(torch.zeros(1, 3, 256, 192)).shape[2:] == (int(height), int(width))
        assert f"{parameter_count(student) / 1e6:.2f}" == millions
        assert [f"{multiply_adds(student, size) / 1e9:.2f}" for size in ((192, 256), (96, 128))] == [large, small]
