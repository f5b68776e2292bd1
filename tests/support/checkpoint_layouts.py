"""Writes HRNet weights in every layout that published pose checkpoints use."""

from collections import OrderedDict

import numpy as np
import torch
from safetensors.torch import save_file

from precompute.teacher.hrnet import build_hrnet


def random_weights(name, joints=17):
    """Weights of an HRNet; every tensor differs from a fresh network's."""
    generator = torch.Generator().manual_seed(0)
    state = build_hrnet(name, joints).state_dict()
    for key, tensor in state.items():
        if tensor.is_floating_point():
            state[key] = torch.rand(tensor.shape, generator=generator) + 0.1
    return state


def _prefixed(weights, prefix):
    return OrderedDict((prefix + name, tensor) for name, tensor in weights.items())


def _mmpose(weights, head):
    head_names = {name for name in weights if name.startswith("final_layer.")}
    renamed = ((f"{head}.{n}" if n in head_names else f"backbone.{n}", t) for n, t in weights.items())
    return OrderedDict(renamed)


def official_flat(weights, path):
    torch.save(OrderedDict(weights), path)


def official_flat_before_torch_1_6(weights, path):
    """The format of 2019, which the files of the official zoo have."""
    torch.save(OrderedDict(weights), path, _use_new_zipfile_serialization=False)


def official_training(weights, path):
    """The file of the official `tools/train.py`, with AP as the numpy scalar that pycocotools returns."""
    torch.save(
        {
            "epoch": 210,
            "model": "pose_hrnet",
            "state_dict": _prefixed(weights, "module."),
            "best_state_dict": OrderedDict(weights),
            "perf": np.float64(0.744),
            "optimizer": {"state": {0: {"step": 1, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-5}]},
        },
        path,
    )


def training_without_best(weights, path):
    torch.save({"epoch": 3, "state_dict": _prefixed(weights, "module.")}, path)


def mmpose_0(weights, path):
    torch.save({"meta": {"epoch": 210, "config": "x = 1"}, "state_dict": _mmpose(weights, "keypoint_head")}, path)


def mmpose_1(weights, path):
    state = _mmpose(weights, "head")
    state["data_preprocessor.mean"] = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
    state["data_preprocessor.std"] = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
    torch.save({"meta": {"dataset_meta": {"sigmas": np.ones(17, np.float32)}}, "state_dict": state}, path)


def safetensors(weights, path):
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)


LAYOUTS = (
    official_flat,
    official_flat_before_torch_1_6,
    official_training,
    training_without_best,
    mmpose_0,
    mmpose_1,
    safetensors,
)
