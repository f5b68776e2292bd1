"""The peer of a store: a teacher that runs in every training step, as in the seed notebook."""

import torch
from torch import Tensor

from kdlib.images import normalise_images
from kdlib.machine.device import choose_precision
from precompute.teacher.hrnet import build_hrnet, fold_batch_norm


class OnlineTeacher:
    """An HRNet with random weights, with the same optimisations as in precompute.

    Args:
        name: Key of `precompute.teacher.hrnet.HRNETS`.
        device: Device on which it runs, the student's.

    Attributes:
        device: Device on which it runs.
        precision: ``fp32`` or ``bf16``.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.device, self.precision = device, choose_precision("auto", device)
        self._dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        model = build_hrnet(name).eval()
        fold_batch_norm(model)
        self._model = model.to(device=device, dtype=self._dtype).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Compute heatmaps (B, K, h, w) float32 from images (B, H, W, 3) uint8, both on the device."""
        return self._model(normalise_images(images).to(self._dtype)).float()
