"""Finds the weights of a known network in a checkpoint: inside wrapping dicts, and behind prefixes of the names.

Training programs wrap and prefix a state dict in many ways: `{"model": ...}`, `module.` (DataParallel), `_orig_mod.`
(torch.compile), `model.` (Lightning), `ema_model.`, and combinations of these. No list of prefixes is complete. The
names of the network are therefore searched at the ends of the names in the file; what precedes them is a prefix if the
tensors behind it fit the network exactly, every name and shape.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

COUNTER = ".num_batches_tracked"
"""End of the names of batch norm's step counters. Inference does not use them; some exports omit them."""
Shapes = dict[str, tuple[int, ...]]
"""Shapes of the tensors of a state dict, by name."""
WRAPPERS = ("best_state_dict", "state_dict")
"""Keys of the official training's state dicts; the first is preferred."""
_INSERTED = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of names that torch inserts anywhere: around a parallel, compiled, sharded or checkpointed submodule."""
_AVERAGE = re.compile(r"(^|_)(ema|swa|avg|average|averaged|shadow)(_|$)")
_NO_WEIGHTS = re.compile(r"optim|sched|grad|momentum")  # dicts of tensors with the shapes of the weights
_PREPROCESSOR = "data_preprocessor."  # mmpose 1.x keeps the normalisation's mean and std beside the weights
_DEPTH = 4


@dataclass(frozen=True)
class Found:
    """Weights that fit the network exactly."""

    keys: tuple[str, ...]
    """Keys of the dict that holds them."""
    prefix: str
    weights: dict[str, Tensor]
    """By the names of the network."""

    @property
    def place(self) -> str:
        """Where they are, for messages: ``checkpoint/model_ema: module.``."""
        return ": ".join(part for part in ("/".join(self.keys), self.prefix) if part) or "no prefix"

    @property
    def is_average(self) -> bool:
        """Whether the place is named like that of a moving average of the weights."""
        return any(_AVERAGE.search(part.lower()) for part in (*self.keys, *self.prefix.split(".")))

    def equals(self, other: "Found") -> bool:
        """Whether the other weights have the same values; counters do not matter."""
        names = [name for name in self.weights if not name.endswith(COUNTER)]
        return all(torch.equal(self.weights[name].float(), other.weights[name].float()) for name in names)


def find_weights(content: Any, target: Shapes, inner: Sequence[str]) -> list[Found]:
    """Find every set of weights that fits a network, in the order of preference.

    A dict whose tensors are not all used is left out, except for scalars (such as `n_averaged`), mmpose's
    normalisation, and the copies that mmcv's moving average keeps as `ema_backbone_conv1_weight`.

    Args:
        content: The content of a checkpoint.
        target: The shapes of the network; counters of batch norms may be missing in the file.
        inner: Prefixes between that of the whole network and the names, such as `backbone.` and `head.`.
    """
    found = []
    for keys, tensors in _state_dicts(content):
        fitting: dict[str, dict[str, str]] = {}
        used: set[str] = set()
        for prefix, names in _groups(tensors, target, inner):
            chosen = _choose(names, tensors, target)
            if chosen is not None and not set(chosen.values()) <= used:
                fitting[prefix] = chosen
                used |= set(chosen.values())
        if fitting and not _unused(tensors, used):
            found += [Found(keys, p, {n: tensors[o] for n, o in chosen.items()}) for p, chosen in fitting.items()]
    return found


def closest_weights(content: Any, target: Shapes, inner: Sequence[str]) -> dict[str, Tensor]:
    """The state dict with the most names of the network, without its prefix, for a message about what does not fit."""
    best: dict[str, Tensor] = {}
    for _, tensors in _state_dicts(content):
        for _, names in _groups(tensors, target, inner):
            renamed = {names.get(original, original): tensor for original, tensor in tensors.items()}
            if overlap(renamed, target) > overlap(best, target):
                best = renamed
    return best


def count_maps(content: Any, axes: Mapping[str, int]) -> int | None:
    """The number of heatmaps of the network in a checkpoint.

    Args:
        content: The content of the checkpoint.
        axes: Names of the network's tensors, and the axis of each that is as long as the number of heatmaps.

    Returns:
        None if no tensor has one of these names, behind any prefix, or if such tensors disagree.
    """
    found = {
        tensor.shape[axis]
        for _, tensors in _state_dicts(content)
        for full, tensor in tensors.items()
        for name, axis in axes.items()
        if f".{full}".endswith(f".{name}") and tensor.ndim > axis
    }
    return found.pop() if len(found) == 1 else None


def overlap(names: Iterable[str], target: Shapes) -> int:
    """How many names are those of the network."""
    return sum(name in target for name in names)


def _state_dicts(content: Any, keys: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Every dict of the content that holds tensors, with its keys; the official training's first."""
    found = list(_walk(content, keys))
    return sorted(found, key=lambda one: WRAPPERS.index(one[0][0]) if one[0] and one[0][0] in WRAPPERS else 2)


def _walk(content: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    if not isinstance(content, Mapping) or len(keys) > _DEPTH:
        return
    entries = [(key, value) for key, value in content.items() if isinstance(key, str)]
    tensors = {key: value for key, value in entries if isinstance(value, Tensor)}
    if tensors:
        yield keys, tensors
    for key, value in entries:
        if not _NO_WEIGHTS.search(key.lower()):
            yield from _walk(value, (*keys, key))


def _groups(
    tensors: Mapping[str, Tensor], target: Shapes, inner: Sequence[str]
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each likely prefix, and for the tensors behind it: name in the file -> name without prefixes."""
    inserted = set(_INSERTED) - {part for name in target for part in name.split(".")}
    cleaned = {name: ".".join(part for part in name.split(".") if part not in inserted) for name in tensors}
    votes = Counter(prefix for name in cleaned.values() for prefix in _prefixes_before(name, target))
    likely = [prefix for prefix, count in votes.most_common() if 4 * count >= len(target)]
    shorter = [prefix.removesuffix(end) for prefix in likely for end in inner]
    for prefix in dict.fromkeys([*shorter, *likely]):
        behind = {original: name for original, name in cleaned.items() if name.startswith(prefix)}
        yield prefix, {original: _remove(inner, name[len(prefix) :], target) for original, name in behind.items()}


def _prefixes_before(name: str, target: Shapes) -> Iterator[str]:
    """Everything before a name of the network at the end of `name`."""
    starts = [0, *(dot.end() for dot in re.finditer(r"\.", name))]
    return (name[:start] for start in starts if name[start:] in target)


def _remove(inner: Sequence[str], name: str, target: Shapes) -> str:
    for prefix in () if name in target else inner:
        name = name.removeprefix(prefix)
    return name


def _choose(names: Mapping[str, str], tensors: Mapping[str, Tensor], target: Shapes) -> dict[str, str] | None:
    """Name of the network -> name in the file, if the group has every weight once and in its shape; else None."""
    chosen: dict[str, str] = {}
    for original, name in names.items():
        if name not in target:
            continue
        if tuple(tensors[original].shape) != target[name] or name in chosen:
            return None
        chosen[name] = original
    return chosen if all(name in chosen or name.endswith(COUNTER) for name in target) else None


def _unused(tensors: Mapping[str, Tensor], used: set[str]) -> list[str]:
    copies = {"ema_" + name.replace(".", "_") for name in used}
    return [
        name
        for name, tensor in tensors.items()
        if not (name in used or name in copies or tensor.ndim == 0 or f".{_PREPROCESSOR}" in f".{name}")
    ]
