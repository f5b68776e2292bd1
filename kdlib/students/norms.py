"""Batch norms for training a backbone that was published without any; the finished student has them folded in.

SqueezeNet was published without batch norms. With one after every convolution of its Fire modules, it trains further in
the same number of steps (docs/decisions/0014). In evaluation mode a norm only scales and shifts the output of its
convolution, so it can be folded into the weights of the convolution: the network that is evaluated and exported has no
norms.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Final, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from kdlib.images import normalise_images

EPS: Final = 1e-5
"""Added to the variance, as in torch."""
_NORM_ENTRIES: Final = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
"""Entries of a norm's state."""
_LAST_ENTRY: Final = ".norm.num_batches_tracked"
"""Suffix of the last entry of a norm that was added to a convolution."""
_CONVOLUTION_AXES: Final = 4
"""Axes of the weights of a convolution."""


class NormedConv2d(nn.Conv2d):
    """A convolution followed by a batch norm; weight and bias keep their names in the state dict.

    The bias is not trained: the norm subtracts it again, so its gradient would be rounding errors only.
    """

    def __init__(self, plain: nn.Conv2d) -> None:
        kernel, stride, padding = plain.kernel_size, plain.stride, plain.padding
        super().__init__(plain.in_channels, plain.out_channels, kernel, stride, padding, device="meta")  # type: ignore[arg-type]
        self._parameters = plain._parameters
        self.bias.requires_grad_(False)  # type: ignore[union-attr]
        self.norm = nn.BatchNorm2d(plain.out_channels, EPS, device=plain.weight.device)
        self.is_starting = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W')."""
        y = super().forward(x)
        if self.is_starting:
            self._start_as_identity(y)
            return y
        return self.norm(y)

    @torch.no_grad()
    def _start_as_identity(self, y: Tensor) -> None:
        """Set the norm's statistics, and its scale and shift, to the statistics of y, so that it does not change y."""
        variance, mean = torch.var_mean(y.float(), (0, 2, 3), correction=0)
        self.norm.running_mean.copy_(mean)  # type: ignore[union-attr]
        self.norm.running_var.copy_(variance)  # type: ignore[union-attr]
        self.norm.weight.copy_((variance + self.norm.eps).sqrt())
        self.norm.bias.copy_(mean)


def add_norms(parent: nn.Module) -> None:
    """Add a norm to every convolution inside a module, in place."""
    for module in list(parent.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Conv2d:
                setattr(module, name, NormedConv2d(child))


@contextlib.contextmanager
def starting_norms(model: nn.Module) -> Iterator[None]:
    """Within this context, a forward pass starts the added norms so that they do not change what the model computes."""
    convs = [module for module in model.modules() if isinstance(module, NormedConv2d)]
    for conv in convs:
        conv.is_starting = True
    try:
        yield
    finally:
        for conv in convs:
            conv.is_starting = False


def norm_entries(model: nn.Module) -> dict[str, Tensor]:
    """The entries of a model's state dict that belong to added norms."""
    norms = tuple(f"{name}.norm." for name, module in model.named_modules() if isinstance(module, NormedConv2d))
    return {key: value for key, value in model.state_dict().items() if key.startswith(norms)}


def fold_norms(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fold added norms into their convolutions: the state dict of a network without norms that computes the same."""
    folded = dict(state)
    for conv in [key.removesuffix(_LAST_ENTRY) for key in state if key.endswith(_LAST_ENTRY)]:
        if f"{conv}.bias" in folded and folded[f"{conv}.weight"].ndim == _CONVOLUTION_AXES:
            norm = {part: folded.pop(f"{conv}.norm.{part}") for part in _NORM_ENTRIES}
            names = f"{conv}.weight", f"{conv}.bias"
            statistics = norm["running_mean"], norm["running_var"], EPS, norm["weight"], norm["bias"]
            fused = fuse_conv_bn_weights(folded[names[0]], folded[names[1]], *statistics)
            folded |= {name: value.detach() for name, value in zip(names, fused, strict=True)}
    return folded


class _Backbone(Protocol):
    """The part of a student that runs its backbone."""

    def taps(self, images: Tensor) -> object:
        """Run the backbone on normalised images (B, 3, H, W)."""


def start_norms(model: nn.Module, images: Tensor) -> None:
    """Start a student's added norms so that the network computes what its pretrained weights compute.

    Args:
        model: A student (`kdlib.students.networks.Student`); one without added norms is left unchanged.
        images: (B, H, W, 3) uint8 RGB, from which the norms take their statistics.
    """
    if norm_entries(model):
        device = next(model.parameters()).device
        with torch.no_grad(), starting_norms(model):
            cast(_Backbone, model).taps(normalise_images(images.to(device)))
