"""What a batch teaches: the ground-truth term, the teacher's term, and their weights."""

import dataclasses

import torch
from torch import Tensor

from kdlib.losses import LOSSES, TRANSFORMS, Loss, Target, default_sigma, gaussian_logits
from kdlib.readout import Readout
from train.errors import TrainError
from train.recipe import Recipe

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

    @property
    def readout(self) -> Readout:
        """How the student's maps are read."""
        return Readout.of(dataclasses.asdict(self))

    @property
    def _loss(self) -> Loss:
        return LOSSES[self.loss]

    def _ground_truth(self, maps: Tensor, batch: Batch) -> Tensor:
        size = (maps.shape[-1], maps.shape[-2])
        logits = gaussian_logits(batch["keypoints"], size, self.sigma)
        return self._distance(maps, Target(logits, logits.exp(), batch["labelled"]), 1.0)

    def _teacher(self, maps: Tensor, batch: Batch) -> Tensor:
        heatmaps = batch["heatmaps"]
        logits = TRANSFORMS[self.logits](heatmaps, self.floor)
        return self._distance(maps, Target(logits, heatmaps, self._teacher_weights(batch)), self.temperature)

    def _distance(self, maps: Tensor, target: Target, temperature: float) -> Tensor:
        """The loss of the student's maps; beside a density's, the MSE between heatmaps if it has a weight."""
        loss = self._loss.term(maps, target, temperature)
        if not (self.mse_weight and self._loss.is_density):
            return loss
        heatmaps = self._loss.heatmaps(maps, self.sigma, 1.0)
        return loss + self.mse_weight * LOSSES["mse"].term(heatmaps, target, 1.0)

    def _teacher_weights(self, batch: Batch) -> Tensor:
        """(B, K) the weight of each of the teacher's maps."""
        heatmaps, labelled = batch["heatmaps"], batch["labelled"]
        peaks = heatmaps.amax(dim=(-2, -1))
        weight = {"labelled": labelled, "all": torch.ones_like(labelled), "confidence": peaks.clamp(0, 1)}[self.joints]
        if self.logits == "raw" or not self._loss.is_density:
            return weight
        return weight * (peaks >= self.floor)  # a map without a value above the floor has no logits


def supervision_of(recipe: Recipe, input_size: tuple[int, int], floor: float, *, distil: bool) -> Supervision:
    """The loss that a recipe means for a student of that input size."""
    return Supervision(
        loss=recipe.loss,
        sigma=recipe.sigma or default_sigma(input_size[1] // recipe.stride),
        gt_weight=recipe.gt_weight if distil else 1.0,
        kd_weight=recipe.kd_weight if distil else 0.0,
        temperature=recipe.temperature,
        logits=recipe.logits,
        floor=floor,
        joints=recipe.joints,
        mse_weight=recipe.mse_weight,
        kd_schedule=recipe.kd_schedule if distil else "constant",
    )
