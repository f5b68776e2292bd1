"""Several teachers become one: the mean of their maps, and an identity made of theirs."""

import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import cache
from precompute.__main__ import main
from precompute.ensemble import ensemble, parse_member
from precompute.errors import PrecomputeError
from precompute.hrnet import build_hrnet
from precompute.teacher import Teacher
from tests import tiny_precompute
from tests.tiny_precompute import command


def constant_teacher(name, value, input_size=(96, 64), parameters=None):
    """Every map is `value` times the first pixel of the crop."""
    width, height = input_size[0] // 4, input_size[1] // 4

    def network(crops):
        return np.full((len(crops), 17, height, width), value, np.float32) * crops[:, :1, :1, :1]

    return Teacher(
        name, input_size, (width, height), 17, hashlib.sha256(name.encode()).hexdigest(), "fp32", "cpu", network,
        parameters=parameters,
    )  # fmt: skip


def test_the_maps_are_the_mean_of_the_members_maps():
    crops = np.random.default_rng(0).integers(1, 256, (3, 64, 96, 3), np.uint8)
    members = [constant_teacher("a", 0.25), constant_teacher("b", 1.0), constant_teacher("c", -0.5)]
    maps = ensemble(members)(crops)
    assert maps.dtype == np.float32
    expected = np.mean([member(crops).astype(np.float64) for member in members], axis=0)
    np.testing.assert_allclose(maps, expected, rtol=1e-6)


def test_the_identity_tells_members_and_order_apart():
    a, b = constant_teacher("a", 1, parameters=10), constant_teacher("b", 2, parameters=5)
    both, other = ensemble([a, b]), ensemble([b, a])
    assert both.weights_sha256 == hashlib.sha256((a.weights_sha256 + b.weights_sha256).encode()).hexdigest()
    assert both.weights_sha256 != other.weights_sha256
    assert both.members == (("a", a.weights_sha256), ("b", b.weights_sha256))
    assert both.parameters == 15
    assert ensemble([a, constant_teacher("c", 1)]).parameters is None


def test_members_of_different_sizes_are_refused_with_both_sizes():
    with pytest.raises(PrecomputeError, match=r"a and b cannot be averaged.*input_size: \(96, 64\) and \(64, 96\)"):
        ensemble([constant_teacher("a", 1), constant_teacher("b", 1, (64, 96))])


@pytest.mark.parametrize(
    ("text", "name", "checkpoint"),
    [
        ("hrnet_w48=b.pth", "hrnet_w48", "b.pth"),
        ("onnx:a=b.onnx", "onnx:a=b.onnx", None),
        ("hrnet_w32", "hrnet_w32", None),
    ],
)
def test_a_member_is_named_as_on_the_command_line(text, name, checkpoint):
    found = parse_member(text)
    assert (found[0], found[1] and str(found[1])) == (name, checkpoint)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of tiny data with two teachers, and the exact store of each alone: the crop and its mirror."""
    data = tiny_precompute.write(tmp_path_factory.mktemp("data"))
    torch.manual_seed(1)
    other = build_hrnet("hrnet_w16_sample")
    torch.nn.init.normal_(other.final_layer.weight, std=2e7)
    save_file(other.state_dict(), data / "other.safetensors")
    alone = {}
    for weights in ("teacher", "other"):
        words = command(data, data / f"{weights}.zarr", "--codec", "float32")
        assert main([*words, "--checkpoint", str(data / f"{weights}.safetensors")]) == 0
        alone[weights] = cache.open_store(data / f"{weights}.zarr")
    return data, alone


def aligned(store):
    """(N, 17, h, w) float64: the mean of the crop's maps and its mirror's, brought back.

    Left and right are exchanged, and column u is the mirror's column w - u: heatmap pixel u lies at input pixel 4 u.
    column 0 takes the nearest that is there.
    """
    maps = store.heatmaps(range(len(store))).astype(np.float64)
    exchanged = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
    columns = np.minimum(maps.shape[-1] - np.arange(maps.shape[-1]), maps.shape[-1] - 1)
    return (maps[:, 0] + maps[:, 1][:, exchanged][..., columns]) / 2


@pytest.mark.parametrize("form", ["zarr", "h5"])
def test_the_store_of_an_ensemble_is_the_mean_of_its_members_stores_within_the_codec(made, tmp_path, form):
    data, alone = made
    path = tmp_path / f"both.{form}"
    member = f"hrnet_w16_sample={data / 'other.safetensors'}"
    assert main(command(data, path, "--flip-test", "--ensemble", member)) == 0
    both = cache.open_store(path)
    one, other = aligned(alone["teacher"]), aligned(alone["other"])
    mean, stored = (one + other) / 2, both.heatmaps(range(len(both)))[:, 0].astype(np.float64)
    assert min(one.max(), other.max()) > 0.5
    assert abs(one - other).max() > 0.5  # neither alone would pass for the mean

    floor, levels = both.manifest["spec"]["codec"]["floor"], both.manifest["spec"]["codec"]["levels"]
    peak = mean.max(axis=(2, 3), keepdims=True)
    speaks = peak > 2 * floor
    np.testing.assert_allclose(stored.max(axis=(2, 3), keepdims=True)[speaks], peak[speaks], rtol=1e-4)
    kept, gone = speaks & (mean > 1.01 * floor), mean < 0.99 * floor  # between them the last bit decides
    step = (np.maximum(peak, 2 * floor) ** 0.25 - floor**0.25) / (levels - 1)
    apart = abs(stored**0.25 - np.maximum(mean, 0) ** 0.25) / step
    assert apart[kept].max() < 1.01  # beside a peak, whose code is its own
    assert np.quantile(apart[kept], 0.99) < 0.51  # elsewhere
    assert (stored[gone] == 0).all()
    assert kept.sum() > 1000

    members = both.manifest["provenance"]["teacher"]["members"]
    weights = [store.manifest["provenance"]["teacher"]["weights_sha256"] for store in alone.values()]
    assert [m["weights_sha256"] for m in members] == weights
