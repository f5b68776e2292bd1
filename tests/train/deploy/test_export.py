"""Exported students: they compute what PyTorch computes, carry their metadata, and bad files are not kept."""

import argparse
import json

import numpy as np
import pytest
import torch

import cache
from kdlib.students.loading import load_checkpoint
from tests.support.stores.people import make_store
from tests.support.trained_student import make_checkpoint
from train.__main__ import main
from train.commands import export as command
from train.deploy import agreement, formats
from train.deploy.agreement import check_agreement, compare, noise_crops, store_crops
from train.deploy.network import Deployable, describe
from train.errors import TrainError
from train.evaluate import predict, student_loader

pytest.importorskip("onnxscript", reason="exporting needs the extra [export]")
onnxruntime = pytest.importorskip("onnxruntime", reason="exporting needs the extra [export]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store, a checkpoint, and what one export command makes of them."""
    folder = tmp_path_factory.mktemp("export")
    make_store(folder / "val.zarr", 9)
    make_checkpoint(folder / "best.pt")
    store = ("--store", str(folder / "val.zarr"), "--check", "9")
    flags = ("--int8", "--max-drop", "100", "--calibration-crops", "9")
    assert main(["export", "--student", str(folder / "best.pt"), "--out", str(folder / "s.onnx"), *store, *flags]) == 0
    return folder


@pytest.fixture(scope="module")
def student(folder):
    return load_checkpoint(folder / "best.pt")


def test_what_the_loss_calls_heatmaps_is_what_the_file_puts_out(folder, student):
    crops = noise_crops(student.input_size, 3)
    session = onnxruntime.InferenceSession(folder / "s.onnx")
    with torch.inference_mode():
        mean, std = (torch.tensor(json.loads(facts(session)[key])) for key in ("mean", "std"))
        normalised = ((torch.from_numpy(crops) / 255 - mean) / std).permute(0, 3, 1, 2)
        wanted = student.readout.heatmaps(student.model(normalised)).numpy()
    for batch in (crops, crops[:1]):
        (found,) = session.run(["heatmaps"], {"image": batch})
        assert found.shape == (len(batch), 17, 16, 12)
        np.testing.assert_allclose(found, wanted[: len(batch)], atol=1e-4 * wanted.max())
    assert wanted.max() > 10 * np.median(wanted)  # maps far from uniform


def facts(session):
    return session.get_modelmeta().custom_metadata_map


def test_the_file_says_what_it_is(folder):
    found = facts(onnxruntime.InferenceSession(folder / "s.onnx"))
    assert found["input_size"] == "64x48"
    assert found["input"] == "uint8"
    assert found["heatmaps"].startswith("density")
    assert json.loads(found["joints"])[5] == "left_shoulder"
    assert json.loads(found["mean"]) == [0.485, 0.456, 0.406]
    assert {"project", "stride", "sigma", "temperature", "student", "head", "colour_order"} <= set(found)


def test_int8_is_smaller_and_close_and_says_so(folder, student):
    full, small = folder / "s.onnx", folder / "s.int8.onnx"
    assert small.stat().st_size < 0.5 * full.stat().st_size
    assert facts(onnxruntime.InferenceSession(small))["precision"] == "int8"
    crops = store_crops(cache.open_store(folder / "val.zarr"), student.input_size, 8)
    maps = [
        onnxruntime.InferenceSession(path).run(None, {"image": crops})[0].reshape(8 * 17, -1) for path in (full, small)
    ]
    likeness = np.mean([np.corrcoef(np.log(a), np.log(b))[0, 1] for a, b in zip(*maps, strict=True)])
    assert 0.9 < likeness < 1


def test_an_int8_file_that_costs_too_much_is_not_left(folder, student, tmp_path):
    (tmp_path / "s.onnx").write_bytes((folder / "s.onnx").read_bytes())
    flags = ["--store", str(folder / "val.zarr"), "--calibration-crops", "4", "--int8", "--max-drop", "-200"]
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    arguments = parser.parse_args(["--student", "best.pt", "--out", str(tmp_path / "s.onnx"), *flags])
    network = Deployable(student)
    with pytest.raises(TrainError, match="int8 costs"):
        command.export_int8(arguments, student, network, describe(student, normalised=False, precision="int8"))
    assert [p.name for p in tmp_path.iterdir()] == ["s.onnx"]


def test_an_exported_student_evaluates_like_its_checkpoint(folder, student):
    from kdlib.students.loading import OnnxStudent

    store = cache.open_store(folder / "val.zarr")
    loader = student_loader(store, student.input_size, 4, torch.device("cpu"))
    one = predict(student, loader)
    other = predict(OnnxStudent(folder / "s.onnx"), loader)
    np.testing.assert_allclose(one.points, other.points, atol=0.01)  # image pixels: DARK divides small differences
    np.testing.assert_allclose(one.scores, other.scores, rtol=1e-3)
    one, other = (
        predict(student, loader, decoder="argmax"),
        predict(OnnxStudent(folder / "s.onnx"), loader, decoder="argmax"),
    )
    np.testing.assert_allclose(one.points, other.points, atol=1e-6)
    assert main(["evaluate", "--store", str(folder / "val.zarr"), "--student", str(folder / "s.onnx")]) == 0


def test_pytorchs_own_archive_agrees_and_carries_its_metadata_for_another_backbone_too(tmp_path):
    pytest.importorskip("timm", reason="backbones of timm need the extra [timm]")
    checkpoint = make_checkpoint(tmp_path / "best.pt", student="timm:resnet18d", head="pyramid")
    out = tmp_path / "s.pt2"
    flags = ["--normalised", "--check", "6"]
    assert main(["export", "--student", str(checkpoint), "--out", str(out), *flags]) == 0
    extra = {"metadata.json": ""}
    program = torch.export.load(out, extra_files=extra)
    assert json.loads(extra["metadata.json"])["input"] == "normalised"
    assert json.loads(extra["metadata.json"])["student"] == "timm:resnet18d"
    student = load_checkpoint(checkpoint)
    network = Deployable(student, normalised=True)
    crops = network.inputs(torch.from_numpy(noise_crops(student.input_size, 3)))
    with torch.inference_mode():
        torch.testing.assert_close(program.module()(crops), network(crops))


def test_a_file_that_disagrees_is_not_left(folder, tmp_path, monkeypatch, capsys):
    def write(network, crops, facts, path):
        path.write_bytes(b"an exported file")

    def read(network, path):
        return lambda crops: network(torch.from_numpy(crops)).numpy() + 0.1 * (np.arange(12) == 3)

    monkeypatch.setitem(formats.FORMATS, ".pt2", (write, read))
    assert main(["export", "--student", str(folder / "best.pt"), "--out", str(tmp_path / "s.pt2")]) == 1
    assert "was not kept: it disagrees with PyTorch" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_agreement_counts_differences_and_moved_maxima(student):
    network, crops = Deployable(student), noise_crops(student.input_size, 7)

    def rolled(batch):
        with torch.inference_mode():
            return np.roll(network(torch.from_numpy(batch)).numpy(), 1, axis=-1)

    found = compare(network, rolled, crops)
    assert (found.crops, found.maps, found.moved) == (7, 7 * 17, 7 * 17)
    with pytest.raises(TrainError, match="disagrees"):
        check_agreement(found, "x.onnx")
    with pytest.raises(TrainError, match="but PyTorch \\(1, 17, 16, 12\\)"):
        compare(network, lambda batch: rolled(np.concatenate([batch, batch])), crops)
    nan = agreement.Agreement(1, float("nan"), 1.0, 0, 17)
    with pytest.raises(TrainError, match="disagrees"):
        check_agreement(nan, "x.onnx")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out", "s.tflite"], "--out must end in .onnx or .pt2"),
        (["--out", "s.pt2", "--int8"], "--int8 quantises an ONNX file"),
        (["--out", "s.onnx", "--student", "none.pt"], "no student at none.pt"),
    ],
)
def test_refusals_are_one_line(folder, flags, message, capsys):
    student = [] if "--student" in flags else ["--student", str(folder / "best.pt")]
    assert main(["export", *student, *flags]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("flag", ["--check", "--calibration-crops"])
def test_a_number_of_crops_must_be_positive(folder, flag, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["export", "--student", str(folder / "best.pt"), "--out", "s.pt2", flag, "0"])
    assert f"argument {flag}: a positive whole number is needed, got 0" in capsys.readouterr().err


def test_an_onnx_file_of_somebody_else_is_no_student(folder, tmp_path, capsys):
    import onnx

    model = onnx.load(folder / "s.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    for name, message in (
        ("other.onnx", "is not a student"),
        ("text.onnx", "cannot open"),
        ("gone.onnx", "no student at"),
    ):
        assert main(["evaluate", "--store", str(folder / "val.zarr"), "--student", str(tmp_path / name)]) == 1
        assert message in capsys.readouterr().err
