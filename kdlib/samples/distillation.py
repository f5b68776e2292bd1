"""A store as a plain torch dataset for any training loop: image, label target, teacher's logits and weights.

It works with torch's ``DataLoader``, with forked and spawned workers and with the default collation.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import cache
from kdlib.errors import KdlibError
from kdlib.geometry import STRIDE
from kdlib.images import normalise_images
from kdlib.losses import TRANSFORMS, default_sigma, gaussian_logits
from kdlib.samples.dataset import StoreDataset
from kdlib.samples.views import Augmentation


class DistillationDataset(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Samples of a store: image, label target and teacher's logits in the same augmented view.

    Each sample is a dict of tensors:

    * ``image`` (3, H, W) float32, RGB, normalised with ImageNet's mean and standard deviation;
    * ``target`` (K, H / stride, W / stride) float32, a Gaussian of height 1 around each label;
    * ``weight`` (K,) float32, 1 where a joint is labelled and inside the heatmap, else 0;
    * ``logits`` (K, H / stride, W / stride) float32, the teacher's logits, -inf where its probability is 0;
      `kdlib.losses.spatial_kl` accepts them unchanged;
    * ``confidence`` (K,) float32 in 0..1, the maximum of the teacher's heatmap;
    * ``index`` int64, the sample's index in the dataset.

    Heatmap pixel u lies at input pixel stride * u.

    With an augmentation, every access draws a new view from torch's random generator, so `torch.manual_seed` and the
    worker seeds of ``DataLoader`` make runs repeatable.

    Args:
        store: A path, a URL, or an opened store (`cache.open_store`).
        input_size: Width and height of the image in pixels; None takes the teacher's.
        augmentation: How augmented views are drawn; None gives the plain crop.
        stride: Input pixels per heatmap pixel: 2, 4 or 8.
        logits: How logits are made from heatmaps: ``log`` (their logarithm) or ``raw`` (unchanged).
        images: Folder of the original images, for a store without frames.

    Raises:
        cache.StoreError: If the store cannot be opened.
        KdlibError: If ``stride`` or ``logits`` has another value, the store does not hold COCO's 17 joints, no
            record of it was written, or it holds no frames and ``images`` is None.
    """

    def __init__(
        self,
        store: str | Path | cache.Store,
        input_size: tuple[int, int] | None = None,
        augmentation: Augmentation | None = None,
        *,
        stride: int = STRIDE,
        logits: str = "log",
        images: str | Path | None = None,
    ) -> None:
        if logits not in TRANSFORMS:
            raise KdlibError(f"logits are made with one of {', '.join(TRANSFORMS)}, got {logits!r}")
        opened = cache.open_store(store) if isinstance(store, str | Path) else store
        folder = None if images is None else Path(images)
        self.samples = StoreDataset(opened, input_size, augmentation, stride=stride, images=folder)
        self._transform = TRANSFORMS[logits]
        self._floor = float(opened.manifest["provenance"]["logits"]["floor"])
        self._sigma = default_sigma(self.samples.heatmap_size[1])

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        batch, epoch = self.samples.empty_batch(1), int(torch.randint(2**31, ()))
        self.samples.fill(batch, np.zeros(1, np.int64), self.samples.rows[[index]], epoch)
        keypoints = torch.from_numpy(batch["keypoints"][0])
        heatmaps = torch.from_numpy(np.ascontiguousarray(batch["heatmaps"][0].transpose(2, 0, 1)))
        return {
            "image": normalise_images(torch.from_numpy(batch["image"]))[0].contiguous(),
            "target": gaussian_logits(keypoints, self.samples.heatmap_size, self._sigma).exp(),
            "weight": torch.from_numpy(batch["labelled"][0]),
            "logits": self._transform(heatmaps, self._floor),
            "confidence": heatmaps.amax(dim=(-2, -1)).clamp(0, 1),
            "index": torch.tensor(index),
        }
