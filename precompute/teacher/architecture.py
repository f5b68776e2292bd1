"""A family of PyTorch networks that can be a teacher (`Architecture`), and the code that runs one (`TorchNetwork`).

To add a family, write one file in this folder that ends with its `Architecture`, and add one entry to
`precompute.teacher.loading.ARCHITECTURES`. `precompute/teacher/hrnet.py` is the example.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdlib.images import normalise_images
from kdlib.skeleton import FLIP_ORDER
from precompute.teacher.checkpoint import load_weights
from precompute.teacher.zoo import Published

Size = tuple[int, int]
"""Width and height in pixels."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The dtypes of the networks' precisions."""
Pending = Callable[[], NDArray[np.float32]]
"""Waits for heatmaps that a device is computing, and returns them."""


def _leave_unchanged(model: nn.Module) -> None:
    """Do nothing: the default of `Architecture.prepare`."""


@dataclass(frozen=True)
class Architecture:
    """What `python -m precompute --teacher NAME` needs to run networks of one family.

    Attributes:
        names: the names of the networks, for the command line and for manifests.
        build: (name, joints K, input size) -> a freshly initialised module. It maps crops (B, 3, H, W) float32, RGB,
            normalised by `kdlib.images.normalise_images`, to heatmaps (B, K, h, w). It is also built on the meta
            device, to count multiply-adds.
        heatmap_size: input size -> heatmap size. Raises ValueError for an input size that the networks do not take.
        load_weights: fills a module of `build` with the weights of a checkpoint file, completely or not at all. Raises
            `precompute.teacher.checkpoint.CheckpointError`.
        prepare: called once on the module, in eval mode and with its weights, e.g. to fold batch norms.
        float32_module: name of a submodule that computes in float32 while the others compute in bf16 or fp16, so that
            the heatmaps are not rounded to these; empty for none.
        published: weights that are downloaded by name.
        sources: name -> where to get its weights, for errors about a missing checkpoint.
    """

    names: tuple[str, ...]
    build: Callable[[str, int, Size], nn.Module]
    heatmap_size: Callable[[Size], Size]
    load_weights: Callable[[Any, Path], None] = load_weights
    prepare: Callable[[nn.Module], None] = _leave_unchanged
    float32_module: str = ""
    published: tuple[Published, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)

    def published_weights(self, network: str, input_size: Size | None) -> Published | None:
        """The published weights of a network at an input size, or None."""
        return next((p for p in self.published if (p.network, p.input_size) == (network, input_size)), None)


class TorchNetwork:
    """Runs a module as a teacher. The module is prepared and converted in place.

    Attributes:
        input_size: (width, height) of the crops.
        heatmap_size: (width, height) of the heatmaps.
        device: the device as torch names it.
        precision: `fp32`, `bf16` or `fp16`.
    """

    def __init__(
        self, architecture: Architecture, model: nn.Module, input_size: Size, device: torch.device, precision: str
    ) -> None:
        self.input_size, self.heatmap_size = input_size, architecture.heatmap_size(input_size)
        self.device, self.precision = str(device), precision
        self._dtype = DTYPES[precision]
        architecture.prepare(model.eval())
        model.to(device=device, dtype=self._dtype).to(memory_format=torch.channels_last)
        if architecture.float32_module:
            module = model.get_submodule(architecture.float32_module).float()
            module.register_forward_pre_hook(_to_float32)
        self._model = model
        self._flip_order: Tensor | None = None

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute heatmaps (B, K, h, w) float32 from crops (B, H, W, 3) uint8 RGB."""
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            images = normalise_images(torch.from_numpy(crops).to(self.device))
            return np.asarray(self.run(images).cpu().numpy(), np.float32)

    @property
    def is_asynchronous(self) -> bool:
        """Whether `launch` returns before the heatmaps are computed."""
        return self.device.startswith("cuda")

    def launch(self, crops: NDArray[np.uint8], *, flip_test: bool) -> Pending:
        """Start computing the heatmaps of crops on a GPU: one copy there, one forward pass, one copy back.

        Args:
            crops: (B, V, H, W, 3) uint8 RGB in pinned memory, which must stay unchanged until the heatmaps are there.
            flip_test: Average each heatmap with that of the mirrored crop, as `kdlib.heatmaps.flip_average` does.

        Returns:
            Waits for the heatmaps (B, V, K, h, w) float32.
        """
        with torch.cuda.device(self.device):
            host, copied = _pinned_like(self.compute(torch.from_numpy(crops), flip_test=flip_test)), torch.cuda.Event()
            copied.record()

        def wait() -> NDArray[np.float32]:
            copied.synchronize()
            return np.asarray(host.numpy()).reshape(*crops.shape[:2], *host.shape[1:])

        return wait

    def compute(self, crops: Tensor, *, flip_test: bool) -> Tensor:
        """Compute heatmaps (B * V, K, h, w) float32 on the device from crops (B, V, H, W, 3) uint8 RGB."""
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            images = normalise_images(crops.to(self.device, non_blocking=True).flatten(0, 1))
            if not flip_test:
                return self.run(images)
            maps, mirrored = self.run(torch.cat([images, images.flip(-1)])).chunk(2)
            if self._flip_order is None:
                self._flip_order = torch.from_numpy(FLIP_ORDER).to(self.device)
            back = mirrored.index_select(1, self._flip_order).flip(-1)
            return (maps + torch.cat([back[..., :1], back[..., :-1]], dim=-1)) * 0.5

    def compile(self) -> None:
        """Compile the network with `torch.compile`, which pays for many batches of one size."""
        self._model.compile()

    def run(self, images: Tensor) -> Tensor:
        """Heatmaps (N, K, h, w) float32 on the device, of normalised images (N, 3, H, W) there; only this network."""
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            heatmaps: Tensor = self._model(images.to(self._dtype))
            return heatmaps.float().contiguous()


def _pinned_like(maps: Tensor) -> Tensor:
    """A copy in pinned memory, complete when the device has done what was launched so far."""
    host = torch.empty(maps.shape, dtype=maps.dtype, pin_memory=True)
    return host.copy_(maps, non_blocking=True)


def _to_float32(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Convert the inputs of a module, as a forward pre-hook."""
    return tuple(tensor.float() for tensor in inputs)
