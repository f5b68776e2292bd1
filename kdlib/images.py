"""ImageNet's normalisation on the device, the same for the teacher and for the student."""

from typing import Final

import torch
from torch import Tensor

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
"""Mean of red, green and blue in [0, 1], as torchvision and HRNet use it."""
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
COLOUR_ORDER: Final = "rgb"
"""Of the pixels that networks see; OpenCV reads bgr."""


def normalise_images(images: Tensor) -> Tensor:
    """(x / 255 - mean) / std a channel.

    Args:
        images: (B, H, W, 3) uint8, RGB, on any device.

    Returns:
        (B, 3, H, W) float32 in channels_last memory: no copy is needed to turn the axes round.
    """
    std = torch.tensor(IMAGENET_STD, device=images.device) * 255
    offset = torch.tensor(IMAGENET_MEAN, device=images.device) / torch.tensor(IMAGENET_STD, device=images.device)
    return torch.addcmul(-offset, images.float(), 1 / std).permute(0, 3, 1, 2)
