"""ONNX teachers whose file claims more than it does: batches fixed by the export, and maps that are not finite."""

import collections
import json
import re
import sys
from unittest import mock

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

import cache
from kdlib.images import normalise_images
from precompute.__main__ import main
from precompute.run.provenance import _optional
from precompute.teacher import onnx as teacher_onnx
from precompute.teacher.checkpoint import CheckpointError
from precompute.teacher.ensemble import ensemble
from precompute.teacher.loading import load_teacher
from precompute.teacher.onnx import MOST_FOR_TENSORRT, PROVIDERS
from tests.support import tiny_precompute
from tests.support.fake_cuda import FakeStream, fake_cuda

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


# --- GPUs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "options"),
    [(PLAIN, {}), (BAKED, {}), (BAKED, {"batch": 1}), (PLAIN, {"stored": np.float16})],
    ids=["plain", "crop by crop", "fixed batch", "float16"],
)
def test_heatmaps_are_the_same_with_bound_tensors(tmp_path, crops, nodes, options):
    network = load(write(tmp_path / "net.onnx", nodes, **options)).network
    with torch.inference_mode():
        bound = network.run(normalise_images(torch.from_numpy(crops)))
    assert bound.dtype == torch.float32
    np.testing.assert_allclose(bound.numpy(), network.run_on_host(crops), rtol=1e-5, atol=1e-5)


class RunOptions(dict):
    """Stands for onnxruntime's."""

    add_run_config_entry = dict.__setitem__


class Runtime:
    """Stands for onnxruntime: sessions of one network that start every provider but those in `broken`.

    What it does with a stream of torch: `takes` it, `refuses` it as an unknown option, `ignores` it, or `drops` all
    options and reports it on stdout, as onnxruntime does if it does not know one.
    """

    def __init__(self, *available, broken=(), output="tensor(float)", stream="takes"):
        self.available, self.broken, self.output = [PROVIDERS[name] for name in available], broken, output
        self.stream = stream
        self.opened, self.bound, self.calls, self.fails = [], [], [], None

    SessionOptions = mock.MagicMock
    RunOptions = RunOptions

    def get_available_providers(self):
        return self.available

    def InferenceSession(self, path, options, providers):  # noqa: N802 - onnxruntime's name
        self.opened.append(providers)
        given = dict((p, {}) if isinstance(p, str) else p for p in providers)
        if self.stream != "takes" and any("user_compute_stream" in options for options in given.values()):
            if self.stream == "refuses":
                raise RuntimeError("Unknown provider option: user_compute_stream")
            if self.stream == "drops":
                sys.stdout.write("*************** EP Error ***************\n")
            kept = ("device_id", "use_tf32") if self.stream == "ignores" else ()
            given = {name: {key: options.get(key) for key in kept} for name, options in given.items()}
        return Session(self, given)


class Session:
    def __init__(self, runtime, providers):
        self.runtime = runtime
        self.get_providers = lambda: [p for p in providers if p not in [PROVIDERS[b] for b in runtime.broken]]
        self.get_provider_options = lambda: providers
        value = collections.namedtuple("value", "name type shape")
        self.get_inputs = lambda: [value("crop", "tensor(float)", ["n", 3, SIZE[1], SIZE[0]])]
        self.get_modelmeta = lambda: mock.Mock(custom_metadata_map={})
        self.get_outputs = lambda: [value("maps", runtime.output, ["n", 17, MAPS[1], MAPS[0]])]

    def run(self, names, inputs):
        return [np.zeros((len(inputs["crop"]), 17, MAPS[1], MAPS[0]), np.float32)]

    def io_binding(self):
        runtime = self.runtime
        return mock.Mock(
            bind_input=lambda **how: runtime.bound.append(how),
            bind_output=lambda **how: runtime.bound.append(how),
            synchronize_outputs=lambda: runtime.calls.append(("synchronize_outputs",)),
        )

    def run_with_iobinding(self, binding, options):
        self.runtime.calls.append(("run", options))
        if self.runtime.fails:
            raise self.runtime.fails


@pytest.fixture
def open_with(tmp_path, monkeypatch):
    """Opens a teacher with a `Runtime` on a machine with two GPUs."""
    (tmp_path / "net.onnx").write_bytes(b"")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def open_with(runtime, device="auto", provider="auto"):
        monkeypatch.setattr(teacher_onnx, "_import_onnxruntime", lambda path: runtime)
        monkeypatch.setattr(torch.cuda, "Stream", lambda _: FakeStream(lambda *call: runtime.calls.append(call)))
        return load_teacher(f"onnx:{tmp_path / 'net.onnx'}", device=device, provider=provider)

    return open_with


@pytest.mark.parametrize(
    ("available", "device", "provider", "found"),
    [
        (["cuda", "cpu"], "auto", "auto", ("cuda", "cuda")),
        (["tensorrt", "cuda", "cpu"], "auto", "auto", ("cuda", "cuda")),  # building its engine takes minutes
        (["tensorrt", "cuda", "cpu"], "cuda:1", "tensorrt", ("cuda:1", "tensorrt")),
        (["tensorrt", "cuda", "cpu"], "auto", "tensorrt", ("cuda", "tensorrt")),
        (["cuda", "cpu"], "cuda:1", "cpu", ("cpu", "cpu")),
        (["cuda", "cpu"], "cpu", "auto", ("cpu", "cpu")),
        (["cpu"], "auto", "auto", ("cpu", "cpu")),
    ],
)
def test_device_and_provider_are_those_that_onnxruntime_has(open_with, available, device, provider, found):
    teacher = open_with(Runtime(*available), device, provider)
    assert (teacher.device, teacher.provider) == found
    assert _optional(teacher) == ({"provider": "tensorrt"} if provider == "tensorrt" else {})


@pytest.mark.parametrize(
    ("runtime", "device", "provider", "message"),
    [
        (
            Runtime("cpu"),
            "cuda",
            "auto",
            "this onnxruntime has no CUDA (CPUExecutionProvider); install",
        ),
        (Runtime("cpu"), "auto", "cuda", "this onnxruntime has no CUDA (CPUExecutionProvider)"),
        (Runtime("cuda", "cpu"), "auto", "tensorrt", "this onnxruntime has no TensorRT (CUDAExecutionProvider, CPU"),
        (Runtime("cuda", "cpu"), "cpu", "cuda", "--onnx-provider cuda needs a GPU"),
        (Runtime("cuda", "cpu", broken=["cuda"]), "auto", "auto", "onnxruntime cannot start CUDA here"),
        (
            Runtime("tensorrt", "cuda", "cpu", broken=["tensorrt"]),
            "auto",
            "tensorrt",
            "cannot start TensorRT here; check its version, or give --onnx-provider cuda",
        ),
        (Runtime("cuda", "cpu", output="tensor(int64)"), "auto", "auto", "computes tensor(int64); on a GPU it must be"),
    ],
)
def test_a_provider_that_is_not_there_is_refused(open_with, runtime, device, provider, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        open_with(runtime, device, provider)


def test_tensorrt_gets_one_engine_in_fp32_for_all_batches_and_cuda_for_the_rest(open_with, tmp_path):
    runtime = Runtime("tensorrt", "cuda", "cpu")
    open_with(runtime, "cuda:1", "tensorrt")
    (name, options), (rest, _) = runtime.opened[-1]
    assert (name, rest) == (PROVIDERS["tensorrt"], PROVIDERS["cuda"])
    assert options["trt_profile_min_shapes"] == f"crop:1x3x{SIZE[1]}x{SIZE[0]}"
    assert options["trt_profile_max_shapes"] == f"crop:{MOST_FOR_TENSORRT}x3x{SIZE[1]}x{SIZE[0]}"
    assert (options["device_id"], options["trt_fp16_enable"]) == (1, False)
    assert options["trt_engine_cache_path"] == str(tmp_path / "hub/tensorrt")
    assert (tmp_path / "hub/tensorrt").is_dir()


@pytest.mark.parametrize(("provider", "count", "pieces"), [("cuda", 300, 1), ("tensorrt", 300, 3)])
def test_a_batch_goes_up_once_and_is_bound_where_it_is(open_with, monkeypatch, provider, count, pieces):
    """With flip test: twice as many crops, in pieces of at most 256 for TensorRT."""
    runtime = Runtime("tensorrt", "cuda", "cpu")
    network = open_with(runtime, "cuda:0", provider).network
    batch = np.zeros((count, 1, SIZE[1], SIZE[0], 3), np.uint8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # fake tensors would look for the GPU
    with fake_cuda() as device:
        monkeypatch.setattr(torch.Tensor, "data_ptr", lambda tensor: 4096)
        network.launch(batch[:1], flip_test=True)  # the first one creates constants
        runtime.bound.clear()
        with device.recording():
            network.launch(batch, flip_test=True)
        assert (len(device.uploads), len(device.downloads), device.synchronisations) == (1, 1, [])
    assert len(runtime.bound) == 2 * pieces
    assert {(how["name"], how["device_type"], how["device_id"]) for how in runtime.bound} == {
        ("crop", "cuda", 0),
        ("maps", "cuda", 0),
    }
    assert sum(how["shape"][0] for how in runtime.bound if how["name"] == "maps") == 2 * count
    assert {how["shape"][1:] for how in runtime.bound} == {(3, SIZE[1], SIZE[0]), (17, MAPS[1], MAPS[0])}
    assert not network.can_capture


ASYNCHRONOUS = {"disable_synchronize_execution_providers": "1"}


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_onnxruntime_runs_on_the_stream_of_the_copies_and_nothing_waits(open_with, monkeypatch, provider):
    runtime = Runtime("tensorrt", "cuda", "cpu")
    network = open_with(runtime, "cuda:1", provider).network
    providers = ["tensorrt", "cuda"] if provider == "tensorrt" else ["cuda"]
    assert [name for name, _ in runtime.opened[-1]] == [PROVIDERS[name] for name in providers]
    for _, options in runtime.opened[-1]:
        assert options["user_compute_stream"] == str(network.stream.cuda_stream)
        assert options["device_id"] == 1
    batch = np.zeros((2, 1, SIZE[1], SIZE[0], 3), np.uint8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with fake_cuda() as device:
        monkeypatch.setattr(torch.Tensor, "data_ptr", lambda tensor: 4096)
        copies, record = [], device._record_copy
        monkeypatch.setattr(
            device, "_record_copy", lambda *rest, **how: copies.append(device.streams[-1]) or record(*rest, **how)
        )
        network.launch(batch, flip_test=True)  # the first one creates constants
        copies.clear()
        runtime.calls.clear()
        with device.recording():
            network.launch(batch, flip_test=True)
        own, default = network.stream, device.streams[-1]
        assert (device.synchronisations, copies) == ([], [own, own])  # there and back
        alike = ("wait_stream", own, own)  # has no effect
        assert runtime.calls == [alike, ("run", ASYNCHRONOUS), alike]
        runtime.calls.clear()
        waits = []
        monkeypatch.setattr(default, "_report", lambda *call: waits.append((len(runtime.calls), *call)))
        network.run(torch.zeros(2, 3, SIZE[1], SIZE[0], device="cuda:1"))
    assert runtime.calls == [("wait_stream", own, default), ("run", ASYNCHRONOUS)]
    assert waits == [(2, "wait_stream", default, own)]  # after the run


@pytest.mark.parametrize("stream", ["refuses", "ignores", "drops"])
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_an_onnxruntime_that_takes_no_stream_waits_before_and_after_its_run(
    open_with, monkeypatch, capfd, stream, provider
):
    runtime = Runtime("tensorrt", "cuda", "cpu", stream=stream)
    network = open_with(runtime, "cuda:0", provider).network
    assert network.stream is None
    for name, options in runtime.opened[-1]:
        assert "user_compute_stream" not in options
        assert name != PROVIDERS["cuda"] or options["use_tf32"] == 0
    assert capfd.readouterr() == ("", "")
    runtime.calls.clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with fake_cuda() as device:
        monkeypatch.setattr(torch.Tensor, "data_ptr", lambda tensor: 4096)
        network.launch(np.zeros((2, 1, SIZE[1], SIZE[0], 3), np.uint8), flip_test=True)
        runtime.calls.clear()
        monkeypatch.setattr(device.streams[-1], "_report", lambda *call: runtime.calls.append(call))
        network.launch(np.zeros((2, 1, SIZE[1], SIZE[0], 3), np.uint8), flip_test=True)
        assert runtime.calls == [("synchronize", device.streams[-1]), ("run", None), ("synchronize_outputs",)]


def test_the_real_onnxruntime_takes_the_options_of_an_asynchronous_run(tmp_path, crops):
    network = load(write(tmp_path / "net.onnx", PLAIN)).network
    expected = network.run_on_host(crops)
    network._run_options = teacher_onnx._asynchronous(onnxruntime)
    with torch.inference_mode():
        found = network.run(normalise_images(torch.from_numpy(crops)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)
    key = "disable_synchronize_execution_providers"
    assert network._run_options.get_run_config_entry(key) == "1"


def test_memory_that_onnxruntime_does_not_get_is_out_of_memory(open_with):
    runtime = Runtime("cuda", "cpu")
    network = open_with(runtime, "cpu").network
    runtime.fails = Exception("Non-zero status code: Failed to allocate memory for requested buffer of size 9\nmore")
    with pytest.raises(torch.OutOfMemoryError, match=r"requested buffer of size 9$"):
        network.run(torch.zeros(1, 3, SIZE[1], SIZE[0]))
    runtime.fails = Exception("something else")
    with pytest.raises(Exception, match="something else") as raised:
        network.run(torch.zeros(1, 3, SIZE[1], SIZE[0]))
    assert not isinstance(raised.value, torch.OutOfMemoryError)


# --- runs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path):
    """Six images, of which the first, of annotation 700, is black."""
    data = tiny_precompute.write(tmp_path / "data")
    black = np.zeros_like(cv2.imread(str(data / "images/000.jpg")))
    cv2.imwrite(str(data / "images/000.jpg"), black)
    return data


def run(data, teacher, store, *flags):
    """Run a random network, whose values are not those of heatmaps."""
    command = ["--data", str(data), "--teacher", f"onnx:{teacher}", "--activation", "none", "--store", str(store)]
    return main([*command, *flags])


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


def test_a_provider_for_no_onnx_teacher_is_refused(data, tmp_path, capsys):
    command = tiny_precompute.command(data, tmp_path / "s.zarr", "--onnx-provider", "cuda")
    assert main(command) == 1
    assert "--onnx-provider cuda is for ONNX teachers, and hrnet_w16_sample is none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "ranks", "warned"),
    [
        ([], {}, True),
        ([], {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}, True),
        ([], {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, False),
        (["--device", "cpu"], {}, False),
        (["--onnx-provider", "cpu"], {}, False),
    ],
    ids=["alone", "rank 0", "rank 1", "on the CPU", "with the CPU"],
)
def test_a_gpu_that_onnxruntime_cannot_use_is_one_warning(data, tmp_path, monkeypatch, capsys, flags, ranks, warned):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    assert run(data, write(tmp_path / "net.onnx", PLAIN), tmp_path / "s.zarr", "--limit", "2", *flags) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ONNX teachers")]
    assert len(warnings) == warned
    assert all("extra teacher-gpu" in line and "pip uninstall onnxruntime" in line for line in warnings)
    assert cache.open_store(tmp_path / "s.zarr").manifest["provenance"]["software"]["device"].startswith("CPU")
