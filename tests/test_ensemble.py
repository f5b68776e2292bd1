"""Several teachers become one: the mean of their maps, and an identity made of theirs."""

import hashlib

import numpy as np
import pytest

from precompute.ensemble import ensemble, parse_member
from precompute.errors import PrecomputeError
from precompute.teacher import Teacher


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
