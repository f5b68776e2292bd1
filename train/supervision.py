"""What a batch teaches: the ground-truth term, the teacher's term, and their weights."""

import dataclasses

import torch
from torch import Tensor

from kdlib.logits import TRANSFORMS, density_heatmaps, gaussian_logits
from kdlib.losses import heatmap_mse, spatial_kl
from train.errors import TrainError

Batch = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Supervision:
    """The loss of one run.

    Args:
        loss: ``kl`` or ``mse``.
        sigma: Ground-truth Gaussian in heatmap pixels.
        gt_weight: Weight of the ground-truth term.
        kd_weight: Weight of the teacher's term; 0 needs no heatmaps in the batch.
        temperature: Of the teacher's term under ``kl``.
        logits: Transform that makes logits of the teacher's maps.
        floor: Background threshold of the ``log`` transform.
        joints: ``labelled``, ``all`` or ``confidence``.
    """

    loss: str
    sigma: float
    gt_weight: float
    kd_weight: float
    temperature: float
    logits: str
    floor: float
    joints: str

    def __post_init__(self) -> None:
        if not self.gt_weight and not self.kd_weight:
            raise TrainError("nothing teaches the student: --gt-weight and --kd-weight are both 0")

    def terms(self, maps: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Weighted loss terms, ``gt`` and ``kd``, whose sum is to be minimised.

        Args:
            maps: (B, K, H, W) what the student says.
            batch: ``keypoints`` (B, K, 2) in heatmap pixels, ``labelled`` (B, K), and ``heatmaps`` (B, K, H, W) where
                the teacher teaches.
        """
        terms = {}
        if self.gt_weight:
            terms["gt"] = self.gt_weight * self._ground_truth(maps, batch)
        if self.kd_weight:
            terms["kd"] = self.kd_weight * self._teacher(maps, batch)
        return terms

    def weights(self, batch: Batch) -> dict[str, Tensor]:
        """What each of `terms` weighs in a mean over several batches: the sum of the weights it is a mean by."""
        weights = {}
        if self.gt_weight:
            weights["gt"] = batch["labelled"].sum()
        if self.kd_weight:
            peaks = batch["heatmaps"].amax(dim=(-2, -1))
            weight = self._joint_weights(batch["heatmaps"], batch["labelled"])
            if self.loss == "kl":  # a map without support has no say
                weight = weight * ~torch.isneginf(TRANSFORMS[self.logits](peaks, self.floor))
            weights["kd"] = weight.sum()
        return weights

    def heatmaps(self, maps: Tensor) -> Tensor:
        """What the student's maps say as heatmaps of height about 1, (B, K, H, W) float32."""
        return density_heatmaps(maps, self.sigma) if self.loss == "kl" else maps.float()

    def _ground_truth(self, maps: Tensor, batch: Batch) -> Tensor:
        size = (maps.shape[-1], maps.shape[-2])
        logits = gaussian_logits(batch["keypoints"], size, self.sigma)
        if self.loss == "mse":
            return heatmap_mse(maps, logits.exp(), batch["labelled"])
        return spatial_kl(maps, logits, batch["labelled"])

    def _teacher(self, maps: Tensor, batch: Batch) -> Tensor:
        heatmaps = batch["heatmaps"]
        weight = self._joint_weights(heatmaps, batch["labelled"])
        if self.loss == "mse":
            return heatmap_mse(maps, heatmaps, weight)
        return spatial_kl(maps, TRANSFORMS[self.logits](heatmaps, self.floor), weight, self.temperature)

    def _joint_weights(self, heatmaps: Tensor, labelled: Tensor) -> Tensor:
        if self.joints == "labelled":
            return labelled
        if self.joints == "all":
            return torch.ones_like(labelled)
        return heatmaps.amax(dim=(-2, -1)).clamp(0, 1)


def default_sigma(heatmap_rows: int) -> float:
    """HRNet's Gaussian for maps of that height: 2 for 64 rows, 3 for 96; never below 1.5."""
    return max(1.5, heatmap_rows / 32)
