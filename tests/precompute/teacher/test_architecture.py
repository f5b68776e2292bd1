"""A new PyTorch teacher is one `Architecture` in the table: the whole command then runs with it."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import cache
from precompute.__main__ import main
from precompute.data.crops import Cropper, stack_crops
from precompute.teacher import loading
from precompute.teacher.architecture import Architecture
from precompute.teacher.checkpoint import load_weights, read_state_dict
from tests.support import tiny_precompute


class Patches(nn.Module):
    """Heatmaps (B, K, H/8, W/8): one convolution per patch of 8 pixels, then a 1x1 convolution."""

    def __init__(self, joints):
        super().__init__()
        self.embed = nn.Conv2d(3, 12, 8, stride=8)
        self.head = nn.Conv2d(12, joints, 1)

    def forward(self, crops):
        return self.head(torch.relu(self.embed(crops)))


def heatmap_size(input_size):
    width, height = input_size
    if width % 8 or height % 8:
        raise ValueError(f"input sides must be multiples of 8, got {height}x{width} (height x width)")
    return width // 8, height // 8


def load_patches(model, path):
    """Read a file whose parameters have other names than the module's."""
    load_weights(model, path, read=lambda file: read_state_dict(file, prefixes=("net.",)), name="patches")


PATCHES = Architecture(
    names=("patches",),
    build=lambda name, joints, input_size: Patches(joints),
    heatmap_size=heatmap_size,
    load_weights=load_patches,
    float32_module="head",
)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The tiny command with `patches` instead of the HRNet, and the module whose weights it reads."""
    monkeypatch.setattr(loading, "ARCHITECTURES", (*loading.ARCHITECTURES, PATCHES))
    data = tiny_precompute.write(tmp_path / "data")
    torch.manual_seed(0)
    model = Patches(17).eval()
    save_file({f"net.{name}": tensor for name, tensor in model.state_dict().items()}, data / "patches.safetensors")
    words = tiny_precompute.command(data, tmp_path / "s.zarr", "--codec", "float32", "--no-flip-test")
    for old, new in (
        ("hrnet_w16_sample", "patches"),
        (str(data / "teacher.safetensors"), str(data / "patches.safetensors")),
    ):
        words[words.index(old)] = new
    return words, model


def test_a_registered_network_fills_a_store(command, tmp_path, monkeypatch, capsys):
    seen, prepare = [], Cropper.prepare
    monkeypatch.setattr(Cropper, "prepare", lambda *given: seen.extend(found := prepare(*given)) or found)
    words, model = command
    assert main(words) == 0
    store = cache.open_store(tmp_path / "s.zarr")
    crops = stack_crops(sorted(seen, key=lambda item: item.row))[96, 128][:, 0]
    pixels = torch.from_numpy(crops).permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
    with torch.no_grad():
        expected = model((pixels - mean) / std).numpy()
    np.testing.assert_allclose(store.heatmaps(range(len(store)))[:, 0], expected, atol=1e-5)
    teacher = store.manifest["provenance"]["teacher"]
    assert (teacher["name"], teacher["input_size"], teacher["heatmap_size"]) == ("patches", [96, 128], [12, 16])
    assert teacher["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert teacher["multiply_adds"] == 12 * 16 * (3 * 8 * 8 * 12 + 12 * 17)
    assert main([*words, "--check", "5"]) == 0
    capsys.readouterr()
    assert main([*words, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["teacher"] == "patches"


def test_its_sizes_weights_and_name_are_checked(command, tmp_path, capsys):
    words, _ = command
    size, weights, name = (
        words.index(word) for word in ("128x96", str(tmp_path / "data/patches.safetensors"), "patches")
    )

    def error(place, value):
        assert main([*words[:place], value, *words[place + 1 :]]) == 1
        return capsys.readouterr().err

    assert "multiples of 8, got 100x60" in error(size, "100x60")
    assert "does not fit patches: 4 missing: embed.weight" in error(weights, str(tmp_path / "data/teacher.safetensors"))
    assert "did you mean patches" in error(name, "patchs")


def test_the_head_computes_in_float32_while_the_rest_is_bf16(command):
    words, _ = command
    path = words[words.index("--checkpoint") + 1]
    crops = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    maps = loading.load_teacher("patches", path, input_size=(96, 64), device="cpu", precision="bf16")(crops)
    exact = loading.load_teacher("patches", path, input_size=(96, 64), device="cpu", precision="fp32")(crops)
    assert 0 < np.abs(maps - exact).max() < 0.05 * np.abs(exact).max()
    assert (torch.from_numpy(maps).bfloat16().float().numpy() != maps).mean() > 0.9
