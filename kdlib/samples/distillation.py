"""A store for somebody else's training loop: image, ground truth, logits and weights as a plain torch dataset.

Needs none of our training loop: it works with torch's ``DataLoader``, its forked or spawned workers and its collation.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import cache
from kdlib.geometry import STRIDE
from kdlib.images import normalise_images
from kdlib.losses import TRANSFORMS, default_sigma, gaussian_logits
from kdlib.samples.dataset import StoreDataset
from kdlib.samples.views import Augmentation


class DistillationDataset(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Samples of a store, all seen under one affine.

    Each is a dict of tensors: ``image`` (3, H, W) float32, normalised as ImageNet's; ``target`` (K, H / stride,
    W / stride) float32, the labels' Gaussians of height 1; ``weight`` (K,) float32, 1 where a joint is labelled and
    inside, else 0; ``logits`` (K, H / stride, W / stride) float32, the teacher's, -inf where it gives no probability
    (`kdlib.losses.spatial_kl` takes them as they are); ``confidence`` (K,) float32 in 0..1, the height of the teacher's
    map; ``index``, the sample's own. Heatmap pixel u lies at input pixel stride * u.

    Every access draws a new view if there is an augmentation, from torch's generator: `torch.manual_seed` and the
    ``DataLoader``'s worker seeds govern it.

    Args:
        store: A path, a URL, or an opened store.
        input_size: Width and height of the picture; the teacher's where None.
        augmentation: Random views; the plain crop where None.
        stride: Input pixels a heatmap pixel: 2, 4 or 8.
        logits: ``log`` or ``raw``, what makes logits of the teacher's maps.
        images: Folder of the original images, for a store without frames.
    """

    def __init__(
        self,
        store: Any,
        input_size: tuple[int, int] | None = None,
        augmentation: Augmentation | None = None,
        *,
        stride: int = STRIDE,
        logits: str = "log",
        images: Path | None = None,
    ) -> None:
        opened = cache.open_store(store) if isinstance(store, str | Path) else store
        self.samples = StoreDataset(opened, input_size, augmentation, stride=stride, images=images)
        self._transform = TRANSFORMS[logits]
        self._floor = float(opened.manifest["provenance"]["logits"]["floor"])
        self._sigma = default_sigma(self.samples.heatmap_size[1])

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        batch, draw = self.samples.empty_batch(1), int(torch.randint(2**31, ()))
        self.samples.fill(batch, np.zeros(1, np.int64), self.samples.rows[[index]], draw)
        keypoints = torch.from_numpy(batch["keypoints"][0])
        maps = torch.from_numpy(np.ascontiguousarray(batch["heatmaps"][0].transpose(2, 0, 1)))
        return {
            "image": normalise_images(torch.from_numpy(batch["image"]))[0].contiguous(),
            "target": gaussian_logits(keypoints, self.samples.heatmap_size, self._sigma).exp(),
            "weight": torch.from_numpy(batch["labelled"][0]),
            "logits": self._transform(maps, self._floor),
            "confidence": maps.amax(dim=(-2, -1)).clamp(0, 1),
            "index": torch.tensor(index),
        }
