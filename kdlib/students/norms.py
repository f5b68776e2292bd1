"""Batch norms that a backbone without any is given while it trains, and that its student file no longer holds.

SqueezeNet was published without them. With one after every convolution of its Fire modules the same steps go further
(docs/decisions/0014). A norm at rest is a scale and a shift of what its convolution puts out, so it folds into the
convolution's own weights: what is evaluated, exported and handed on is the plain network.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Final, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from kdlib.images import normalise_images

EPS: Final = 1e-5


KERNEL: Final = 4
"""Axes of a convolution's weights."""


PARTS: Final = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


LAST: Final = ".norm.num_batches_tracked"
"""How the last entry of a norm's state ends."""


class NormedConv2d(nn.Conv2d):
    """A convolution with a batch norm behind it; its own weights keep the names that they have without.

    Its bias stays what it was: the norm takes it away again, so its gradient would be rounding alone.
    """

    def __init__(self, plain: nn.Conv2d) -> None:
        kernel, stride, padding = plain.kernel_size, plain.stride, plain.padding
        super().__init__(plain.in_channels, plain.out_channels, kernel, stride, padding, device="meta")  # type: ignore[arg-type]
        self._parameters = plain._parameters
        self.bias.requires_grad_(False)  # type: ignore[union-attr]
        self.norm = nn.BatchNorm2d(plain.out_channels, EPS, device=plain.weight.device)
        self.observing = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W')."""
        y = super().forward(x)
        if self.observing:
            self._stand_aside(y)
            return y
        return self.norm(y)

    @torch.no_grad()
    def _stand_aside(self, y: Tensor) -> None:
        """Take the statistics of y for the norm's own, and for its scale and shift: it changes nothing of y."""
        variance, mean = torch.var_mean(y.float(), (0, 2, 3), correction=0)
        self.norm.running_mean.copy_(mean)  # type: ignore[union-attr]
        self.norm.running_var.copy_(variance)  # type: ignore[union-attr]
        self.norm.weight.copy_((variance + self.norm.eps).sqrt())
        self.norm.bias.copy_(mean)


def add_norms(parent: nn.Module) -> None:
    """Give a norm to every convolution below a module, in place."""
    for module in list(parent.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Conv2d:
                setattr(module, name, NormedConv2d(child))


@contextlib.contextmanager
def observed(model: nn.Module) -> Iterator[None]:
    """Norms that see pictures in here start so that the model answers as it would without them."""
    convs = [module for module in model.modules() if isinstance(module, NormedConv2d)]
    for conv in convs:
        conv.observing = True
    try:
        yield
    finally:
        for conv in convs:
            conv.observing = False


def norm_entries(model: nn.Module) -> dict[str, Tensor]:
    """The entries of a model's state that belong to added norms."""
    norms = tuple(f"{name}.norm." for name, module in model.named_modules() if isinstance(module, NormedConv2d))
    return {key: value for key, value in model.state_dict().items() if key.startswith(norms)}


def fold_norms(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a model as that of the plain one, without added norms, that answers the same at rest."""
    folded = dict(state)
    for conv in [key.removesuffix(LAST) for key in state if key.endswith(LAST)]:
        if f"{conv}.bias" in folded and folded[f"{conv}.weight"].ndim == KERNEL:
            norm = {part: folded.pop(f"{conv}.norm.{part}") for part in PARTS}
            names = f"{conv}.weight", f"{conv}.bias"
            statistics = norm["running_mean"], norm["running_var"], EPS, norm["weight"], norm["bias"]
            fused = fuse_conv_bn_weights(folded[names[0]], folded[names[1]], *statistics)
            folded |= {name: value.detach() for name, value in zip(names, fused, strict=True)}
    return folded


class Taps(Protocol):
    """A student, as far as its backbone goes."""

    def taps(self, images: Tensor) -> object:
        """Run the backbone on (B, 3, H, W) normalised pictures."""


def start_norms(model: nn.Module, pictures: Tensor) -> None:
    """Start a student's added norms so that the network computes what its pretrained weights compute.

    Args:
        model: A student (`kdlib.students.networks.Student`); one without added norms is left unchanged.
        pictures: (B, H, W, 3) uint8 RGB, from which the norms take their statistics.
    """
    if norm_entries(model):
        device = next(model.parameters()).device
        with torch.no_grad(), observed(model):
            cast(Taps, model).taps(normalise_images(pictures.to(device)))
