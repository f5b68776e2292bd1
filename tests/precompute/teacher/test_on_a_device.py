"""What a batch of the teacher asks of a GPU, on fake CUDA tensors; the same computation on the CPU for its numbers."""

import contextlib
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from kdlib.machine.device import TEACHER_PRECISIONS, choose_precision
from precompute.sample import train_teacher
from precompute.teacher import passes
from precompute.teacher.architecture import TorchNetwork
from precompute.teacher.hrnet import HRNET, build_hrnet
from precompute.teacher.loading import Teacher
from tests.support.fake_cuda import CUDA, fake_cuda

WEIGHTS = Path(train_teacher.__file__).with_name("hrnet_w16_sample.safetensors")
SIZE = (64, 96)
"""Width and height of the crops."""
BUDGET = {"hrnet_w32": 754, "hrnet_w16_sample": 159}
"""Most kernels of one batch with flip test."""


def crops(views=1):
    return np.random.default_rng(0).integers(0, 256, (3, views, SIZE[1], SIZE[0], 3), dtype=np.uint8)


def network(name, device, precision):
    return TorchNetwork(HRNET, build_hrnet(name), SIZE, device, precision)


def trained(precision):
    """The sample's teacher on the CPU: heatmaps of random weights would be about 0."""
    model = build_hrnet("hrnet_w16_sample")
    HRNET.load_weights(model, WEIGHTS)
    return TorchNetwork(HRNET, model, SIZE, torch.device("cpu"), precision)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(("name", "views"), [("hrnet_w16_sample", 1), ("hrnet_w16_sample", 2), ("hrnet_w32", 1)])
def test_a_batch_goes_up_once_comes_down_once_and_nothing_waits(name, views, precision):
    with fake_cuda() as device:
        made = network(name, CUDA, precision)
        assert made.is_asynchronous
        made.launch(crops(views), flip_test=True)  # the first one creates constants
        with device.recording():
            made.launch(crops(views), flip_test=True)
        assert (len(device.uploads), len(device.downloads), device.synchronisations) == (1, 1, [])
        assert 0 < device.operators <= BUDGET[name]
        torch.cuda.Event.assert_called_with(blocking=True)  # another one spins on a core while the host waits


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_graph_starts_full_batches_and_others_run_without_it(precision):
    with fake_cuda() as device:
        made = network("hrnet_w16_sample", CUDA, precision)
        made.capture(crops().shape, flip_test=True)
        (graph,) = device.graphs
        for batch, flip_test, replays in ((crops(), True, 1), (crops()[:2], True, 0), (crops(), False, 0)):
            before = graph.replays
            with device.recording():
                made.launch(batch, flip_test=flip_test)
            assert graph.replays - before == replays
            assert (len(device.uploads), len(device.downloads), device.synchronisations) == (1, 1, [])
            assert (device.operators == 0) == (replays == 1)
        with device.recording():
            made.compute(torch.from_numpy(crops()), flip_test=True)
        assert graph.kernels == device.operators > 0


def test_a_graph_can_be_replaced_and_discarded():
    with fake_cuda() as device:
        made = network("hrnet_w16_sample", CUDA, "fp32")
        for views in (1, 2):
            made.capture(crops(views).shape, flip_test=False)
        for views in (1, 2):
            made.launch(crops(views), flip_test=False)
        assert [graph.replays for graph in device.graphs] == [0, 1]
        made.discard_capture()
        made.launch(crops(2), flip_test=False)
        assert device.graphs[1].replays == 1
        assert not made.is_captured


def test_a_pass_that_waits_for_the_device_cannot_be_recorded(monkeypatch):
    with fake_cuda() as device:
        made = network("hrnet_w16_sample", CUDA, "fp32")
        run = made.run
        monkeypatch.setattr(made, "run", lambda images: run(images).cpu().to(CUDA))
        with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
            made.capture(crops().shape, flip_test=True)
        assert (made.is_captured, device.graphs) == (False, [])


def on_the_cpu(monkeypatch):
    """Let `launch` run on the CPU; a graph runs its function again, into the output that it has recorded."""

    def record(compute):
        maps = torch.zeros_like(compute())
        return lambda: maps.copy_(compute()), maps

    monkeypatch.setattr(passes, "record", record)
    monkeypatch.setattr(passes, "_pinned_like", lambda maps: maps.clone())
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "Event", mock.MagicMock)


@pytest.mark.parametrize("views", [1, 2])
def test_the_maps_of_a_graph_are_those_without_it(monkeypatch, views):
    on_the_cpu(monkeypatch)
    made = trained("fp32")
    batches = [crops(views), crops(views)[::-1].copy(), crops(views)[:2]]
    expected = [made.launch(batch, flip_test=True)() for batch in batches]
    made.capture(batches[0].shape, flip_test=True)
    launched = [made.launch(batch, flip_test=True) for batch in batches]  # all in flight before the first is read
    for wait, maps in zip(launched, expected, strict=True):
        np.testing.assert_array_equal(wait(), maps)
    assert not np.array_equal(expected[0], expected[1])


@pytest.mark.parametrize("flip_test", [False, True])
def test_the_maps_of_one_large_pass_are_those_of_one_pass_per_view(flip_test):
    made = trained("fp32")
    assert not made.is_asynchronous
    teacher = Teacher("t", SIZE, made.heatmap_size, 17, "", "fp32", "cpu", made)
    expected = teacher.launch(crops(2), flip_test=flip_test)()
    found = made.compute(torch.from_numpy(crops(2)), flip_test=flip_test).numpy().reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("capability", "of_teacher", "of_student"),
    [((6, 1), "fp32", "fp32"), ((7, 0), "fp16", "fp32"), ((7, 5), "fp16", "fp32"), ((8, 0), "bf16", "bf16")],
)
def test_auto_takes_the_tensor_cores_of_the_gpu(monkeypatch, capability, of_teacher, of_student):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert choose_precision("auto", CUDA, TEACHER_PRECISIONS) == of_teacher
    assert choose_precision("auto", CUDA) == of_student


def test_heatmaps_in_fp16_are_those_in_fp32_up_to_its_rounding():
    maps = {precision: trained(precision)(crops()[:, 0]) for precision in ("fp32", "fp16")}
    assert maps["fp16"].dtype == np.float32
    difference = np.abs(maps["fp16"] - maps["fp32"]).max()
    assert 0 < difference < 0.02 * np.abs(maps["fp32"]).max()
