"""Exported files in runtimes other than onnxruntime: OpenCV's DNN module, OpenVINO if it is installed, and TensorRT.

TensorRT is not run: the operators of the files are compared with its published list. onnxruntime-web is tested in
tests/train/deploy/web.
"""

import cv2
import numpy as np
import pytest
import torch

from kdlib.readout import Readout
from kdlib.skeletons.skeleton import COCO
from kdlib.students.loading import OnnxStudent, TorchStudent
from kdlib.students.networks import build_student
from train.deploy.agreement import noise_crops
from train.deploy.formats import write_onnx
from train.deploy.network import Deployable, describe, sample_crops
from train.deploy.quantise import quantise

onnx = pytest.importorskip("onnx", reason="exporting needs the extra [export]")
pytest.importorskip("onnxscript", reason="exporting needs the extra [export]")
pytest.importorskip("onnxruntime", reason="exporting needs the extra [export]")

SIZE = (48, 64)
CASES = [  # each head, stride, input and loss, and the operators of other backbones: hard swish, hard sigmoid
    ("squeezenet1_1", "fused", 4, "uint8", "kl"),
    ("squeezenet1_0", "pyramid", 2, "normalised", "kl"),
    ("squeezenet1_1", "deconv", 8, "normalised", "mse"),
    ("timm:mobilenetv3_small_100", "interp", 4, "uint8", "mse"),
]
TENSORRT = {  # of docs/operators.md of onnx/onnx-tensorrt for TensorRT 10.15; the opsets are those of 10.0
    *("Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Conv", "ConvTranspose", "Div", "Gelu"),
    *("GlobalAveragePool", "HardSigmoid", "HardSwish", "Identity", "MaxPool", "Mul", "ReduceMean", "Relu", "Reshape"),
    *("Resize", "Sigmoid", "Slice", "Softmax", "Split", "Sub", "Transpose"),
}


def student_of(backbone, head, stride, loss):
    """A student with seeded random weights whose maps are far from uniform, and all of whose branches count."""
    torch.manual_seed(0)
    model = build_student(backbone, head, 17, SIZE, stride).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
    last = [module for module in model.head.modules() if isinstance(module, torch.nn.Conv2d)][-1]
    with torch.inference_mode():
        spread = model(torch.randn(2, 3, SIZE[1], SIZE[0])).std()
    with torch.no_grad():
        last.weight.mul_(3 / spread.item())
    return TorchStudent(model, Readout(loss, 2.0, 0.5), SIZE, COCO, backbone=backbone, head=head)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(map(str, case)))
def exported(request, tmp_path_factory):
    """A student, its network, and its exported file."""
    backbone, head, stride, kind, loss = request.param
    if backbone.startswith("timm:"):
        pytest.importorskip("timm", reason="backbones of timm need the extra [timm]")
    student = student_of(backbone, head, stride, loss)
    network = Deployable(student, normalised=kind == "normalised")
    path = tmp_path_factory.mktemp("runtimes") / "s.onnx"
    write_onnx(network, sample_crops(student), describe(student, normalised=network.normalised), path)
    return student, network, path


def in_opencv(path):
    def run(inputs):
        net = cv2.dnn.readNetFromONNX(str(path))
        net.setInput(inputs, "image")
        return net.forward()

    return run


def in_openvino(path):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install openvino")
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda inputs: compiled(inputs)[0]


@pytest.mark.parametrize("runtime", [in_opencv, in_openvino])
def test_a_runtime_computes_what_pytorch_computes_in_batches_of_any_size(exported, runtime):
    _, network, path = exported
    run = runtime(path)
    for count in (1, 3):
        inputs = network.inputs(torch.from_numpy(noise_crops(SIZE, count)))
        with torch.inference_mode():
            wanted = network(inputs).numpy()
        found = run(inputs.numpy())
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, atol=1e-4 * max(1, wanted.max()))
        assert wanted.std() > 0.05


def test_tensorrts_parser_lists_the_operators_of_the_file_and_slices_are_constant(exported):
    model = onnx.load(exported[2])
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    assert {node.op_type for node in graph.node} <= TENSORRT
    for node in graph.node:
        if node.op_type == "Slice":
            assert set(node.input[1:]) <= constants
    (opset,) = [entry.version for entry in model.opset_import if not entry.domain]
    assert 9 <= opset <= 20


@pytest.mark.parametrize("exported", CASES[:1], indirect=True, ids=lambda case: "-".join(map(str, case)))
def test_an_int8_file_loads_in_opencv_and_openvino_but_not_in_tensorrt(exported, tmp_path):
    student, network, path = exported
    crops = noise_crops(SIZE, 8)
    quantise(network, path, crops, describe(student, normalised=False), tmp_path / "s.int8.onnx")
    wanted = OnnxStudent(tmp_path / "s.int8.onnx").heatmaps(crops)
    found = in_opencv(tmp_path / "s.int8.onnx")(crops)
    assert np.corrcoef(np.log(found.ravel() + 1e-6), np.log(wanted.ravel() + 1e-6))[0, 1] > 0.95
    graph = onnx.load(tmp_path / "s.int8.onnx").graph
    points = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    zeros = [points[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert any(zero.any() for zero in zeros)  # TensorRT takes only zero points of 0; docs/students.md states this
    found = in_openvino(tmp_path / "s.int8.onnx")(crops)
    assert np.corrcoef(np.log(found.ravel() + 1e-6), np.log(wanted.ravel() + 1e-6))[0, 1] > 0.95
