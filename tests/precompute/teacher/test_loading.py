"""A teacher maps uint8 crops to raw float32 heatmaps, for every kind of network."""

import sys

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from kdcli.files import file_sha256
from kdlib.geometry import box_to_region, clip_boxes, invert_affine, region_affine, scale_affine, transform_points
from kdlib.heatmaps import decode_argmax, flip_average
from kdlib.images import normalise_images
from kdlib.inputs.annotations import read_keypoint_annotations
from kdlib.machine.device import choose_device, choose_precision
from kdlib.metrics.keypoints import pck
from kdlib.resample.exact import crop_image
from kdlib.skeletons.skeleton import COCO
from precompute.teacher.checkpoint import CheckpointError
from precompute.teacher.hrnet import build_hrnet, fold_batch_norm
from precompute.teacher.loading import load_teacher, mirror
from tests.support.shared_data import COCO_REAL, ONNX_TEACHER, needs_coco

SMALL = "hrnet_w16_sample"
SIZE = (96, 64)  # width, height: wider than high, unlike any default


@pytest.fixture(scope="module")
def crops():
    return np.random.default_rng(0).integers(0, 256, (3, SIZE[1], SIZE[0], 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model():
    """The sample's network with weights that keep the signal's scale, and batch norms that are not identities."""
    torch.manual_seed(0)
    model = build_hrnet(SMALL)
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 4:
            torch.nn.init.kaiming_normal_(tensor, nonlinearity="relu")
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
        elif tensor.is_floating_point():
            tensor.uniform_(0.2, 0.8)
    return model.eval()


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save(model.state_dict(), path)
    return path


def open_small(checkpoint, precision="fp32"):
    return load_teacher(SMALL, checkpoint, input_size=SIZE, device="cpu", precision=precision)


def spread(values):
    return np.sqrt(np.square(values).mean())


# --- HRNet -------------------------------------------------------------------------------------------------------


def test_a_teacher_has_what_a_manifest_needs(checkpoint):
    teacher = open_small(checkpoint)
    assert (teacher.name, teacher.input_size, teacher.heatmap_size, teacher.joints) == (SMALL, SIZE, (24, 16), 17)
    assert teacher.weights_sha256 == file_sha256(checkpoint)
    assert teacher.normalisation == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (teacher.colour_order, teacher.precision, teacher.device) == ("rgb", "fp32", "cpu")


def test_maps_are_those_of_the_plain_network(checkpoint, model, crops):
    """Folding, channels-last and bytes as input change only the speed."""
    pixels = torch.from_numpy(crops).permute(0, 3, 1, 2).double() / 255
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1).double()
    with torch.no_grad():
        expected = model(((pixels - mean) / std).float()).numpy()
    maps = open_small(checkpoint)(crops)
    assert maps.dtype == np.float32
    assert maps.shape == (3, 17, 16, 24)
    assert maps.flags.c_contiguous
    assert np.abs(maps - expected).max() < 1e-5 * np.abs(expected).max()


def test_heatmaps_do_not_depend_on_the_rest_of_the_batch(checkpoint, crops):
    teacher = open_small(checkpoint)
    alone = np.concatenate([teacher(crop[None]) for crop in crops])
    np.testing.assert_allclose(teacher(crops), alone, rtol=1e-4, atol=1e-5 * np.abs(alone).max())


def test_bf16_is_close_and_not_rounded_at_the_end(checkpoint, crops):
    exact, rounded = open_small(checkpoint)(crops), open_small(checkpoint, "bf16")(crops)
    assert spread(rounded - exact) < 0.03 * spread(exact)
    as_bf16 = torch.from_numpy(rounded).bfloat16().float().numpy()
    assert (as_bf16 != rounded).mean() > 0.9


def test_crops_are_read_and_left_alone(checkpoint, crops):
    """Read-only arrays, mirrored array views and tensors are accepted."""
    teacher = open_small(checkpoint)
    locked = crops.copy()
    locked.flags.writeable = False
    expected = teacher(crops)
    np.testing.assert_array_equal(teacher(locked), expected)
    np.testing.assert_array_equal(teacher(torch.from_numpy(crops)), expected)
    np.testing.assert_array_equal(teacher(crops[:, :, ::-1]), teacher(mirror(crops)))
    np.testing.assert_array_equal(teacher(crops[:1][::-1]), teacher(crops[:1]))  # contiguous, with a negative stride
    np.testing.assert_array_equal(locked, crops)


def test_folding_leaves_no_batch_norm(model):
    folded = build_hrnet(SMALL).eval()
    folded.load_state_dict(model.state_dict())
    fold_batch_norm(folded)
    assert not [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 96, 64, 3), np.uint8),
        np.zeros((1, 64, 96, 3), np.float32),
        np.zeros((64, 96, 3), np.uint8),
        np.zeros((0, 64, 96, 3), np.uint8),
        np.zeros((1, 3, 64, 96), np.uint8),
    ],
)
def test_other_crops_are_refused(checkpoint, wrong):
    with pytest.raises(ValueError, match=r"takes crops \(B, 64, 96, 3\) uint8, got \("):
        open_small(checkpoint)(wrong)


# --- Flip ----------------------------------------------------------------------------------------------------------


def test_the_flip_view_is_the_raw_output_on_the_mirrored_crop(checkpoint, crops):
    """The flip test undoes the mirror: it shifts right by one pixel, keeps column 0, and swaps left and right."""
    teacher = open_small(checkpoint)
    maps, mirrored = teacher(crops), teacher(mirror(crops))
    np.testing.assert_array_equal(mirrored, teacher(crops[:, :, ::-1].copy()))
    average = flip_average(maps, mirrored, COCO.flip_order)
    left_eye, right_eye = 1, 2
    np.testing.assert_allclose(
        average[:, left_eye, :, 1:], (maps[:, left_eye, :, 1:] + mirrored[:, right_eye, :, :0:-1]) / 2, rtol=1e-6
    )
    np.testing.assert_allclose(
        average[:, left_eye, :, 0], (maps[:, left_eye, :, 0] + mirrored[:, right_eye, :, -1]) / 2, rtol=1e-6
    )


# --- Choices -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "precision"), [("avx512_bf16", "bf16"), ("amx_bf16", "bf16"), ("avx512_f", "fp32")]
)
def test_auto_precision_on_a_cpu_follows_its_instructions(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True}, raising=False)
    assert choose_precision("auto", torch.device("cpu")) == precision


def test_auto_precision_is_fp32_where_torch_cannot_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert choose_precision("auto", torch.device("cpu")) == "fp32"


@pytest.mark.parametrize(("capability", "precision"), [((8, 0), "bf16"), ((9, 0), "bf16"), ((7, 5), "fp32")])
def test_auto_precision_on_cuda_follows_the_compute_capability(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert choose_precision("auto", torch.device("cuda")) == precision


def test_unknown_choices_list_the_known_ones(checkpoint):
    with pytest.raises(ValueError, match="unknown precision 'fp8'; choose auto, fp32, bf16"):
        open_small(checkpoint, "fp8")
    with pytest.raises(ValueError, match="unknown device 'gpu'; choose auto, cpu, mps, cuda or cuda:N"):
        choose_device("gpu")
    with pytest.raises(ValueError, match=r"unknown teacher 'vitpose'; available: hrnet_w32, .*, or onnx:FILE"):
        load_teacher("vitpose", checkpoint, input_size=SIZE)
    with pytest.raises(ValueError, match=r"unknown teacher 'HRNet-W23'; did you mean hrnet_w32 or hrnet_w48\?$"):
        load_teacher("HRNet-W23", checkpoint, input_size=SIZE)


def test_a_device_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"no device cuda:3 here: torch .* finds 1 CUDA devices"):
        choose_device("cuda:3")


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("hrnet_w32", r"mmpose.*pose_hrnet_w32_256x192\.pth"),
        ("hrnet_w48", r"pose_hrnet_w48_256x192\.pth"),
        ("hrnet_w18_small", "no public pose weights"),
        (SMALL, r"precompute/sample/hrnet_w16_sample\.safetensors"),
    ],
)
def test_a_missing_checkpoint_says_where_weights_come_from(name, where):
    with pytest.raises(CheckpointError, match=rf"{name} needs its weights \(--checkpoint FILE\): .*{where}"):
        load_teacher(name, input_size=SIZE)


def test_a_missing_or_impossible_size_is_named(checkpoint):
    with pytest.raises(ValueError, match=r"runs at several input sizes; give one \(--input-size\)"):
        load_teacher(SMALL, checkpoint)
    with pytest.raises(ValueError, match="multiples of 32, got 64x100"):
        load_teacher(SMALL, checkpoint, input_size=(100, 64))


# --- ONNX ----------------------------------------------------------------------------------------------------------


def write_onnx(path, *, shape=("batch", 3, 64, 96), joints=17, outputs=1, dtype=TensorProto.FLOAT, strides=(4, 4)):
    """A convolution from crops to maps; returns its weights (K, 3, 4, 4). An input of integers is cast to float."""
    kernel = np.random.default_rng(1).standard_normal((joints, shape[1], 4, 4)).astype(np.float32)
    cast = dtype == TensorProto.INT8
    nodes = [helper.make_node("Cast", ["crop"], ["floats"], to=TensorProto.FLOAT)] if cast else []
    names = ["floats" if cast else "crop", "kernel"]
    nodes += [helper.make_node("Conv", names, [f"maps{i}"], strides=strides) for i in range(outputs)]
    stored = kernel.astype(np.float16 if dtype == TensorProto.FLOAT16 else np.float32)
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("crop", dtype, shape)],
        [
            helper.make_tensor_value_info(f"maps{i}", helper.np_dtype_to_tensor_dtype(stored.dtype), [None] * 4)
            for i in range(outputs)
        ],
        [numpy_helper.from_array(stored, "kernel")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return kernel


@pytest.mark.parametrize(
    "shape", [("batch", 3, 64, 96), (1, 3, 64, 96), ("b", 3, "h", "w")], ids=["free batch", "batch 1", "all free"]
)
@pytest.mark.parametrize("threads", [1, 2])
def test_an_onnx_network_is_a_teacher(shape, threads, tmp_path, crops, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    kernel = write_onnx(tmp_path / "net.onnx", shape=shape)
    teacher = load_teacher(f"onnx:{tmp_path}/net.onnx", input_size=SIZE, device="cpu")
    expected = torch.nn.functional.conv2d(normalise_images(torch.from_numpy(crops)), torch.from_numpy(kernel), stride=4)
    np.testing.assert_allclose(teacher(crops), expected.numpy(), rtol=1e-4, atol=1e-4)
    assert (teacher.name, teacher.heatmap_size, teacher.joints) == ("onnx:net.onnx", (24, 16), 17)
    assert (teacher.precision, teacher.device) == ("fp32", "cpu")
    assert teacher.weights_sha256 == file_sha256(tmp_path / "net.onnx")


def test_an_onnx_network_of_fixed_size_needs_no_size(tmp_path):
    write_onnx(tmp_path / "net.onnx")
    for usual in (None, (192, 128)):
        assert load_teacher(f"onnx:{tmp_path}/net.onnx", default_size=usual, device="cpu").input_size == SIZE
    write_onnx(tmp_path / "free.onnx", shape=(1, 3, "h", "w"))
    assert load_teacher(f"onnx:{tmp_path}/free.onnx", default_size=(192, 128), device="cpu").input_size == (192, 128)


def test_an_onnx_network_in_half_precision_puts_out_float32(tmp_path, crops):
    write_onnx(tmp_path / "net.onnx", dtype=TensorProto.FLOAT16)
    teacher = load_teacher(f"onnx:{tmp_path}/net.onnx", device="cpu")
    assert teacher(crops).dtype == np.float32
    assert teacher.precision == "fp16"


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"shape": (4, 3, 64, 96)}, r"maps crop \(4, 3, 64, 96\) .*export it with a free batch size, or a batch of 1"),
        ({"shape": (1, 4, 64, 96)}, r"maps crop \(1, 4, 64, 96\) .*a teacher maps one \(B, 3, H, W\)"),
        ({"outputs": 2}, r"to maps0 .* and maps1 .*; a teacher maps one"),
        ({"dtype": TensorProto.INT8}, r"must be float or float16, and normalised, or uint8, not tensor\(int8\)"),
        ({"strides": (4, 8)}, r"computes 16x12 heatmaps of 64x96 crops .*the same stride on both axes"),
        (
            {"joints": 16},
            "computes 16 heatmaps per instance without names of joints, and the data have the 17 ",
        ),
    ],
)
def test_an_onnx_network_that_is_no_teacher_is_refused(network, message, tmp_path):
    write_onnx(tmp_path / "net.onnx", **network)
    with pytest.raises(CheckpointError, match=message):
        load_teacher(f"onnx:{tmp_path}/net.onnx", device="cpu")


def test_sizes_must_agree_with_the_onnx_file(tmp_path):
    write_onnx(tmp_path / "net.onnx")
    with pytest.raises(
        ValueError, match=r"takes crops of height 64, but the requested size is 128x96 \(height x width\)"
    ):
        load_teacher(f"onnx:{tmp_path}/net.onnx", input_size=(96, 128), device="cpu")
    write_onnx(tmp_path / "free.onnx", shape=(1, 3, "h", "w"))
    with pytest.raises(ValueError, match=r"takes crops of any size; give one"):
        load_teacher(f"onnx:{tmp_path}/free.onnx", device="cpu")
    with pytest.raises(CheckpointError, match="does not run on a 2x2 crop"):
        load_teacher(f"onnx:{tmp_path}/free.onnx", input_size=(2, 2), device="cpu")


def test_an_onnx_file_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no ONNX file at .*nowhere\.onnx"):
        load_teacher(f"onnx:{tmp_path}/nowhere.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not ONNX")
    with pytest.raises(CheckpointError, match=r"onnxruntime cannot open .*bad\.onnx"):
        load_teacher(f"onnx:{tmp_path}/bad.onnx", device="cpu")


def test_without_onnxruntime_the_extra_is_named(tmp_path, monkeypatch):
    write_onnx(tmp_path / "net.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CheckpointError, match=r"needs onnxruntime: pip install onnxruntime"):
        load_teacher(f"onnx:{tmp_path}/net.onnx")


def test_an_onnx_file_needs_no_checkpoint_and_keeps_its_precision(tmp_path):
    write_onnx(tmp_path / "net.onnx")
    with pytest.raises(ValueError, match=r"contains its weights; leave out the checkpoint w\.pth"):
        load_teacher(f"onnx:{tmp_path}/net.onnx", "w.pth")
    with pytest.raises(ValueError, match="was exported in fp32, but bf16 was requested"):
        load_teacher(f"onnx:{tmp_path}/net.onnx", device="cpu", precision="bf16")


def test_cuda_needs_an_onnxruntime_that_has_it(tmp_path, monkeypatch):
    write_onnx(tmp_path / "net.onnx")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(
        ValueError, match=r"this onnxruntime has no CUDA .*; install onnxruntime-gpu, or give --device cpu"
    ):
        load_teacher(f"onnx:{tmp_path}/net.onnx", device="cuda")


@needs_coco
def test_a_real_network_finds_real_people():
    """It is accurate with the colours and geometry of its training, and clearly worse with red and blue exchanged."""
    annotations = COCO_REAL / "annotations" / "person_keypoints_val.json"
    persons = read_keypoint_annotations(annotations).instances.select(np.arange(16))
    teacher = load_teacher(f"onnx:{ONNX_TEACHER}", device="cpu")
    regions = zip(*box_to_region(clip_boxes(persons.bbox, persons.image_size), teacher.input_size), strict=True)
    affines = np.stack([region_affine(center, size, teacher.input_size) for center, size in regions])
    images = [cv2.imread(str(COCO_REAL / "images" / name)) for name in persons.file_name]
    bgr = np.stack([crop_image(i, a, teacher.input_size) for i, a in zip(images, affines, strict=True)])

    def correct(crops):
        points = transform_points(decode_argmax(teacher(crops))[0], scale_affine(4))
        return pck(transform_points(points, invert_affine(affines)), persons.keypoints, persons.bbox)["pck@0.05"]

    assert correct(bgr[..., ::-1]) > 80
    assert correct(bgr[..., ::-1]) > correct(bgr) + 5
