"""An HRNet as the precompute run drives it: uint8 crops in, float32 maps out, as fast as the device allows.

What makes it fast: crops travel to the device as bytes and are normalised there; memory is channels-last; batch norm
is folded away; in bf16 the weights are converted once instead of in every forward pass. The final 1x1 convolution
always runs and puts out in float32, so that maps have full mantissas: nothing is rounded to bf16 that is stored.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdlib.images import normalise_images
from precompute.fold_batch_norm import fold_batch_norm
from precompute.hrnet import HRNet, heatmap_size


class HRNetNetwork:
    """Takes over the given model (folds and converts it); call it with (B, H, W, 3) uint8 RGB crops.

    Attributes:
        input_size: (width, height) of the crops.
        heatmap_size: (width, height) of the maps.
        joints: number of maps K.
        device: as torch names it.
        precision: `fp32` or `bf16`.
    """

    def __init__(self, model: HRNet, input_size: tuple[int, int], device: torch.device, precision: str) -> None:
        self.input_size, self.heatmap_size = input_size, heatmap_size(input_size)
        self.joints = model.joints
        self.device, self.precision = str(device), precision
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        fold_batch_norm(model.eval())
        model.to(device=device, dtype=self._dtype).to(memory_format=torch.channels_last)
        model.final_layer.float()
        self._model = model

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(B, H, W, 3) uint8 -> (B, K, h, w) float32."""
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            maps = self._forward(torch.from_numpy(crops).to(self.device))
            return np.asarray(maps.contiguous().cpu().numpy(), np.float32)

    def _forward(self, crops: Tensor) -> Tensor:
        features = self._model.features(normalise_images(crops).to(self._dtype))
        return self._model.final_layer(features.float())
