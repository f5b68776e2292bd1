"""Weights are found behind any prefix and in any dict, and only where they fit exactly; a guess is refused."""

import argparse
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from precompute.teacher.checkpoint import CheckpointError, read_state_dict
from precompute.teacher.hrnet import build_hrnet, load_hrnet
from precompute.teacher.matching import find_weights
from tests.support.checkpoint_layouts import _mmpose, random_weights

SMALL = "hrnet_w16_sample"


@pytest.fixture(scope="module")
def weights():
    return random_weights(SMALL)


def changed(weights):
    return {name: tensor + 1 for name, tensor in weights.items()}


def behind(prefix, weights):
    return {prefix + name: tensor for name, tensor in weights.items()}


def load(content, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    model = build_hrnet(SMALL)
    load_hrnet(model, tmp_path / "w.pth")
    return model.state_dict()


def assert_equal(found, weights):
    assert found.keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in found.items())


PREFIXES = [
    *("model.", "_orig_mod.", "module.module.", "ema.", "ema_model.", "ema_model.module.", "module._orig_mod."),
    *("_orig_mod.module.", "model._orig_mod.", "net.", "student.model.", "pose_net.", "module.ema.module."),
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("head", ["", "head", "keypoint_head"])
def test_any_prefix_is_removed(weights, tmp_path, prefix, head):
    assert_equal(load(behind(prefix, _mmpose(weights, head) if head else weights), tmp_path), weights)


@pytest.mark.parametrize(
    "keys", [*(("model",), ("net",), ("weights",), ("state_dict_ema",), ("model_ema",), ("ema_state_dict",))]
)
@pytest.mark.parametrize("prefix", ["", "module.", "model._orig_mod."])
def test_any_dict_is_looked_into(weights, tmp_path, keys, prefix):
    content = {"epoch": 3, "args": argparse.Namespace(lr=1.0, out=Path("runs")), keys[0]: behind(prefix, weights)}
    content["optimizer"] = {"state": {0: {"exp_avg": torch.zeros(3)}}, "exp_avg": behind(prefix, weights)}
    assert_equal(load(content, tmp_path), weights)


def test_dicts_in_dicts_and_entries_beside_the_weights(weights, tmp_path):
    assert_equal(load({"checkpoint": {"model": {"state": behind("module.", weights)}}}, tmp_path), weights)
    assert_equal(load({**weights, "epoch": 3, "name": "hrnet"}, tmp_path), weights)
    averaged = {"n_averaged": torch.tensor(7), **behind("module.", weights)}  # of torch's AveragedModel
    assert_equal(load({"model": averaged}, tmp_path), weights)
    mmcv = _mmpose(weights, "keypoint_head")
    copies = {"ema_" + name.replace(".", "_"): tensor for name, tensor in changed(mmcv).items()}
    assert_equal(load({"state_dict": {**mmcv, **copies}}, tmp_path), weights)
    sharded = {name.replace("stage3.", "stage3._fsdp_wrapped_module."): tensor for name, tensor in weights.items()}
    compiled = {name.replace("layer1.0.", "layer1._orig_mod.0."): tensor for name, tensor in sharded.items()}
    assert_equal(load(compiled, tmp_path), weights)


def test_safetensors_with_a_prefix(weights, tmp_path):
    save_file({name: tensor.contiguous() for name, tensor in behind("model.", weights).items()}, tmp_path / "w")
    model = build_hrnet(SMALL)
    load_hrnet(model, tmp_path / "w")
    assert_equal(model.state_dict(), weights)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(st.sampled_from(["module", "_orig_mod", "model", "ema_model", "a", "conv1", "layer1"]), max_size=4),
    keys=st.lists(st.sampled_from(["state_dict", "model", "x"]), max_size=3),
)
def test_every_combination_is_found_and_changes_nothing(parts, keys):
    target = {"conv1.weight": (3, 2), "layer1.conv1.weight": (4,), "head.bias": (1, 5), "head.weight": (2, 2, 2)}
    weights = {name: torch.arange(float(torch.Size(shape).numel())).view(shape) for name, shape in target.items()}
    content = behind("".join(f"{part}." for part in parts), weights)
    for key in reversed(keys):
        content = {key: content}
    (found,) = find_weights(content, target, ())
    assert_equal(found.weights, weights)


# --- several sets of weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        lambda w, a: {"state_dict": w, "state_dict_ema": a},
        lambda w, a: {"model_ema": a, "model": w},
        lambda w, a: {**behind("ema_model.module.", a), **behind("model.", w)},
        lambda w, a: {"params_ema": behind("module.", a), "params": w},
    ],
)
def test_weights_are_preferred_to_their_average_which_is_said(weights, tmp_path, capsys, content):
    assert_equal(load(content(weights, changed(weights)), tmp_path), weights)
    assert "also holds a moving average of the weights, which is not used" in capsys.readouterr().err


def test_equal_copies_are_one(weights, tmp_path, capsys):
    assert_equal(load({"model": weights, "net": behind("module.", weights), "ema": weights}, tmp_path), weights)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("content", "places"),
    [
        (lambda w, a: {**behind("student.", w), **behind("teacher.", a)}, "at 'student.', 'teacher.'"),
        (lambda w, a: {"net": w, "model": behind("module.", a)}, "at 'net', 'model'"),
    ],
)
def test_a_choice_that_would_be_a_guess_is_refused(weights, tmp_path, content, places):
    with pytest.raises(CheckpointError, match=f"holds several sets of weights that fit {SMALL} .*{places}; save the"):
        load(content(weights, changed(weights)), tmp_path)


# --- what does not fit ------------------------------------------------------------------------------------------------


def test_weights_that_are_not_used_are_named(weights, tmp_path):
    with pytest.raises(CheckpointError, match=r"1 unexpected: criterion\.weight"):
        load({**behind("model.", weights), "criterion.weight": torch.ones(17)}, tmp_path)


def test_what_is_missing_behind_a_prefix_is_named_without_it(weights, tmp_path):
    del (cut := dict(weights))["final_layer.bias"]
    with pytest.raises(CheckpointError, match=r"17 joints: 1 missing: final_layer.bias\. It fits none of"):
        load({"net": behind("ema.", cut)}, tmp_path)


def test_the_network_that_would_fit_behind_the_prefix_is_named(tmp_path):
    other = build_hrnet("hrnet_w18_small", 16).state_dict()
    with pytest.raises(CheckpointError, match="It fits hrnet_w18_small with 16 joints"):
        load({"model": behind("_orig_mod.", other)}, tmp_path)


# --- files that hold programs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_whole_pickled_model_is_named_as_one(tmp_path, zipped, wrapped):
    model = build_hrnet(SMALL)
    content = {"epoch": 1, "model": model} if wrapped else model
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        CheckpointError, match=r"a whole pickled model, .* `precompute.teacher.hrnet.HRNet`.*state_dict"
    ):
        read_state_dict(tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_a_torchscript_archive_is_named_as_one(tmp_path):
    torch.jit.save(torch.jit.trace(torch.nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 9)), tmp_path / "w.pth")
    with pytest.raises(
        CheckpointError, match=r"is a TorchScript archive .*torch.jit.load\(FILE\).state_dict\(\), NEW\)"
    ):
        read_state_dict(tmp_path / "w.pth")


def test_an_archive_of_torch_export_is_named_as_one(tmp_path):
    torch.export.save(torch.export.export(torch.nn.Linear(3, 4), (torch.zeros(1, 3),)), tmp_path / "w.pt2")
    (tmp_path / "w.pt2").rename(tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"is an archive of torch.export, .*torch.export.load\(FILE\).state_dict"):
        read_state_dict(tmp_path / "w.pth")
