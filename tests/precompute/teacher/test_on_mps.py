"""A teacher on the GPU of a Mac, on tensors that compute on the CPU: the same heatmaps, and none in float64."""

import numpy as np
import pytest
import torch

from precompute.teacher.architecture import TorchNetwork
from precompute.teacher.hrnet import HRNET, build_hrnet
from precompute.teacher.loading import Teacher
from precompute.teacher.onnx import _choose_device
from tests.support.machines.fake_mps import MPS, fake_mps

SIZE = (64, 96)
"""Width and height of the crops."""


def teacher(device):
    torch.manual_seed(0)
    network = TorchNetwork(HRNET, build_hrnet("hrnet_w16_sample"), SIZE, device, "fp32")
    return Teacher("t", SIZE, network.heatmap_size, 17, "", "fp32", network.device, network)


def test_the_heatmaps_are_those_of_the_cpu():
    crops = np.random.default_rng(0).integers(0, 256, (3, 2, SIZE[1], SIZE[0], 3), dtype=np.uint8)
    expected = teacher(torch.device("cpu")).launch(crops, flip_test=True)()
    with fake_mps() as device:
        made = teacher(MPS)
        assert not made.network.is_asynchronous
        found = made.launch(crops, flip_test=True)()
    assert device.functions["conv2d"]
    assert torch.float64 not in device.dtypes
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, expected)


def test_onnx_teachers_run_on_the_cpu_of_a_mac():
    with fake_mps():
        assert _choose_device("auto", "auto", ["CPUExecutionProvider"]) == (torch.device("cpu"), "cpu")
        with pytest.raises(ValueError, match="do not run on the GPU of a Mac; give --device cpu"):
            _choose_device("mps", "auto", ["CPUExecutionProvider"])
