"""Students from networks of other libraries: positions of features, refused networks, and a complete run."""

import functools
import re

import numpy as np
import pytest
import torch
from torch import nn

from kdlib.errors import KdlibError
from kdlib.geometry import MAP_STRIDES
from kdlib.students.alignment import EXTRA, STRIDES, align
from kdlib.students.feature_grid import trace_grids
from kdlib.students.heads import Taps
from kdlib.students.networks import STUDENTS, BackboneStudent, build_student, padding
from kdlib.students.pretrained import load_pretrained
from tests.support.stores.people import make_store
from train.__main__ import main

pytest.importorskip("timm", reason="backbones of timm need the extra [timm]")
SMALL = "timm:mobilenetv3_small_050"
NETWORKS = ("torchvision:resnet18", SMALL, "timm:tf_efficientnet_lite0", "timm:resnet10t")


class Ladder(nn.Module):
    """A network with features of strides 4, 8 and 16 and the given kernel and padding."""

    def __init__(self, kernel, padding, pool=False):
        super().__init__()
        layer = nn.AvgPool2d(kernel, 2, padding) if pool else nn.Conv2d(3, 3, kernel, 2, padding)
        self.layers = nn.ModuleList([layer] * 4)

    def forward(self, x):
        outputs = [x := layer(x) for layer in self.layers]
        return outputs[1:]


def place_of_gradient(network, size, i):
    """Input pixel (y, x) and index of output i's middle feature: the gradient's centre of mass, weights positive."""
    with torch.no_grad():
        for p in network.parameters():
            p.fill_(0.1)
    picture = torch.ones(1, 3, size[1], size[0], requires_grad=True)
    out = network(picture)[i]
    row, column = out.shape[2] // 2, out.shape[3] // 2
    out[0, :, row, column].sum().backward()
    weight = picture.grad[0].sum(0).double()
    rows, columns = torch.meshgrid(torch.arange(size[1]), torch.arange(size[0]), indexing="ij")
    return [float((weight * g).sum() / weight.sum()) for g in (rows, columns)], (row, column)


@pytest.mark.parametrize(("kernel", "padding", "pool"), [(3, 1, False), (2, 0, False), (3, 0, True), (5, 1, False)])
def test_the_walk_finds_what_the_gradient_says(kernel, padding, pool):
    network = Ladder(kernel, padding, pool)
    found = trace_grids(network.to("meta"), (192, 256))
    network = Ladder(kernel, padding, pool)
    for i, (_, grid) in enumerate(found):
        place, feature = place_of_gradient(network, (192, 256), i)
        np.testing.assert_allclose(grid.first + np.array(feature) * grid.step, place, atol=1e-3)
        np.testing.assert_allclose(grid.step, STRIDES[i])


@pytest.mark.parametrize("stride", MAP_STRIDES)
def test_the_walk_agrees_with_the_squeezenet_that_was_aligned_by_hand(stride):
    alignment = build_student("torchvision:squeezenet1_1", "interp", 17, (96, 128), stride).alignment
    assert alignment.before == padding("squeezenet1_1", stride)[0]
    assert alignment.skip == Taps(0, 0, 0)
    assert alignment.shift == Taps(0.0, 0.0, 0.0)


@pytest.mark.parametrize("network", [Ladder(3, 1), Ladder(2, 0), Ladder(3, 0, pool=True), Ladder(5, 1)])
@pytest.mark.parametrize(("stride", "firsts"), [(2, (-5, -1, 7)), (4, (-6, -2, 6)), (8, (None, -4, 4))])
def test_aligned_features_lie_on_the_heads_grid(network, stride, firsts):
    # A picture whose value is its own x (or y) coordinate: averaging filters read out where features look.
    size = (96, 128)
    with torch.no_grad():
        for p in network.parameters():
            p.fill_(1 / 3 / p[0, 0].numel()) if p.ndim > 1 else p.zero_()
    alignment = align(network, "a ladder", size, stride)
    for axis in (2, 3):
        coordinates = torch.arange(size[1] if axis == 2 else size[0], dtype=torch.float32) + 100
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        ramp = coordinates.view(shape).expand(1, 3, size[1], size[0])
        found = network(alignment.pad(ramp))
        taps = alignment.apply(found, size, alignment.shifts(Taps(*(x.shape[1] for x in found))))
        for i, tap in enumerate(taps):
            if firsts[i] is None:
                assert tap is found[i]  # no head takes it, so nothing is done to it
                continue
            assert tap.shape[2:] == (size[1] // STRIDES[i] + EXTRA[i], size[0] // STRIDES[i] + EXTRA[i])
            line = tap[0, 0].select(3 - axis, 3).detach() if axis == 2 else tap[0, 0, 3].detach()
            u = torch.arange(len(line))
            inner = (u * STRIDES[i] > 40) & (u * STRIDES[i] < len(coordinates) - 40)
            off = (line - 100 - firsts[i] - u * STRIDES[i])[inner].abs().max()
            assert off <= 0.5 + 1e-3  # the padding's rounding


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_centred_filters_answers_where_it_was_asked(name):
    student = build_student(name, "pyramid", 1, (192, 256)).eval()
    with torch.no_grad():
        for p in student.parameters():
            p.fill_(1 / p[0].numel()) if p.ndim > 1 else p.zero_()
        for module in student.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.fill_(1.0)
        answers = []
        for left, top in ((80, 112), (96, 128)):
            picture = torch.zeros(1, 3, 256, 192)
            picture[:, :, top : top + 17, left : left + 17] = 1.0  # centred on heatmap pixels (22, 30) and (26, 34)
            answers.append(student(picture)[0, 0].double())
        answers = [answer - student(torch.zeros(1, 3, 256, 192))[0, 0] for answer in answers]
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(48.0), indexing="ij")
    for answer, (x, y) in zip(answers, ((22, 30), (26, 34)), strict=True):
        top = (answer - 0.5 * answer.max()).clamp_min(0)  # without what reaches the borders
        assert abs(float((top * columns).sum() / top.sum()) - x) < 0.75
        assert abs(float((top * rows).sum() / top.sum()) - y) < 0.75


@pytest.mark.parametrize("size", [(96, 128), (64, 48), (192, 256)])
@pytest.mark.parametrize("head", ["pyramid", "deconv", "interp"])
def test_maps_are_a_quarter_of_the_input(head, size):
    student = build_student(SMALL, head, 17, size).eval()
    assert student(torch.zeros(2, 3, size[1], size[0])).shape == (2, 17, size[1] // 4, size[0] // 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:mobilenetv3_smal_050", "there is no timm:mobilenetv3_smal_050; did you mean .*mobilenetv3_small_050"),
        ("torchvision:resnet19", "there is no torchvision:resnet19; did you mean resnet18"),
        ("torchvision:xyzzy", "there is no torchvision:xyzzy; torchvision has [0-9]+ models, none of them"),
        ("timm:vit_tiny_patch16_224", r"has features of strides \[16, 16, 16\]; take a convolutional backbone"),
        ("timm:swin_tiny_patch4_window7_224", "does not run on images of 144x112 .*; take a convolutional backbone"),
        ("torchvision:swin_t", "has no features of stride 8; take a convolutional backbone"),
        ("torchvision:vit_b_16", "takes images of one fixed size, as transformers do, .*; take a convolutional"),
        ("keras:resnet18", "timm:NAME and torchvision:NAME"),
    ],
)
def test_what_cannot_be_a_student_is_refused(name, message):
    with pytest.raises(KdlibError, match=message) as refused:
        build_student(name, "pyramid", 17, (96, 128))
    assert not re.search("Proxy|traced|shape|Expected", str(refused.value))


def test_pretrained_files_of_both_libraries_fill_the_backbone(tmp_path):
    import timm
    import torchvision

    whole = {
        SMALL: timm.create_model("mobilenetv3_small_050"),
        "torchvision:resnet18": torchvision.models.get_model("resnet18", weights=None),
    }
    for name, network in whole.items():
        path = tmp_path / "weights.pth"
        with torch.no_grad():
            state = {
                k: torch.full_like(v, 0.25) if v.is_floating_point() else v for k, v in network.state_dict().items()
            }
        torch.save(state, path)
        student = build_student(name, "deconv", 17, (96, 128))
        assert "weights.pth" in load_pretrained(student, name, str(path))[0]
        assert all((v == 0.25).all() for k, v in student.features.state_dict().items() if "num_batches" not in k)
        torch.save({k: v for k, v in state.items() if "conv1" not in k and "conv_stem" not in k}, path)
        with pytest.raises(KdlibError, match=f"holds neither ImageNet weights of {name} nor a trained student"):
            load_pretrained(student, name, str(path))


def test_a_run_an_evaluation_and_a_prediction_of_another_backbone(tmp_path):
    make_store(tmp_path / "train.zarr", 8)
    stores = ["--store", str(tmp_path / "train.zarr"), "--val-store", str(tmp_path / "train.zarr")]
    flags = ["--student", SMALL, "--pretrained", "none", "--epochs", "1", "--batch-size", "4", "--input-size", "64x48"]
    assert main(["distill", *stores, *flags, "--out", str(tmp_path / "run"), "--device", "cpu"]) == 0
    best = ["--student", str(tmp_path / "run/best.pt")]
    assert main(["evaluate", "--store", str(tmp_path / "train.zarr"), *best]) == 0


def test_a_backbone_of_ones_own_becomes_a_student_by_one_entry(monkeypatch):
    def open_ladder(name):
        return Ladder(3, 1), Taps(3, 3, 3)

    monkeypatch.setitem(STUDENTS, "ladder", functools.partial(BackboneStudent, open_features=open_ladder))
    student = build_student("ladder", "fused", 17, (96, 128))
    assert student(torch.zeros(2, 3, 128, 96)).shape == (2, 17, 32, 24)
    line, is_pretrained = load_pretrained(student, "ladder", "auto")
    assert "the student starts from random weights" in line
    assert not is_pretrained


def test_squeezenets_weights_keep_their_names():
    assert "features.0.weight" in build_student("squeezenet1_1", "pyramid", 17, (96, 128)).state_dict()
