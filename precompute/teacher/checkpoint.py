"""HRNet pose checkpoints of every known layout, loaded strictly: every weight finds its place, or nothing is loaded.

| layout | what it looks like |
|---|---|
| official zoo | flat: `conv1.weight`, ..., `final_layer.bias` |
| official training | `{"epoch", "perf", "optimizer", "state_dict": {"module.conv1.weight", ...}, "best_state_dict"}` |
| mmpose 0.x | `{"meta", "state_dict": {"backbone.conv1.weight", ..., "keypoint_head.final_layer.weight", ...}}` |
| mmpose 1.x | the same with `head.final_layer.*`, `data_preprocessor.mean` and `.std`, and the training history |
| safetensors | any of these names, flat |

Where a file has both, `best_state_dict` is preferred to `state_dict`. (The official code writes the same weights into
both; where another program distinguishes them, the best ones are what a teacher should have.)
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from precompute.teacher.hrnet import HRNETS, HRNet, build_hrnet
from precompute.teacher.weights_file import CheckpointError, file_sha256, read_weights_file

__all__ = ["CheckpointError", "file_sha256", "load_weights", "read_state_dict"]

_WRAPPERS = ("best_state_dict", "state_dict")
_PREFIXES = ("module.", "backbone.", "keypoint_head.", "head.")  # taken off in this order
_IGNORED = "data_preprocessor."  # mmpose 1.x keeps the normalisation's mean and std beside the weights
_COUNTER = ".num_batches_tracked"  # batch norm's step counter: no part of the function; some exports leave it out
_SHOWN = 3

Shapes = dict[str, tuple[int, ...]]


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The weights in a checkpoint of any known layout, under the official names, on the CPU.

    Returns:
        Name -> tensor; floating-point tensors as float32 (half-precision files are widened), counters as they are.

    Raises:
        CheckpointError: If the file cannot be read or holds no weights.
    """
    weights = _unwrap(read_weights_file(path), Path(path))
    named = {_official_name(key): tensor for key, tensor in weights.items()}
    kept = {name: tensor for name, tensor in named.items() if not name.startswith(_IGNORED)}
    return {name: t.float() if t.is_floating_point() else t for name, t in kept.items()}


def load_weights(model: HRNet, path: str | Path) -> None:
    """Fill `model` with the weights of a checkpoint; the model is unchanged if they do not fit it exactly.

    Raises:
        CheckpointError: If the file cannot be read; if weights are missing, too many, of other shapes or not finite.
            The message gives names and counts, and the registered HRNet that would fit.
    """
    weights = read_state_dict(path)
    target = model.state_dict()
    weights |= {k: torch.zeros_like(t) for k, t in target.items() if k.endswith(_COUNTER) and k not in weights}
    difference = _difference(_shapes(target), _shapes(weights))
    if difference:
        raise CheckpointError(f"{path} does not fit {_name_of(model)}: {difference}. {_advice(weights)}")
    _check_finite(weights, Path(path))
    model.load_state_dict(weights, strict=True)


def _unwrap(content: Any, path: Path) -> Mapping[str, Tensor]:
    """The state dict inside a file's content."""
    found = content
    if isinstance(content, Mapping):
        found = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), content)
    if not isinstance(found, Mapping) or not found:
        raise CheckpointError(f"{path} holds no weights but {_brief(content)}")
    others = [str(key) for key, value in found.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if others:
        raise CheckpointError(f"{path} holds no state dict: not tensors are {_listing(others)}")
    return found


def _brief(content: Any) -> str:
    return f"a {type(content).__name__}" + (" that is empty" if isinstance(content, Mapping) else "")


def _official_name(key: str) -> str:
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    return key


def _shapes(weights: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def _difference(wanted: Shapes, found: Shapes) -> str:
    """In words, how the found weights differ from the wanted ones; empty if they do not."""
    missing = [name for name in wanted if name not in found]
    unexpected = [name for name in found if name not in wanted]
    reshaped = [name for name in wanted if name in found and wanted[name] != found[name]]
    shapes = [f"{name} ({_times(found[name])} instead of {_times(wanted[name])})" for name in reshaped]
    parts = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    return "; ".join(f"{len(names)} {what}: {_listing(names)}" for what, names in parts if names)


def _times(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _listing(names: list[str]) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _advice(weights: Mapping[str, Tensor]) -> str:
    """Which network the weights belong to, as far as their names and shapes tell."""
    if "stage4.0.branches.0.0.conv1.weight" in weights and "final_layer.weight" not in weights:
        return "It is an HRNet backbone without a pose head (from ImageNet?); a pose checkpoint is needed"
    for name in HRNETS:
        joints = _joints_if_it_fits(name, _shapes(weights))
        if joints:
            return f"It fits {name} with {joints} joints"
    return f"It fits none of {', '.join(HRNETS)}"


def _joints_if_it_fits(name: str, found: Shapes) -> int | None:
    """The number of joints with which the named HRNet takes weights of these shapes, or None."""
    bias = found.get("final_layer.bias", ())
    if len(bias) != 1:
        return None
    joints = bias[0]
    with torch.device("meta"):
        wanted = _shapes(build_hrnet(name, joints).state_dict())
    counters = {key: () for key in wanted if key.endswith(_COUNTER)}
    return joints if wanted == counters | found else None


def _name_of(model: HRNet) -> str:
    name = next((name for name, config in HRNETS.items() if config == model.config), "this HRNet")
    return f"{name} with {model.joints} joints"


def _check_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    bad = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise CheckpointError(f"{path}: {len(bad)} weights hold NaN or infinity: {_listing(bad)}")
