"""Pose checkpoints of every known layout, loaded strictly: every weight is used, or nothing is loaded.

| layout | contents |
|---|---|
| official zoo | flat: `conv1.weight`, ..., `final_layer.bias` |
| official training | `{"epoch", "perf", "optimizer", "state_dict": {"module.conv1.weight", ...}, "best_state_dict"}` |
| mmpose 0.x | `{"meta", "state_dict": {"backbone.conv1.weight", ..., "keypoint_head.final_layer.weight", ...}}` |
| mmpose 1.x | the same with `head.final_layer.*`, `data_preprocessor.mean` and `.std`, and the training history |
| safetensors | any of these names, flat |
| other programs | the weights in other dicts (`model`, `net`, ...), behind other prefixes (`_orig_mod.`, `ema.`, ...) |

If a file has both, `best_state_dict` is preferred to `state_dict`. (The official code writes the same weights
into both; a program that distinguishes them keeps its best weights there.) Weights are preferred to their moving
average. The last row of the table is for `load_weights`, which knows the names of the network
(`precompute.teacher.matching`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdcli.progress import say
from precompute.teacher.matching import (
    COUNTER,
    WRAPPERS,
    Found,
    Shapes,
    closest_weights,
    count_maps,
    find_weights,
    overlap,
)
from precompute.teacher.weights_file import CheckpointError, read_weights_file

__all__ = ["COUNTER", "CheckpointError", "Shapes", "load_weights", "read_head", "read_state_dict", "shapes_of"]

_OFFICIAL = tuple((key,) for key in WRAPPERS)
_PREFIXES = ("module.",)  # of torch.nn.DataParallel
_IGNORED = "data_preprocessor."  # mmpose 1.x keeps the normalisation's mean and std beside the weights
_SHOWN = 3


def read_state_dict(path: str | Path, prefixes: Sequence[str] = _PREFIXES) -> dict[str, Tensor]:
    """Read the weights of a checkpoint of any known layout, on the CPU.

    Args:
        path: A `.pth` or safetensors file.
        prefixes: Prefixes to remove from the names, in this order.

    Returns:
        Name -> tensor. Floating-point tensors are float32 (half-precision files are widened); counters are unchanged.

    Raises:
        CheckpointError: If the file cannot be read or holds no weights.
    """
    return _widened(_usual_weights(read_weights_file(path), Path(path), prefixes))


def load_weights(
    model: nn.Module,
    path: str | Path,
    *,
    read: Callable[[str | Path], dict[str, Tensor]] | None = None,
    prefixes: Sequence[str] = _PREFIXES,
    name: str = "this network",
    advice: Callable[[Mapping[str, Tensor]], str] | None = None,
) -> None:
    """Fill `model` with the weights of a checkpoint. The model stays unchanged if they do not fit it exactly.

    Args:
        model: The network.
        path: A `.pth` or safetensors file.
        read: Reads the file into a state dict with the names of the model; None finds the weights in any dict of the
            file and behind any prefix.
        prefixes: Prefixes of parts of the model, without `read`, such as `backbone.`; they are removed in this order.
        name: What the error message calls the model.
        advice: Returns a sentence for the error message from weights that do not fit.

    Raises:
        CheckpointError: If the file cannot be read, if weights are missing, unexpected, of other shapes or not finite,
            or if several sets of weights fit. The message gives names and counts.
    """
    target = model.state_dict()
    found = read(path) if read else _widened(_fitting_weights(Path(path), shapes_of(target), prefixes, name))
    weights = found | {k: torch.zeros_like(t) for k, t in target.items() if k.endswith(COUNTER) and k not in found}
    difference = _difference(shapes_of(target), shapes_of(weights))
    if difference:
        hint = f". {advice(found)}" if advice else ""
        raise CheckpointError(f"{path} does not fit {name}: {difference}{hint}")
    _check_finite(weights, Path(path))
    model.load_state_dict(weights, strict=True)


def read_head(path: str | Path, axes: Mapping[str, int]) -> tuple[int | None, tuple[str, ...]]:
    """Read what a checkpoint states about its heatmaps, before a network is built for it.

    Args:
        path: A `.pth` or safetensors file.
        axes: As in `precompute.teacher.matching.count_maps`.

    Returns:
        The number of heatmaps, or None if the file does not show it; and the names of the joints, which mmpose 1.x
        keeps in `meta.dataset_meta.keypoint_id2name`, or none.
    """
    try:
        content = read_weights_file(path)
    except CheckpointError:  # `Architecture.load_weights` reports it, or reads another kind of file
        return None, ()
    names: Any = content if isinstance(content, Mapping) else {}
    for key in ("meta", "dataset_meta", "keypoint_id2name"):
        names = names.get(key) if isinstance(names.get(key), Mapping) else {}
    joints = tuple(names[number] for number in range(len(names)) if isinstance(names.get(number), str))
    return count_maps(content, axes), joints


def shapes_of(weights: Mapping[str, Tensor]) -> Shapes:
    """Shapes of the tensors of a state dict."""
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def _widened(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}


def _fitting_weights(path: Path, target: Shapes, prefixes: Sequence[str], name: str) -> Mapping[str, Tensor]:
    """The weights in a file that fit the model, or, if none fit, those that are closest to it."""
    content = read_weights_file(path)
    found = find_weights(content, target, prefixes)
    if found:
        return _prefer(found, path, name).weights
    closest = closest_weights(content, target, prefixes)
    try:
        usual = _usual_weights(content, path, prefixes)
    except CheckpointError:
        if not closest:
            raise
        return closest
    return closest if overlap(closest, target) > overlap(usual, target) else usual


def _prefer(found: list[Found], path: Path, name: str) -> Found:
    """Choose one of several sets of weights that fit, or raise `CheckpointError` if the choice would be a guess."""
    plain = [one for one in found if not one.is_average] or found
    first = plain[0]
    is_official = first.keys[:1] in _OFFICIAL  # these dicts have an order of preference
    rivals = [one for one in plain[1:] if not (is_official and one.keys != first.keys) and not first.equals(one)]
    if rivals:
        places = ", ".join(repr(one.place) for one in (first, *rivals))
        raise CheckpointError(
            f"{path} holds several sets of weights that fit {name}, at {places}; save the right one alone, as a state "
            "dict: torch.save(STATE_DICT, FILE)"
        )
    averages = [one.place for one in found if one.is_average and not first.is_average and not first.equals(one)]
    if averages:
        say(
            f"{path} also holds a moving average of the weights, which is not used: {', '.join(averages)}. To use it, "
            "save it alone, as a state dict"
        )
    return first


def _usual_weights(content: Any, path: Path, prefixes: Sequence[str]) -> dict[str, Tensor]:
    """The weights where the official training and mmpose keep them, without the prefixes."""
    named = {_remove_prefixes(prefixes, key): tensor for key, tensor in _unwrap(content, path).items()}
    return {name: tensor for name, tensor in named.items() if not name.startswith(_IGNORED)}


def _unwrap(content: Any, path: Path) -> Mapping[str, Tensor]:
    """Find the state dict in the content of a file."""
    found = content
    if isinstance(content, Mapping):
        found = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), content)
    if not isinstance(found, Mapping) or not found:
        raise CheckpointError(f"{path} holds {_describe_type(content)} instead of weights")
    others = [str(key) for key, value in found.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if others:
        raise CheckpointError(f"{path} holds no state dict: these entries are not tensors: {_listing(others)}")
    return found


def _describe_type(content: Any) -> str:
    return f"a{'n empty' if isinstance(content, Mapping) else ''} {type(content).__name__}"


def _remove_prefixes(prefixes: Sequence[str], key: str) -> str:
    for prefix in prefixes:
        key = key.removeprefix(prefix)
    return key


def _difference(wanted: Shapes, found: Shapes) -> str:
    """Describe how the found weights differ from the wanted ones; an empty text if they are equal."""
    missing = [name for name in wanted if name not in found]
    unexpected = [name for name in found if name not in wanted]
    reshaped = [name for name in wanted if name in found and wanted[name] != found[name]]
    shapes = [f"{name} ({_format_shape(found[name])} instead of {_format_shape(wanted[name])})" for name in reshaped]
    parts = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    return "; ".join(f"{len(names)} {what}: {_listing(names)}" for what, names in parts if names)


def _format_shape(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _listing(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _check_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    bad = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise CheckpointError(f"{path}: {len(bad)} weights hold NaN or infinity: {_listing(bad)}")
