"""ONNX teachers whose file claims more than it does: batches fixed by the export, and maps that are not finite."""

import json

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

import cache
from kdlib.images import normalise_images
from precompute.__main__ import main
from precompute.teacher.checkpoint import CheckpointError
from precompute.teacher.ensemble import ensemble
from precompute.teacher.loading import load_teacher
from tests.support import tiny_precompute

SIZE, MAPS = (96, 64), (24, 16)  # width, height
KERNEL = np.random.default_rng(1).standard_normal((17, 3, 4, 4)).astype(np.float32)


def constant(name, values, dtype=np.int64):
    return numpy_helper.from_array(np.array(values, dtype), name)


def node(kind, inputs, output, **attributes):
    return helper.make_node(kind, inputs, [output], **attributes)


BAKED = [node("Reshape", ["conv", "one"], "maps")]
FOLDED = [node("Reshape", ["conv", "merged"], "maps")]
SHUFFLED = [node("Reshape", ["conv", "joints first"], "r"), node("Transpose", ["r"], "maps", perm=[1, 0, 2, 3])]
CENTRED = [node("ReduceMean", ["conv"], "mean", axes=[0, 2, 3]), node("Sub", ["conv", "mean"], "maps")]
TWICE = [node("Concat", ["conv", "conv"], "maps", axis=0)]
CONTRAST = [  # divides by the contrast of the crop, which is 0 for a black one
    node("ReduceMax", ["crop"], "max", axes=[2, 3]),
    node("ReduceMin", ["crop"], "min", axes=[2, 3]),
    node("Sub", ["max", "min"], "of channels"),
    node("ReduceMax", ["of channels"], "contrast", axes=[1]),
    node("Div", ["conv", "contrast"], "maps"),
]
PLAIN = [node("Identity", ["conv"], "maps")]


def write(path, nodes, batch="batch", stored=np.float32):
    """Write a convolution followed by `nodes`; crops have the size `SIZE`."""
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(stored))
    inputs = [helper.make_tensor_value_info("crop", dtype, (batch, 3, SIZE[1], SIZE[0]))]
    outputs = [helper.make_tensor_value_info("maps", dtype, [None] * 4)]
    sizes = {"one": [1, 17, 16, 24], "merged": [1, -1, 16, 24], "joints first": [17, -1, 16, 24]}
    constants = [constant(name, size) for name, size in sizes.items()] + [constant("kernel", KERNEL, stored)]
    conv = node("Conv", ["crop", "kernel"], "conv", strides=(4, 4))
    graph = helper.make_graph([conv, *nodes], "tiny", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def load(path):
    return load_teacher(f"onnx:{path}", device="cpu")


@pytest.fixture(scope="module")
def crops():
    return np.random.default_rng(0).integers(0, 256, (5, SIZE[1], SIZE[0], 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        (BAKED, "two crops together fail"),
        (FOLDED, "two crops together give heatmaps of another shape"),
        (SHUFFLED, "the heatmaps of a crop depend on the other crops of its batch"),
        (CENTRED, "the heatmaps of a crop depend on the other crops of its batch"),
        (PLAIN, ""),
        (CONTRAST, ""),
    ],
    ids=["baked", "folded", "shuffled", "centred", "plain", "contrast"],
)
@pytest.mark.parametrize("threads", [1, 3])
def test_every_crop_has_the_heatmaps_that_it_has_alone(tmp_path, crops, monkeypatch, capfd, nodes, reason, threads):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    teacher = load(write(tmp_path / "net.onnx", nodes))
    assert teacher.crop_by_crop == reason
    expected = torch.nn.functional.conv2d(normalise_images(torch.from_numpy(crops)), torch.from_numpy(KERNEL), stride=4)
    expected = expected.numpy()
    if nodes is CENTRED:
        expected = expected - expected.mean(axis=(2, 3), keepdims=True)
    if nodes is CONTRAST:
        values = normalise_images(torch.from_numpy(crops)).numpy()
        contrast = np.ptp(values, axis=(2, 3)).max(axis=1)
        expected = expected / contrast[:, None, None, None]
    np.testing.assert_allclose(teacher(crops), expected, rtol=1e-3, atol=1e-3)
    assert (teacher.heatmap_size, teacher.joints) == (MAPS, 17)
    assert capfd.readouterr().err == ""  # onnxruntime prints nothing about the attempt


def test_a_fixed_batch_of_one_and_half_precision_are_no_problem(tmp_path, crops):
    assert load(write(tmp_path / "one.onnx", BAKED, batch=1)).crop_by_crop == ""
    half = load(write(tmp_path / "half.onnx", PLAIN, stored=np.float16))
    assert (half.crop_by_crop, half.precision) == ("", "fp16")
    assert half(crops).shape == (5, 17, 16, 24)


def test_a_network_that_computes_several_sets_of_one_crop_is_no_teacher(tmp_path):
    with pytest.raises(CheckpointError, match="computes 2 sets of heatmaps of one crop"):
        load(write(tmp_path / "net.onnx", TWICE))


def test_an_ensemble_says_it_of_its_member_only(tmp_path):
    both = ensemble([load(write(tmp_path / "a.onnx", BAKED)), load(write(tmp_path / "b.onnx", PLAIN))])
    assert [member.crop_by_crop != "" for member in both.members] == [True, False]
    assert both.crop_by_crop == ""


# --- runs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path):
    """Six images, of which the first, of annotation 700, is black."""
    data = tiny_precompute.write(tmp_path / "data")
    black = np.zeros_like(cv2.imread(str(data / "images/000.jpg")))
    cv2.imwrite(str(data / "images/000.jpg"), black)
    return data


def run(data, teacher, store, *flags):
    return main(["--data", str(data), "--teacher", f"onnx:{teacher}", "--store", str(store), *flags])


@pytest.mark.parametrize("codec", ["root4", "float16"])
def test_a_map_that_is_not_finite_names_annotation_file_and_teacher(data, tmp_path, capsys, codec):
    teacher, store = write(tmp_path / "net.onnx", CONTRAST), tmp_path / "s.zarr"
    assert run(data, teacher, store, "--codec", codec) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: annotation 700: 000.jpg: the heatmaps of onnx:net.onnx cannot be stored: the map of")
    assert "leave out such instances with --skip-missing" in line
    assert not store.exists()
    assert run(data, teacher, store, "--codec", codec, "--resume", "--skip-missing") == 0
    printed = capsys.readouterr()
    assert "10 instances, 1 skipped" in printed.out
    assert "skipped annotation 700: 000.jpg: the heatmaps of onnx:net.onnx" in printed.err
    opened = cache.open_store(store)
    assert opened.instances["annotation_id"][~opened.written.astype(bool)].tolist() == [700]


def test_a_teacher_that_gives_nothing_else_ends_in_its_first_reason(data, tmp_path, capsys):
    for image in (data / "images").iterdir():
        cv2.imwrite(str(image), np.zeros_like(cv2.imread(str(image))))
    assert run(data, write(tmp_path / "net.onnx", CONTRAST), tmp_path / "s.zarr", "--skip-missing") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: none of the 11 instances could be used, e.g. annotation ")
    assert "onnx:net.onnx cannot be stored" in error


def test_a_check_names_a_map_that_is_not_finite(data, tmp_path, capsys):
    teacher, store = write(tmp_path / "net.onnx", CONTRAST), tmp_path / "s.zarr"
    assert run(data, teacher, store, "--skip-missing") == 0
    for image in (data / "images").iterdir():
        cv2.imwrite(str(image), np.zeros_like(cv2.imread(str(image))))
    capsys.readouterr()
    assert run(data, teacher, store, "--skip-missing", "--check", "3") == 1
    assert "the heatmaps of onnx:net.onnx hold NaN or infinity" in capsys.readouterr().err


def test_a_run_crop_by_crop_says_so_on_the_terminal_and_in_the_manifest(data, tmp_path, capsys):
    assert run(data, write(tmp_path / "net.onnx", BAKED), tmp_path / "s.zarr") == 0
    assert "warning: onnx:net.onnx runs crop by crop, which is slower: two crops" in capsys.readouterr().err
    assert run(data, write(tmp_path / "plain.onnx", PLAIN), tmp_path / "p.zarr") == 0
    assert "crop by crop" not in capsys.readouterr().err
    baked, plain = (cache.open_store(tmp_path / name) for name in ("s.zarr", "p.zarr"))
    assert baked.manifest["provenance"]["teacher"]["crop_by_crop"] == "two crops together fail"
    assert "crop_by_crop" not in json.dumps(plain.manifest["provenance"])
    np.testing.assert_allclose(baked.heatmaps(range(11)), plain.heatmaps(range(11)), atol=1e-4)
