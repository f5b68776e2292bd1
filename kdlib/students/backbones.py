"""Backbones by name from timm (``timm:mobilenetv3_small_100``) and torchvision (``torchvision:resnet18``).

Each becomes a module that maps pictures (B, 3, H, W) to a list of its features at strides 4, 8 and 16; what lies beyond
stride 16 is cut off. Classification networks of both libraries serve, as far as they have these strides.
"""

from typing import Any, Final

import torch
import torchvision
from torch import Tensor, nn

from kdcli.words import did_you_mean
from kdlib.errors import KdlibError
from kdlib.students.heads import Taps

SOURCES: Final = ("timm", "torchvision")


STRIDES: Final = (4, 8, 16)


NEEDED: Final = "take a convolutional backbone with features of strides 4, 8 and 16"


PROBE: Final = 256
"""Pixels of the square picture on which strides are looked up."""


def is_library_name(name: str) -> bool:
    """Whether a student's name has the form SOURCE:NAME."""
    return name.partition(":")[0] in SOURCES and ":" in name


def open_backbone(name: str) -> tuple[nn.Module, Taps[int]]:
    """A backbone with random weights, and its channels at the three strides.

    Raises:
        KdlibError: If there is no such network, its library is missing, or it lacks a stride.
    """
    source, _, network = name.partition(":")
    return open_timm(network) if source == "timm" else _open_torchvision(network)


def import_timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise KdlibError("students timm:NAME need timm: pip install -e '.[timm]'") from error
    return timm


def _no_such(name: str, names: list[str]) -> KdlibError:
    source, _, network = name.partition(":")
    hint = did_you_mean(network, names, f"{source} has {len(names)} models, and none with a name near it", most=3)
    return KdlibError(f"there is no {name}; {hint}")


def open_timm(network: str) -> tuple[nn.Module, Taps[int]]:
    timm = import_timm()
    if not timm.is_model(network):
        raise _no_such(f"timm:{network}", timm.list_models())
    model = timm.create_model(network, features_only=True, out_indices=timm_indices(timm, network))
    return model, Taps(*model.feature_info.channels())


def timm_indices(timm: Any, network: str) -> list[int]:
    """Which of a network's features have the three strides, the deepest of each."""
    try:
        with torch.device("meta"):
            reductions = timm.create_model(network, features_only=True).feature_info.reduction()
    except (RuntimeError, AttributeError, TypeError, AssertionError) as error:  # timm's ways to say it cannot
        raise KdlibError(f"timm:{network} has no features to take; {NEEDED}") from error
    if not set(STRIDES) <= set(reductions):
        raise KdlibError(f"timm:{network} has features of strides {reductions}; {NEEDED}")
    return [len(reductions) - 1 - reductions[::-1].index(stride) for stride in STRIDES]


def _open_torchvision(network: str) -> tuple[nn.Module, Taps[int]]:
    from torchvision.models.feature_extraction import create_feature_extractor

    if network not in torchvision.models.list_models(module=torchvision.models):
        raise _no_such(f"torchvision:{network}", torchvision.models.list_models(module=torchvision.models))
    names = _last_nodes(network)
    model = create_feature_extractor(torchvision.models.get_model(network, weights=None), list(names))
    return _AsList(model), Taps(*names.values())


class _AsList(nn.Module):
    """torchvision's extractor, whose outputs are a dict."""

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, images: Tensor) -> list[Tensor]:
        return list(self.extractor(images).values())


def _last_nodes(network: str) -> dict[str, int]:
    """Names and channels of the deepest features at each stride, in the network's traced graph."""
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    try:
        with torch.device("meta"):
            model = torchvision.models.get_model(network, weights=None).eval()
            in_training, in_evaluation = get_graph_node_names(model)
            both = [name for name in in_evaluation if name in set(in_training)]
            outputs = create_feature_extractor(model, both)(torch.empty(1, 3, PROBE, PROBE))
    except Exception as error:  # tracing fails in many ways, in words about the tracer
        raise KdlibError(
            f"torchvision:{network} cannot be a student: it takes pictures of one fixed size, as transformers do, "
            f"or its features cannot be told apart; {NEEDED}"
        ) from error
    found = {}
    for stride in STRIDES:
        fitting = [name for name, out in outputs.items() if _has_stride(out, stride)]
        if not fitting:
            raise KdlibError(f"torchvision:{network} has no features of stride {stride}; {NEEDED}")
        found[fitting[-1]] = int(outputs[fitting[-1]].shape[1])
    return found


def _has_stride(out: Any, stride: int) -> bool:
    """Within two features, for networks that do not pad."""
    return isinstance(out, Tensor) and out.ndim == 4 and all(abs(n - PROBE / stride) <= 2 for n in out.shape[2:])
