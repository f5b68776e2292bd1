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
        mse_weight: Under ``kl``, weight of an MSE between heatmaps in both terms beside the KL; the student's are its
            softmax at the height of a Gaussian of that sigma.
        kd_schedule: ``constant``, or ``linear``: the teacher's weight falls to 0 over the run, as in DWPose's
            distillation (Yang et al. 2023, arXiv 2307.15880).
    """

    loss: str
    sigma: float
    gt_weight: float
    kd_weight: float
    temperature: float
    logits: str
    floor: float
    joints: str
    mse_weight: float = 0.0
    kd_schedule: str = "constant"

    def __post_init__(self) -> None:
        if not self.gt_weight and not self.kd_weight:
            raise TrainError("nothing teaches the student: --gt-weight and --kd-weight are both 0")
        if self.kd_schedule == "linear" and not self.gt_weight:
            raise TrainError("--kd-schedule linear ends without a teacher: give the labels a weight, --gt-weight 1")

    def terms(self, maps: Tensor, batch: Batch, progress: float = 0.0) -> dict[str, Tensor]:
        """Weighted loss terms, ``gt`` and ``kd``, whose sum is to be minimised.

        Args:
            maps: (B, K, H, W) what the student says.
            batch: ``keypoints`` (B, K, 2) in heatmap pixels, ``labelled`` (B, K), and ``heatmaps`` (B, K, H, W) where
                the teacher teaches.
            progress: How much of the run is over, 0 to 1.
        """
        terms = {}
        if self.gt_weight:
            terms["gt"] = self.gt_weight * self._ground_truth(maps, batch)
        if self.kd_weight:
            left = 1 - progress if self.kd_schedule == "linear" else 1.0
            terms["kd"] = left * self.kd_weight * self._teacher(maps, batch)
        return terms

    def weights(self, batch: Batch) -> dict[str, Tensor]:
        """What each of `terms` weighs in a mean over several batches: the sum of the weights it is a mean by."""
        weights = {}
        if self.gt_weight:
            weights["gt"] = batch["labelled"].sum()
        if self.kd_weight:
            weights["kd"] = self._teacher_weights(batch).sum()
        return weights

    def heatmaps(self, maps: Tensor) -> Tensor:
        """The student's maps as heatmaps (B, K, H, W) float32, on the scale where a label's Gaussian peaks at 1."""
        if self.loss == "mse":
            return maps.float()
        return density_heatmaps(maps, self.sigma, self.reading_temperature)

    @property
    def reading_temperature(self) -> float:
        """At which the student's maps are probabilities: that of the teacher's term where it alone shaped them.

        At another temperature, what lies far from the peak was taught by nobody, and there is much of it. Labels and
        the MSE teach at 1; the softmax of raw maps is flat at any temperature, and flatter above 1.
        """
        alone = self.logits == "log" and not self.gt_weight and not self.mse_weight
        return self.temperature if alone else 1.0

    def _ground_truth(self, maps: Tensor, batch: Batch) -> Tensor:
        size = (maps.shape[-1], maps.shape[-2])
        logits = gaussian_logits(batch["keypoints"], size, self.sigma)
        return self._distance(maps, logits, logits.exp(), batch["labelled"], 1.0)

    def _teacher(self, maps: Tensor, batch: Batch) -> Tensor:
        heatmaps = batch["heatmaps"]
        logits = TRANSFORMS[self.logits](heatmaps, self.floor)
        return self._distance(maps, logits, heatmaps, self._teacher_weights(batch), self.temperature)

    def _distance(self, maps: Tensor, logits: Tensor, heatmaps: Tensor, weight: Tensor, temperature: float) -> Tensor:
        """Of the student's maps from a target, given as logits and as heatmaps (B, K, H, W)."""
        if self.loss == "mse":
            return heatmap_mse(maps, heatmaps, weight)
        divergence = spatial_kl(maps, logits, weight, temperature)
        if not self.mse_weight:
            return divergence
        return divergence + self.mse_weight * heatmap_mse(density_heatmaps(maps, self.sigma), heatmaps, weight)

    def _teacher_weights(self, batch: Batch) -> Tensor:
        """(B, K) what each of the teacher's maps counts."""
        heatmaps, labelled = batch["heatmaps"], batch["labelled"]
        peaks = heatmaps.amax(dim=(-2, -1))
        weight = {"labelled": labelled, "all": torch.ones_like(labelled), "confidence": peaks.clamp(0, 1)}[self.joints]
        if self.loss == "mse" or self.logits == "raw":
            return weight
        return weight * (peaks >= self.floor)  # a map without support has no say


def default_sigma(heatmap_rows: int) -> float:
    """HRNet's Gaussian for maps of that height: 2 for 64 rows, 3 for 96, 1 for 32; never below 1."""
    return max(1.0, heatmap_rows / 32)
