"""Every layout loads strictly into the same weights; errors about wrong files name the reason."""

import os
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from kdcli.files import file_sha256
from precompute.teacher.checkpoint import CheckpointError, read_state_dict
from precompute.teacher.hrnet import HRNETS, PREFIXES, HRNetConfig, build_hrnet, load_hrnet
from tests.support.checkpoint_layouts import LAYOUTS, random_weights

SMALL = "hrnet_w16_sample"


@pytest.fixture(scope="module")
def weights():
    return random_weights(SMALL)


def saved(content, path):
    torch.save(content, path)
    return path


def assert_loads(weights, path):
    model = build_hrnet(SMALL)
    load_hrnet(model, path)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("write", LAYOUTS)
def test_every_layout_loads_strictly(write, weights, tmp_path):
    write(weights, tmp_path / "weights")
    assert_loads(weights, tmp_path / "weights")
    assert read_state_dict(tmp_path / "weights", PREFIXES).keys() == weights.keys()


def test_the_best_weights_are_preferred_to_the_last(weights, tmp_path):
    last = {f"module.{name}": tensor + 1 for name, tensor in weights.items()}
    assert_loads(weights, saved({"state_dict": last, "best_state_dict": weights}, tmp_path / "w.pth"))


def test_half_precision_files_are_widened(weights, tmp_path):
    half = {n: t.half() if t.is_floating_point() else t for n, t in weights.items()}
    save_file(half, tmp_path / "w.safetensors")
    state = read_state_dict(tmp_path / "w.safetensors")
    assert {t.dtype for t in state.values()} == {torch.float32, torch.int64}
    assert torch.equal(state["conv1.weight"], half["conv1.weight"].float())


def test_missing_step_counters_are_zero(weights, tmp_path):
    """Inference does not use them, and many exports leave them out."""
    without = {n: t for n, t in weights.items() if not n.endswith("num_batches_tracked")}
    assert_loads(weights, saved(without, tmp_path / "w.pth"))


def test_a_training_history_is_read_without_its_library(weights, tmp_path, monkeypatch):
    """A checkpoint of mmengine also pickles the loss history, with methods and numpy arrays."""

    class HistoryBuffer:
        def __init__(self):
            self.history, self.methods = np.arange(3.0), {"mean": HistoryBuffer.mean}

        def mean(self): ...

    module = types.ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = HistoryBuffer
    for thing, name in ((HistoryBuffer, "HistoryBuffer"), (HistoryBuffer.mean, "HistoryBuffer.mean")):
        thing.__module__, thing.__qualname__ = module.__name__, name
    with monkeypatch.context() as patch:
        for name in ("mmengine", "mmengine.logging", module.__name__):
            patch.setitem(sys.modules, name, module)
        path = saved({"state_dict": weights, "message_hub": {"loss": HistoryBuffer()}}, tmp_path / "w.pth")
    assert_loads(weights, path)


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("code-was-run",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_with_code_is_refused_and_not_run(weights, tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": weights, "x": RunsCode()}, "w.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"refused: besides tensors it holds `(posix|nt).mkdir`.*could run code"):
        read_state_dict("w.pth")
    assert not (tmp_path / "code-was-run").exists()


def test_a_whole_pickled_model_is_refused_with_the_way_out(tmp_path):
    path = saved(torch.nn.Conv2d(3, 4, 3), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"holds `torch.nn.modules.conv.Conv2d`.*save only the state dict"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"\n<!DOCTYPE html><html>Google Drive", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"no weights at all", "it starts with b'no weigh'; PyTorch .pth or safetensors is expected"),
        (b"PK\x03\x04" + bytes(500), "damaged or truncated"),
        (pickle.dumps(slice(1), protocol=2), "refused|not a checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_named(content, message, tmp_path):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_state_dict(tmp_path / "w.pth")


@pytest.mark.parametrize("write", LAYOUTS)
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.999])
def test_a_file_cut_short_is_named(write, keep, weights, tmp_path):
    path = tmp_path / ("w.safetensors" if write.__name__ == "safetensors" else "w.pth")
    write(weights, path)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(CheckpointError, match=r"truncated|not a complete safetensors file|a damaged one"):
        read_state_dict(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*nowhere\.pth"):
        read_state_dict(tmp_path / "nowhere.pth")
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*: Is a directory"):
        read_state_dict(tmp_path)


def test_an_onnx_file_given_as_a_checkpoint_names_the_right_flag(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"\x08\x07\x12\x05torch")
    with pytest.raises(CheckpointError, match=r"to use an ONNX file as the teacher, give --teacher onnx:.*net.onnx"):
        read_state_dict(tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list instead of weights"),
        ({}, "holds an empty dict instead of weights"),
        ({"epoch": 3, "loss": 0.5}, "no state dict: these entries are not tensors: epoch, loss"),
        (torch.ones(3), "holds a Tensor instead of weights"),
    ],
)
def test_a_checkpoint_without_weights_is_named(content, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        read_state_dict(saved(content, tmp_path / "w.pth"))


def test_differences_are_listed_with_counts_and_first_names(weights, tmp_path):
    wrong = dict(weights)
    for name in ("conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean"):
        del wrong[name]
    wrong["extra"] = torch.ones(1)
    wrong["conv2.weight"] = torch.ones(32, 16, 3, 3)
    with pytest.raises(CheckpointError) as caught:
        load_hrnet(build_hrnet(SMALL), saved(wrong, tmp_path / "w.pth"))
    assert str(caught.value) == (
        f"{tmp_path}/w.pth does not fit hrnet_w16_sample with 17 joints: "
        "4 missing: conv1.weight, bn1.weight, bn1.bias and 1 more; 1 unexpected: extra; "
        "1 of another shape: conv2.weight (32x16x3x3 instead of 32x32x3x3). "
        "It fits none of hrnet_w32, hrnet_w48, hrnet_w18_small, hrnet_w18_small_v2, hrnetv2_w18, "
        "hrnet_w16_sample"
    )


def test_a_file_that_does_not_fit_changes_nothing(weights, tmp_path):
    model = build_hrnet(SMALL)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wrong = {name: tensor for name, tensor in weights.items() if name != "final_layer.bias"}
    with pytest.raises(CheckpointError, match=r"1 missing: final_layer.bias"):
        load_hrnet(model, saved(wrong, tmp_path / "w.pth"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("name", "joints"), [("hrnet_w18_small", 17), (SMALL, 16)])
def test_the_teacher_that_would_fit_is_named(name, joints, tmp_path):
    path = saved(build_hrnet(name, joints).state_dict(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=f"fit {SMALL} with 17 joints: .* It fits {name} with {joints} joints"):
        load_hrnet(build_hrnet(SMALL), path)


def test_a_smaller_teacher_that_would_fit_is_named(weights, tmp_path):
    """The larger network has batch norms that the file lacks; the hint must not count them as the file's."""
    with pytest.raises(CheckpointError, match=f"It fits {SMALL} with 17 joints"):
        load_hrnet(build_hrnet("hrnet_w18_small_v2"), saved(weights, tmp_path / "w.pth"))


def test_an_imagenet_backbone_is_named(weights, tmp_path):
    backbone = {n: t for n, t in weights.items() if not n.startswith("final_layer")}
    backbone |= {"incre_modules.0.0.conv1.weight": torch.ones(1), "classifier.weight": torch.ones(1)}
    with pytest.raises(CheckpointError, match=r"an HRNet backbone without a pose head .*; a pose checkpoint is needed"):
        load_hrnet(build_hrnet(SMALL), saved(backbone, tmp_path / "w.pth"))


def test_weights_that_are_not_finite_are_named(weights, tmp_path):
    wrong = weights | {"bn1.bias": torch.full((32,), torch.nan)}
    with pytest.raises(CheckpointError, match=r"1 weights hold NaN or infinity: bn1.bias"):
        load_hrnet(build_hrnet(SMALL), saved(wrong, tmp_path / "w.pth"))


def test_the_hash_is_that_of_the_bytes(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("old", [True, False])
def test_mmpose_keeps_the_head_of_an_hrnetv2_in_one_list_or_in_two_parts(old, tmp_path, monkeypatch):
    """A small one: the names are those of any width."""
    monkeypatch.setitem(HRNETS, "small", HRNetConfig((2, 3, 4, 5), (1, 1, 1), blocks=1, stage1_blocks=1, fused=True))
    model, expected, weights = build_hrnet("small", 21), random_weights("small", 21), {}
    for name, tensor in expected.items():
        part = next((part for part in ("conv_layers.", "final_layer.") if name.startswith(part)), None)
        place = {"conv_layers.": "final_layer.", "final_layer.": "final_layer.3."} if old else {}
        renamed = name if part is None else place.get(part, part) + name.removeprefix(part)
        weights[f"backbone.{name}" if part is None else f"{'keypoint_head' if old else 'head'}.{renamed}"] = tensor
    torch.save({"meta": {}, "state_dict": weights}, tmp_path / "w.pth")
    load_hrnet(model, tmp_path / "w.pth")
    for name, tensor in expected.items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=0)
