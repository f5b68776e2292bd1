"""A teacher that works beside the student in every step, as the seed notebook has it: the peer of a store."""

import torch
from torch import Tensor

from kdlib.images import normalise_images
from kdlib.machine.device import choose_precision
from precompute.teacher.hrnet import build_hrnet, fold_batch_norm


class OnlineTeacher:
    """An HRNet with random weights, on the student's device, as fast as precompute runs it.

    Args:
        name: Key of `precompute.teacher.hrnet.HRNETS`.

    Attributes:
        device: Where it runs.
        precision: What it computes in.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.device, self.precision = device, choose_precision("auto", device)
        self._dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        model = build_hrnet(name).eval()
        fold_batch_norm(model)
        self._model = model.to(device=device, dtype=self._dtype).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 on the device -> (B, K, h, w) float32 on the device."""
        return self._model(normalise_images(images).to(self._dtype)).float()
