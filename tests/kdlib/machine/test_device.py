"""The device and precision that flags choose, for each kind of machine."""

import pytest
import torch

from kdlib.errors import KdlibError
from kdlib.machine import device
from kdlib.machine.device import TEACHER_PRECISIONS, choose_device, choose_precision, forbid_tf32, uses_tf32

OWNERS = (torch.backends.cudnn, torch.backends.cuda.matmul)


@pytest.fixture
def machine(monkeypatch):
    """A machine with these devices; returns the function that sets them."""

    def have(*, cuda=False, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: int(cuda))
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return have


@pytest.mark.parametrize(
    ("devices", "chosen"),
    [({}, "cpu"), ({"mps": True}, "mps"), ({"cuda": True}, "cuda"), ({"cuda": True, "mps": True}, "cuda")],
)
def test_auto_takes_cuda_then_mps_then_the_cpu(machine, devices, chosen):
    machine(**devices)
    assert choose_device("auto") == torch.device(chosen)
    for name in {"cpu", chosen}:
        assert choose_device(name) == torch.device(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mps", "no device mps here: torch .*; give --device cpu"),
        ("cuda", "no device cuda here: torch .* finds 0 CUDA devices"),
        ("mps:1", "unknown device 'mps:1'; choose auto, cpu, mps, cuda or cuda:N"),
        ("metal", "unknown device 'metal'"),
    ],
)
def test_a_device_that_is_not_there_is_refused(machine, name, message):
    machine()
    with pytest.raises(KdlibError, match=message):
        choose_device(name)


def test_a_mac_computes_in_float32_unless_it_is_asked_for_less(monkeypatch):
    mps = torch.device("mps")
    for available in (device.PRECISIONS, TEACHER_PRECISIONS):
        assert choose_precision("auto", mps, available) == "fp32"
    assert choose_precision("fp16", mps, TEACHER_PRECISIONS) == "fp16"
    monkeypatch.setattr(device, "_mps_has_bf16", lambda: True)
    assert choose_precision("bf16", mps) == "bf16"
    monkeypatch.setattr(device, "_mps_has_bf16", lambda: False)
    with pytest.raises(KdlibError, match="no bf16 on its GPU, which needs macOS 14; give --precision fp32"):
        choose_precision("bf16", mps)


@pytest.mark.parametrize("allowed", OWNERS, ids=["convolutions", "products"])
def test_neither_convolutions_nor_products_use_tf32(allowed):
    before = [owner.allow_tf32 for owner in OWNERS]
    try:
        for owner in OWNERS:
            owner.allow_tf32 = owner is allowed
        assert uses_tf32()
        forbid_tf32()
        assert [owner.allow_tf32 for owner in OWNERS] == [False, False]
        assert not uses_tf32()
    finally:
        for owner, value in zip(OWNERS, before, strict=True):
            owner.allow_tf32 = value
