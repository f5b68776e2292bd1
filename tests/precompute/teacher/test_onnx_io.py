"""ONNX teachers with other inputs and outputs: normalisation, BGR, NHWC, uint8; logits; SimCC's two vectors."""

import json
import re

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

import cache
from kdlib.heatmaps import decode_argmax, decode_dark
from kdlib.skeletons import Skeleton
from precompute.__main__ import main
from precompute.run.flags import parse_spreads, parse_statistics
from precompute.teacher.checkpoint import CheckpointError
from precompute.teacher.loading import load_teacher
from precompute.teacher.onnx_io import Maps, OnnxFlags, Simcc, order_simcc
from tests.support import tiny_precompute
from tests.support.shared_data import ONNX_TEACHER, SHARED

WIDTH, HEIGHT, JOINTS, BINS = 48, 64, 17, 2
SIZE = (WIDTH, HEIGHT)
LARGE = (96, 128)
KERNEL = np.random.default_rng(1).standard_normal((JOINTS, 3, 4, 4)).astype(np.float32)
FLOAT, UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8


def node(kind, inputs, output, **attributes):
    return helper.make_node(kind, inputs, [output], **attributes)


def save(path, nodes, outputs, *, dtype=FLOAT, shape=("batch", 3, HEIGHT, WIDTH), **constants):
    """Write a graph from the input `crop` to `outputs`, a mapping from names to ranks."""
    inputs = [helper.make_tensor_value_info("crop", dtype, shape)]
    values = [helper.make_tensor_value_info(name, FLOAT, [None] * rank) for name, rank in outputs.items()]
    arrays = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, values, arrays)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def load(path, **flags):
    options = {"input_size": flags.pop("input_size", None), "device": "cpu"}
    return load_teacher(f"onnx:{path}", onnx=OnnxFlags(**flags), **options)


def bound(teacher, crops):
    """The heatmaps on the path of GPUs, where input and outputs are bound; here on the CPU."""
    with torch.inference_mode():
        return teacher.network.run(teacher.network.images(torch.from_numpy(crops))).numpy()


@pytest.fixture(scope="module")
def crops():
    return np.random.default_rng(0).integers(0, 256, (3, HEIGHT, WIDTH, 3), dtype=np.uint8)


# --- pixels ---------------------------------------------------------------------------------------------------------

CONV = node("Conv", ["nchw", "kernel"], "conv", strides=(4, 4))
PLAIN = [node("Identity", ["crop"], "nchw"), CONV, node("Identity", ["conv"], "maps")]
LAST = [node("Transpose", ["crop"], "nchw", perm=[0, 3, 1, 2]), CONV]
BOTH_LAST = [*LAST, node("Transpose", ["conv"], "maps", perm=[0, 2, 3, 1])]
RAW = [node("Cast", ["crop"], "floats", to=FLOAT), node("Transpose", ["floats"], "nchw", perm=[0, 3, 1, 2]), CONV]
MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)


@pytest.mark.parametrize(
    ("nodes", "shape", "dtype", "flags", "expected"),
    [
        (PLAIN, None, FLOAT, {"mean": MEAN, "std": STD}, (MEAN, STD, 1)),
        (PLAIN, None, FLOAT, {"mean": MEAN, "std": STD, "bgr": True}, (MEAN, STD, -1)),
        (LAST, ("batch", HEIGHT, WIDTH, 3), FLOAT, {"mean": (0, 0, 0), "std": (1, 1, 1)}, ((0, 0, 0), (1, 1, 1), 1)),
        (BOTH_LAST, (1, "h", "w", 3), FLOAT, {"std": STD, "input_size": SIZE}, ((0.485, 0.456, 0.406), STD, 1)),
        (RAW, ("batch", HEIGHT, WIDTH, 3), UINT8, {"bgr": True}, ((0, 0, 0), (1 / 255,) * 3, -1)),
    ],
    ids=["statistics", "bgr", "channels last", "maps last, fixed batch", "uint8"],
)
def test_pixels_are_those_that_the_network_takes(tmp_path, crops, nodes, shape, dtype, flags, expected):
    """On both paths; the reference is numpy, and the channels of mean and std are those of the network."""
    nodes = nodes if nodes[-1].output[0] == "maps" else [*nodes, node("Identity", ["conv"], "maps")]
    shape = shape or ("batch", 3, HEIGHT, WIDTH)
    teacher = load(save(tmp_path / "n.onnx", nodes, {"maps": 4}, dtype=dtype, shape=shape, kernel=KERNEL), **flags)
    mean, std, order = expected
    pixels = (crops[..., ::order] / 255 - np.array(mean)) / np.array(std)
    patches = pixels.reshape(len(crops), HEIGHT // 4, 4, WIDTH // 4, 4, 3)
    heatmaps = np.einsum("bhiwjc,kcij->bkhw", patches, KERNEL)
    for maps in (teacher(crops), bound(teacher, crops)):
        np.testing.assert_allclose(maps, heatmaps, atol=2e-5 * np.abs(heatmaps).max())
    assert teacher.heatmap_size == (WIDTH // 4, HEIGHT // 4)
    np.testing.assert_allclose(teacher.normalisation, (mean, std))
    assert teacher.colour_order == ("rgb" if order == 1 else "bgr")


def test_uint8_takes_no_statistics(tmp_path):
    nodes = [*RAW, node("Identity", ["conv"], "maps")]
    path = save(tmp_path / "n.onnx", nodes, {"maps": 4}, dtype=UINT8, shape=(1, HEIGHT, WIDTH, 3), kernel=KERNEL)
    with pytest.raises(ValueError, match=r"takes uint8 pixels and normalises them; leave out --mean and --std"):
        load(path, mean=MEAN)


@pytest.mark.parametrize("text", ["0.485,0.456", "a,b,c", "1/0,1,1", "123.675,116.28,103.53", ""])
def test_statistics_are_three_numbers_of_pixels_in_0_to_1(text):
    with pytest.raises(Exception, match=r"three numbers of pixels scaled to 0\.\.1 are needed, e\.g\. 0\.485"):
        parse_statistics(text)
    assert parse_statistics("123.675/255, 0.5,0") == (123.675 / 255, 0.5, 0.0)
    with pytest.raises(Exception, match="standard deviations above 0"):
        parse_spreads("1,0,1")


# --- logits ---------------------------------------------------------------------------------------------------------


def write_logits(path):
    """A network of 3x96x128 crops whose maps are 12 brightness - 9: logits, about -9 to 3."""
    kernel = np.full((JOINTS, 3, 8, 8), 1 / 192, np.float32)
    nodes = [
        node("Conv", ["crop", "kernel"], "brightness", strides=(8, 8)),
        node("Mul", ["brightness", "slope"], "scaled"),
        node("Add", ["scaled", "offset"], "maps"),
    ]
    scalars = {"slope": np.float32(12), "offset": np.float32(-9)}
    return save(path, nodes, {"maps": 4}, shape=("batch", 3, 128, 96), kernel=kernel, **scalars)


def test_logits_are_refused_with_the_flag_that_turns_them_into_heatmaps(tmp_path, capsys):
    data, net = tiny_precompute.write(tmp_path / "data"), write_logits(tmp_path / "logits.onnx")
    command = ["--data", str(data), "--teacher", f"onnx:{net}", "--mean", "0,0,0", "--std", "1,1,1", "--no-flip-test"]
    command += ["--codec", "float32", "--batch-size", "4", "--store"]
    assert main([*command, str(tmp_path / "s.zarr")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"the median map has -[\d.]+ to [-\d.]+\. For logits.*give --activation sigmoid; to store", line)
    assert not list(tmp_path.glob("s.zarr*"))
    stores = {}
    for activation in ("sigmoid", "none"):
        path = str(tmp_path / f"{activation}.zarr")
        assert main([*command, path, "--activation", activation]) == 0
        stores[activation] = cache.open_store(path)
    teachers = {name: store.manifest["provenance"]["teacher"] for name, store in stores.items()}
    assert teachers["sigmoid"]["activation"] == "sigmoid"
    assert "activation" not in teachers["none"]
    assert teachers["none"]["normalisation"] == {"mean": [0, 0, 0], "std": [1, 1, 1]}
    maps = {name: store.heatmaps(range(len(store))) for name, store in stores.items()}
    above = maps["none"] > 0  # the codec keeps no value below its floor
    assert above.any()
    np.testing.assert_allclose(maps["sigmoid"][above], 1 / (1 + np.exp(-maps["none"][above])), rtol=1e-5)


@pytest.mark.parametrize(
    ("low", "high", "refused"), [(-0.3, 1.4, False), (-7, 3, True), (0, 90, True), (-0.3, 0.0, False), (-12, -4, True)]
)
def test_values_far_outside_those_of_heatmaps_are_not_heatmaps(low, high, refused):
    output = Maps((1, 5, 16, 12), SIZE, "", "net.onnx")
    values = np.random.default_rng(0).uniform(low, high, (4, 5, 16, 12)).astype(np.float32)
    values[0, 0, 0] = np.nan
    if refused:
        with pytest.raises(CheckpointError, match=r"the values of net\.onnx are not those of heatmaps"):
            output.check([torch.from_numpy(values)], "net.onnx")
    else:
        output.check([torch.from_numpy(values)], "net.onnx")
    Maps((1, 5, 16, 12), SIZE, "none", "net.onnx").check([torch.from_numpy(values)], "net.onnx")


@pytest.mark.parametrize(
    ("flag", "value"), [("--mean", "0,0,0"), ("--std", "1,1,1"), ("--bgr", None), ("--activation", "sigmoid")]
)
def test_flags_of_onnx_files_are_refused_for_other_teachers(tmp_path, capsys, flag, value):
    data = tiny_precompute.write(tmp_path / "data")
    command = tiny_precompute.command(data, tmp_path / "s.zarr", flag, *([value] if value else []))
    assert main(command) == 1
    assert f"error: {flag} is for ONNX teachers, and hrnet_w16_sample is none" in capsys.readouterr().err


BASE = SHARED / "cases/base.json"


@pytest.mark.skipif(not (BASE.exists() and ONNX_TEACHER.exists()), reason="real photographs are missing")
def test_a_real_network_of_logits_is_refused_and_mended(tmp_path, capsys):
    """The network has no sigmoid; log(p / (1 - p)) of its heatmaps is what one would turn into them."""
    model = onnx.load(str(ONNX_TEACHER))
    graph = model.graph
    maps, graph.output[0].name = graph.output[0].name, "logits"
    for name, value in (("low", 1e-4), ("high", 1 - 1e-4), ("one", 1)):
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    graph.node.extend([node("Max", [maps, "low"], "above"), node("Min", ["above", "high"], "p")])
    graph.node.extend([node("Sub", ["one", "p"], "rest"), node("Div", ["p", "rest"], "odds")])
    graph.node.append(node("Log", ["odds"], "logits"))
    onnx.save(model, tmp_path / "logits.onnx")
    command = ["--images", str(BASE.parent / "images"), "--annotations", str(BASE), "--no-flip-test", "--no-frames"]
    command += ["--teacher", f"onnx:{tmp_path / 'logits.onnx'}", "--store", str(tmp_path / "s.zarr")]
    assert main(command) == 1
    assert "give --activation sigmoid" in capsys.readouterr().err
    assert main([*command, "--activation", "sigmoid"]) == 0
    assert "ap 56.6, pck@0.05 75.9" in capsys.readouterr().out


# --- SimCC ----------------------------------------------------------------------------------------------------------

CHANNELS = Skeleton("channels", ("red", "green", "blue"))
"""The joints of the network of `write_simcc`, each at the brightest column and row of a channel."""


def gaussians(centres, bins, height, sigma=5.0):
    """Vectors (..., bins): Gaussians around centres in input pixels."""
    places = np.arange(bins * BINS) / BINS
    return (height[..., None] * np.exp(-((places - centres[..., None]) ** 2) * BINS**2 / 2 / sigma**2)).astype(
        np.float32
    )


def own_decoding(x, y):
    """As ``get_simcc_maximum`` of mmpose, in input pixels: the place of each maximum, and the smaller maximum."""
    points = np.stack([x.argmax(-1), y.argmax(-1)], -1) / BINS
    return points, np.minimum(x.max(-1), y.max(-1))


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    x, y = (rng.uniform(16, side - 20, (40, JOINTS)) for side in LARGE)
    height = rng.uniform(0.2, 1, (40, JOINTS))
    return gaussians(x, LARGE[0], height), gaussians(y, LARGE[1], 0.9 * height), np.stack([x, y], -1)


def simcc(activation="", size=SIZE, joints=JOINTS):
    width, height = size
    return Simcc([(1, joints, width * BINS), (1, joints, height * BINS)], size, activation, "net.onnx")


def test_heatmaps_of_simcc_decode_to_its_own_positions(vectors):
    """DARK: within 0.4 input pixels of SimCC's own decoding, which rounds to half pixels. Argmax: within 1.5."""
    x, y, exact = vectors
    maps = simcc(size=LARGE).heatmaps([torch.from_numpy(x), torch.from_numpy(y)]).numpy()
    assert maps.shape == (40, JOINTS, 32, 24)
    own, scores = own_decoding(x, y)
    for decode, most in ((decode_dark, 0.4), (decode_argmax, 1.5)):
        points, found = decode(maps)
        assert np.linalg.norm(points * 4 - own, axis=-1).max() < most
        np.testing.assert_allclose(found, scores, rtol=1e-6)
    # SimCC's own error is 0.19 px on average. The heatmaps keep what lies between its bins.
    assert np.linalg.norm(decode_dark(maps)[0] * 4 - exact, axis=-1).mean() < 0.1


def test_a_heatmap_is_the_outer_product_and_keeps_the_mean_position():
    rng = np.random.default_rng(0)
    x, y = rng.random((1, 2, WIDTH * BINS), np.float32), rng.random((1, 2, HEIGHT * BINS), np.float32)
    x[..., -7:], y[..., -7:] = 0, 0  # the last column of the heatmap lies 8 bins before the end of the crop
    maps = simcc(joints=2).heatmaps([torch.from_numpy(x), torch.from_numpy(y)]).numpy().astype(float)[0]
    for vectors, profile in ((x[0], maps.sum(-2)), (y[0], maps.sum(-1))):
        bins = (vectors * np.arange(vectors.shape[-1])).sum(-1) / vectors.sum(-1) / BINS
        pixels = (profile * np.arange(profile.shape[-1])).sum(-1) / profile.sum(-1)
        np.testing.assert_allclose(pixels * 4, bins, atol=1e-3)
    product = maps.sum(-1)[:, :, None] * maps.sum(-2)[:, None, :] / maps.sum((-1, -2))[:, None, None]
    np.testing.assert_allclose(maps, product, rtol=1e-4)


def test_a_joint_without_a_positive_score_has_a_heatmap_of_zeros():
    x, y = np.full((1, 1, WIDTH * BINS), -0.5, np.float32), np.ones((1, 1, HEIGHT * BINS), np.float32)
    assert not simcc(joints=1).heatmaps([torch.from_numpy(x), torch.from_numpy(y)]).any()


def write_simcc(path, *, names=("simcc_x", "simcc_y"), sizes=(WIDTH * BINS, HEIGHT * BINS), size=SIZE, batch="batch"):
    """A network whose vectors are the crop's mean of red over rows, and over columns, with two bins per pixel."""
    width, height = size
    nodes = []
    for name, axis in zip(names, (2, 3), strict=True):
        nodes += [
            node("ReduceMean", ["crop"], f"{name} profile", axes=[axis], keepdims=0),  # (B, 3, W) or (B, 3, H)
            node("MatMul", [f"{name} profile", f"{name}_shares"], name),
        ]
    shares = {
        f"{name}_shares": np.repeat(np.eye(side, dtype=np.float32), bins // side, axis=1)
        for name, side, bins in zip(names, (width, height), sizes, strict=True)
    }
    return save(path, nodes, dict.fromkeys(names, 3), shape=(batch, 3, height, width), **shares)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("batch", ["batch", 1])
def test_a_simcc_network_is_a_teacher_on_both_paths(tmp_path, crops, reverse, batch):
    path = write_simcc(tmp_path / "n.onnx", batch=batch)
    if reverse:  # which output is over columns is seen from their sizes
        model = onnx.load(str(path))
        outputs = list(model.graph.output)[::-1]
        del model.graph.output[:]
        model.graph.output.extend(outputs)
        onnx.save(model, path)
    flags = OnnxFlags(mean=(0, 0, 0), std=(1, 1, 1))
    teacher = load_teacher(f"onnx:{path}", device="cpu", onnx=flags, skeleton=CHANNELS)
    pixels = torch.from_numpy(crops).permute(0, 3, 1, 2) / 255
    x, y = (pixels.mean(axis).repeat_interleave(BINS, -1) for axis in (2, 3))
    expected = simcc(joints=3).heatmaps([x, y]).numpy()
    for maps in (teacher(crops), bound(teacher, crops)):
        np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-6)
    assert (teacher.joints, teacher.heatmap_size, teacher.crop_by_crop) == (3, (WIDTH // 4, HEIGHT // 4), "")
    assert teacher.output["simcc"]["bins"] == [WIDTH * BINS, HEIGHT * BINS]


def test_a_run_writes_how_simcc_became_heatmaps(tmp_path):
    data = tiny_precompute.write(tmp_path / "data")
    document = json.loads((data / "annotations/person_keypoints_train.json").read_text())
    document["categories"][0]["keypoints"] = ["red", "green", "blue"]
    for annotation in document["annotations"]:
        annotation |= {"keypoints": annotation["keypoints"][:9], "num_keypoints": 3}
    (data / "annotations/person_keypoints_train.json").write_text(json.dumps(document))
    net = write_simcc(tmp_path / "n.onnx")
    command = ["--data", str(data), "--teacher", f"onnx:{net}", "--mean", "0,0,0", "--std", "1,1,1"]
    assert main([*command, "--store", str(tmp_path / "s.zarr")]) == 0
    store = cache.open_store(tmp_path / "s.zarr")
    assert store.manifest["provenance"]["teacher"]["simcc"]["bins"] == [WIDTH * BINS, HEIGHT * BINS]
    assert store.heatmaps([0]).shape == (1, 1, 3, HEIGHT // 4, WIDTH // 4)


def test_simcc_of_logits_is_refused_and_a_softmax_makes_distributions(vectors):
    logits = [torch.from_numpy(20 * values - 8) for values in vectors[:2]]
    with pytest.raises(CheckpointError, match=r"the median is [\d.]+\. For logits.*give --activation softmax"):
        simcc().check(logits, "net.onnx")
    maps = simcc("softmax", LARGE).heatmaps(logits).numpy()
    own, _ = own_decoding(*(values.numpy() for values in logits))
    assert np.linalg.norm(decode_dark(maps)[0] * 4 - own, axis=-1).max() < 2
    np.testing.assert_allclose(maps.max((-1, -2)), torch.minimum(*(v.softmax(-1).amax(-1) for v in logits)), rtol=1e-5)
    simcc("none").check(logits, "net.onnx")
    with pytest.raises(ValueError, match=r"--activation softmax is for the outputs of SimCC networks"):
        Maps((1, 5, 16, 12), SIZE, "softmax", "net.onnx")


def test_outputs_of_square_crops_are_told_apart_by_name():
    assert order_simcc(["simcc_x", "simcc_y"], [128, 128], (64, 64)) == [0, 1]
    assert order_simcc(["simcc_y", "simcc_x"], [128, 128], (64, 64)) == [1, 0]
    assert order_simcc(["a", "b"], [128, 96], (48, 64)) == [1, 0]


def test_two_outputs_that_are_not_simcc_are_refused(tmp_path):
    path = write_simcc(tmp_path / "n.onnx", sizes=(WIDTH * 2, HEIGHT * 3))
    with pytest.raises(
        CheckpointError, match=r"a SimCC network computes \(1, K, width \* s\) and \(1, K, height \* s\)"
    ):
        load_teacher(f"onnx:{path}", device="cpu", skeleton=CHANNELS)
