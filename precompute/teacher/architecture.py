"""A family of PyTorch networks that can be a teacher (`Architecture`), and the code that runs one (`TorchNetwork`).

To add a family, write one file in this folder that ends with its `Architecture`, and add one entry to
`precompute.teacher.loading.ARCHITECTURES`. `precompute/teacher/hrnet.py` is the example.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdlib.skeletons.skeleton import COCO
from precompute.teacher.checkpoint import load_weights
from precompute.teacher.joints import Agreement
from precompute.teacher.passes import DeviceNetwork
from precompute.teacher.zoo import Published

Size = tuple[int, int]
"""Width and height in pixels."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The dtypes of the networks' precisions."""


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
        """The published weights of a network for COCO's joints at an input size, or None."""
        key = (network, input_size, COCO.name, "")
        return next((p for p in self.published if (p.network, p.input_size, p.skeleton, p.variant) == key), None)

    def map_axes(self, name: str, input_size: Size) -> dict[str, int]:
        """The tensors of a network whose shape depends on the number of its heatmaps, and the axis that does."""
        with torch.device("meta"):
            one, two = (self.build(name, maps, input_size).state_dict() for maps in (1, 2))
        shapes = {key: list(zip(tensor.shape, two[key].shape, strict=True)) for key, tensor in one.items()}
        return {key: sizes.index((1, 2)) for key, sizes in shapes.items() if (1, 2) in sizes}


class TorchNetwork(DeviceNetwork):
    """Runs a module as a teacher. The module is prepared and converted in place.

    Attributes:
        input_size: (width, height) of the crops.
        heatmap_size: (width, height) of the heatmaps.
        device: the device as torch names it.
        precision: `fp32`, `bf16` or `fp16`.
    """

    can_capture = True

    def __init__(
        self,
        architecture: Architecture,
        model: nn.Module,
        input_size: Size,
        device: torch.device,
        precision: str,
        joints: Agreement | None = None,
    ) -> None:
        super().__init__(joints or Agreement.whole(COCO))
        self.input_size, self.heatmap_size = input_size, architecture.heatmap_size(input_size)
        self.device, self.precision = str(device), precision
        self._dtype = DTYPES[precision]
        architecture.prepare(model.eval())
        model.to(device=device, dtype=self._dtype).to(memory_format=torch.channels_last)
        if architecture.float32_module:
            module = model.get_submodule(architecture.float32_module).float()
            module.register_forward_pre_hook(_to_float32)
        self._model = model

    def compile(self) -> None:
        """Compile the network with `torch.compile`, which pays for many batches of one size."""
        self._model.compile()

    def run(self, images: Tensor) -> Tensor:
        """All heatmaps of the network, (N, M, h, w) float32 on the device, of normalised images (N, 3, H, W) there."""
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            heatmaps: Tensor = self._model(images.to(self._dtype))
            return heatmaps.float().contiguous()


def _to_float32(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Convert the inputs of a module, as a forward pre-hook."""
    return tuple(tensor.float() for tensor in inputs)
