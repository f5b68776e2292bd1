"""Students: shapes on non-square inputs, positions of features, and initial weights."""

import numpy as np
import pytest
import torch
import torchvision
from scipy.ndimage import shift
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdlib.errors import KdlibError
from kdlib.geometry import MAP_STRIDES
from kdlib.machine.cost import multiply_adds
from kdlib.students.cost import complexity
from kdlib.students.heads import HEADS, Interpolation, crop
from kdlib.students.networks import STUDENTS, build_student
from kdlib.students.pretrained import load_pretrained
from tests.support.shared_data import SQUEEZENET


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("stride", MAP_STRIDES)
def test_maps_are_a_strides_part_of_the_input_for_any_divisible_size(name, head, stride):
    for width, height in ((96, 128), (192, 64)):
        student = build_student(name, head, 17, (width, height), stride).eval()
        assert student.stride == stride
        assert student(torch.zeros(2, 3, height, width)).shape == (2, 17, height // stride, width // stride)


def feature_positions(features):
    """Input pixel of feature 0 and pixels per feature, before every pool and at the end, without padding the input."""
    centre, step, seen = 0.0, 1, []
    for module in features:
        if isinstance(module, nn.MaxPool2d):
            seen.append((centre, step))
        if isinstance(module, nn.Conv2d | nn.MaxPool2d):
            kernel, stride, padding = (
                v[0] if isinstance(v, tuple) else v for v in (module.kernel_size, module.stride, module.padding)
            )
            centre += ((kernel - 1) / 2 - padding) * step
            step *= stride
    return [*seen[1:], (centre, step)]


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize("stride", MAP_STRIDES)
def test_features_of_every_stride_meet_on_the_heatmap_grid(name, stride):
    # A doubling, bilinear or a 4x4 transposed convolution, puts pixel u at 2 u + 1/2, so fine pixel 0 lies a quarter of
    # a coarse pixel before coarse pixel 0. For maps of stride 4: 16 u + 6, 8 u + 2, 4 u.
    student = build_student(name, "interp", 17, (96, 128), stride)
    (fine, four), (middle, eight), (coarse, sixteen) = feature_positions(student.features)
    assert (four, eight, sixteen) == (4, 8, 16)
    before, after, *others = student.padding
    assert before + after == 15
    assert others == [before, after]
    place, doubled = coarse - before, {}
    for step in (16, 8, 4):
        if step > stride:
            place -= step / 4
            doubled[step // 2] = place
    assert doubled[stride] == 0
    # The 2x2 means of the finer features look half a feature further; the finest features are taken from index 1 on.
    assert doubled[8] == middle - before + eight / 2
    assert stride == 8 or doubled[4] == fine - before + four * 1.5


def with_centred_filters(student):
    """Make every convolution a mean around its centre and every doubling bilinear, so that the network is linear."""
    doubling = torch.outer(*[torch.tensor([1.0, 3, 3, 1])] * 2) / 16
    with torch.no_grad():
        for module in student.modules():
            if isinstance(module, nn.ConvTranspose2d):
                module.weight.copy_(doubling / module.in_channels)
            elif isinstance(module, nn.Conv2d):
                middle = [slice((side - 1) // 2, side // 2 + 1) for side in module.kernel_size]
                module.weight.zero_()[:, :, *middle] = 1 / module.in_channels
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.fill_(1.0)
        for name, p in student.named_parameters():
            if name.endswith("bias"):
                p.zero_()
    return student.eval()


@pytest.mark.parametrize(
    ("name", "head"), [*(("squeezenet1_1", head) for head in HEADS), ("torchvision:resnet18", "fused")]
)
@pytest.mark.parametrize("stride", MAP_STRIDES)
def test_every_map_pixel_looks_at_its_place_on_the_picture(name, head, stride, monkeypatch):
    # Of a linear network, the gradient of a map pixel is what it sees: its centre of mass must be stride times (x, y).
    def mean(pool, x):
        return nn.functional.avg_pool2d(x, pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode)

    monkeypatch.setattr(nn.MaxPool2d, "forward", mean)
    width, height = 112, 128
    student = with_centred_filters(build_student(name, head, 1, (width, height), stride))
    picture = torch.ones(1, 3, height, width, requires_grad=True)
    maps = student(picture)[0, 0]
    assert maps.shape == (height // stride, width // stride)
    for x, y in ((6, 7), (7, 8)):
        (seen,) = torch.autograd.grad(maps[y * 8 // stride, x * 8 // stride], picture, retain_graph=True)
        weight = seen[0].sum(0).double()
        rows, columns = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
        centre = [float((weight * axis).sum() / weight.sum()) for axis in (columns, rows)]
        np.testing.assert_allclose(centre, (x * 8, y * 8), atol=1e-3)


@pytest.mark.parametrize("head", HEADS)
def test_a_student_of_centred_filters_answers_where_it_was_asked(head):
    # All weights positive and equal: the answer to a bright spot must be centred on the spot, on both axes.
    student = build_student("squeezenet1_1", head, 1, (192, 256)).eval()
    with torch.no_grad():
        for p in student.parameters():
            p.fill_(1e-3) if p.ndim > 1 else p.zero_()
        for module in student.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.fill_(1.0)
        picture = torch.zeros(1, 3, 256, 192)
        picture[:, :, 120:137, 88:105] = 1.0  # centred on input pixel (96, 128): heatmap pixel (24, 32)
        answer = student(picture)[0, 0].double()
    answer -= answer.min()
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(48.0), indexing="ij")
    x, y = ((answer * grid).sum() / answer.sum() for grid in (columns, rows))
    assert abs(x - 24) < 1.5
    assert abs(y - 32) < 1.5


def test_a_fused_head_begins_as_a_deconv_head():
    student = build_student("squeezenet1_1", "fused", 17, (96, 128))
    deconv = build_student("squeezenet1_1", "deconv", 17, (96, 128))
    deconv.features.load_state_dict(student.features.state_dict())
    parts = (student.head.double16, student.head.norm16, student.head.double8, student.head.norm8, student.head.final)
    for part, same in zip(parts, (deconv.head.layers[i] for i in (0, 1, 3, 4, 6)), strict=True):
        same.load_state_dict(part.state_dict())
    pictures = torch.randn(2, 3, 128, 96)
    assert torch.equal(student(pictures), deconv(pictures))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("stride", MAP_STRIDES)
def test_every_parameter_learns(head, stride):
    student = build_student("squeezenet1_1", head, 17, (96, 128), stride)
    student(torch.randn(2, 3, 128, 96)).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in student.parameters())


def test_cropped_features_are_a_part_of_them_or_an_error():
    x = torch.rand(2, 3, 7, 5).to(memory_format=torch.channels_last)
    assert torch.equal(crop(x, 1, 4, 3), x[..., 1:5, 1:4])
    assert crop(x, 0, 7, 5) is x
    for rows, columns in ((7, 4), (6, 5)):
        with pytest.raises(ValueError, match=f"cannot crop {rows}x{columns} features from index 1 of 7x5"):
            crop(x, 1, rows, columns)


def test_between_features_are_scipys_linear_interpolation():
    x = torch.rand(2, 3, 7, 5, dtype=torch.float64)
    moved = Interpolation(3, 0.3).double()(x).numpy()
    for found, plane in zip(moved.reshape(-1, 6, 4), x.numpy().reshape(-1, 7, 5), strict=True):
        expected = shift(plane, (-0.3, -0.3), order=1)[:-1, :-1]
        np.testing.assert_allclose(found, expected, atol=1e-7)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ["squeezenet1_1", "timm:resnet18d"])
def test_the_gradients_of_all_features_lie_channels_last(name, head):
    # One that does not slows down every layer behind it, some twentyfold, and nothing else tells.
    if name.startswith("timm:"):
        pytest.importorskip("timm", reason="backbones of timm need the extra [timm]")
    student = build_student(name, head, 5, (96, 128)).to(memory_format=torch.channels_last)
    steps = []

    def note(module, inputs, output):
        if isinstance(output, torch.Tensor):
            output.register_hook(lambda gradient: steps.append(gradient.stride(1)))

    for module in student.features.modules():
        module.register_forward_hook(note)
    pictures = torch.rand(2, 3, 128, 96).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        student(pictures).square().sum().backward()
    assert len(steps) > 20
    assert set(steps) == {1}


def test_multiply_adds_are_those_of_torchvisions_features_on_the_padded_picture_and_of_the_head():
    student = build_student("squeezenet1_1", "interp", 17, (192, 256))
    features = torchvision.models.squeezenet1_1(weights=None).features
    with FlopCounterMode(display=False) as counter:
        features(torch.zeros(1, 3, 256 + 15, 192 + 15))
    head = 17 * 512 * 9 * 64 * 48
    assert multiply_adds(student, (192, 256)) == counter.get_total_flops() // 2 + head
    assert complexity(student, (192, 256))["parameters"] == sum(p.numel() for p in student.parameters())


@pytest.mark.parametrize(
    ("name", "head", "size", "message"),
    [
        ("resnet", "deconv", (96, 128), "no student is called 'resnet'; there are squeezenet1_1, squeezenet1_0"),
        ("squeezent1_1", "deconv", (96, 128), r"no student is called 'squeezent1_1'; did you mean squeezenet1_1\?"),
        ("squeezenet1_1", "big", (96, 128), "no head is called 'big'; there are fused, pyramid, deconv, interp"),
        ("squeezenet1_1", "fusd", (96, 128), r"no head is called 'fusd'; did you mean fused\?"),
        ("squeezenet1_1", "deconv", (100, 128), "divisible by 16, got 128x100"),
    ],
)
def test_what_is_no_student_is_refused(name, head, size, message):
    with pytest.raises(KdlibError, match=message):
        build_student(name, head, 17, size)


def test_a_stride_that_no_head_ends_at_is_refused():
    with pytest.raises(KdlibError, match="the stride of a student's maps must be one of 2, 4, 8, got 3"):
        build_student("squeezenet1_1", "fused", 17, (96, 128), 3)


def test_pretrained_weights_fill_the_backbone_or_are_refused(tmp_path):
    student = build_student("squeezenet1_1", "deconv", 17, (96, 128))
    state = {f"features.{k}": torch.full_like(v, 0.5).half() for k, v in student.features.state_dict().items()}
    torch.save({**state, "classifier.1.weight": torch.zeros(3)}, tmp_path / "imagenet.pth")
    assert "imagenet.pth" in load_pretrained(student, "squeezenet1_1", str(tmp_path / "imagenet.pth"))[0]
    assert all((v == 0.5).all() for v in student.features.state_dict().values())
    with pytest.raises(KdlibError, match="no pretrained weights at"):
        load_pretrained(student, "squeezenet1_1", str(tmp_path / "none.pth"))
    torch.save(state, tmp_path / "features.pth")
    assert load_pretrained(student, "squeezenet1_1", str(tmp_path / "features.pth"))[1]


def published(name="squeezenet1_1"):
    return torchvision.models.get_model(name).state_dict()


FOREIGN = {
    "text.pth": (b"hello world\n", "it is truncated, or not a file of tensors only"),
    "page.html": (b"<html>", "it is truncated, or not a file of tensors only"),
    "module.pth": (lambda: nn.Conv2d(1, 1, 1), "it is truncated, or not a file of tensors only"),
    "student.onnx": (b"\x08\x08\x12\x07pytorch\x1a\x032.0" * 9, "it is an ONNX network"),
    "empty.pth": (b"", "it is empty"),
    "list.pth": (lambda: [1, 2], "it holds a list instead of a dict of tensors"),
    "nested.pth": (lambda: {"model": published()}, "its entry 'model' is not a named tensor"),
    "numbers.pth": (lambda: {3: torch.zeros(2)}, "its entry 3 is not a named tensor"),
    "resnet18.pth": (lambda: published("resnet18"), "it has 0 of the 50 tensors of the backbone"),
    "squeezenet1_0.pth": (lambda: published("squeezenet1_0"), "of the 50 tensors of the backbone"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_pretrained_file_of_another_kind_is_refused_in_words_of_our_own(tmp_path, name):
    content, said = FOREIGN[name]
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        torch.save(content(), tmp_path / name)
    student = build_student("squeezenet1_1", "deconv", 17, (96, 128))
    with pytest.raises(KdlibError) as refused:
        load_pretrained(student, "squeezenet1_1", str(tmp_path / name))
    line = str(refused.value)
    start = f"{tmp_path / name} holds neither ImageNet weights of squeezenet1_1 nor a trained student: "
    assert line.startswith(start)
    assert said in line
    assert line.endswith(
        "torchvision's layout, as torch.save(network.state_dict(), FILE) writes it, or a run's best.pt"
    )
    assert "weights_only" not in line


def test_a_folder_and_half_a_file_are_no_pretrained_weights(tmp_path):
    student = build_student("squeezenet1_1", "deconv", 17, (96, 128))
    half = tmp_path / "half.pth"
    torch.save(published(), half)
    half.write_bytes(half.read_bytes()[:10000])
    with pytest.raises(KdlibError, match="it is truncated"):
        load_pretrained(student, "squeezenet1_1", str(half))
    with pytest.raises(KdlibError, match=r"cannot start from .*, a folder: .*SHA256SUMS"):
        load_pretrained(student, "squeezenet1_1", str(tmp_path))


def test_an_offline_download_says_so_and_goes_on(monkeypatch):
    def refuse(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    student = build_student("squeezenet1_1", "deconv", 17, (96, 128))
    before = {k: v.clone() for k, v in student.state_dict().items()}
    line, loaded = load_pretrained(student, "squeezenet1_1", "auto")
    assert not loaded
    assert "could not be downloaded" in line
    assert "random weights" in line
    assert all((before[k] == v).all() for k, v in student.state_dict().items())


@pytest.mark.skipif(not SQUEEZENET.exists(), reason="ImageNet weights (../shared/data) are missing")
def test_the_real_imagenet_file_loads():
    student = build_student("squeezenet1_1", "deconv", 17, (96, 128))
    assert "squeezenet1_1_imagenet" in load_pretrained(student, "squeezenet1_1", str(SQUEEZENET))[0]
