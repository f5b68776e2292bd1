"""The loss of a training run: the labels' term, the teacher's term, and their weights."""

import dataclasses

import torch
from torch import Tensor

from kdlib.losses import LOSSES, TRANSFORMS, Loss, Target, default_sigma, gaussian_logits, heatmap_mse, keep_from
from kdlib.readout import Readout
from train.errors import TrainError
from train.recipe import Recipe

Batch = dict[str, Tensor]
"""Tensors of B samples by name, as `kdlib.samples.loader.Loader` makes them."""


@dataclasses.dataclass(frozen=True)
class Supervision:
    """The loss of one run.

    Args:
        loss: Key of `kdlib.losses.LOSSES`.
        sigma: Standard deviation of the labels' Gaussians in heatmap pixels.
        gt_weight: Weight of the labels' term.
        kd_weight: Weight of the teacher's term; if 0, a batch needs no heatmaps.
        temperature: Temperature of the teacher's term, if the loss compares densities.
        logits: Key of `kdlib.losses.TRANSFORMS`: how the teacher's heatmaps become logits.
        floor: Heatmap value below which the ``log`` transform removes a pixel.
        joints: Joints in the teacher's term: ``labelled``, ``all``, or ``confidence`` (all, weighted by the peak of
            their heatmap).
        mse_weight: If the loss compares densities, the weight of an MSE between heatmaps, added to both terms. The
            student's heatmaps are its softmax, scaled so that a Gaussian of that sigma peaks at 1.
        kd_schedule: ``constant``, or ``linear``: the teacher's weight falls to 0 over the run, as in DWPose's
            distillation (Yang et al. 2023, arXiv 2307.15880).

    Raises:
        TrainError: If both weights are 0, or the schedule would end without a term.
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
            raise TrainError("there is nothing to learn from: --gt-weight and --kd-weight are both 0")
        if self.kd_schedule == "linear" and not self.gt_weight:
            raise TrainError(
                "--kd-schedule linear lets the only loss fall to 0: give the labels a weight, e.g. --gt-weight 1"
            )

    def terms(self, maps: Tensor, batch: Batch, progress: float = 0.0) -> dict[str, Tensor]:
        """Compute the weighted terms of the loss; their sum is minimised.

        Args:
            maps: (B, K, H, W) the student's maps.
            batch: ``keypoints`` (B, K, 2) in heatmap pixels, ``labelled`` (B, K) and, if ``kd_weight`` is not 0,
                ``heatmaps`` (B, K, H, W).
            progress: Finished share of the run, 0 to 1.

        Returns:
            Scalars by name: ``gt`` (labels) and ``kd`` (teacher), if their weight is not 0.
        """
        terms = {}
        if self.gt_weight:
            terms["gt"] = _times(self.gt_weight, self._label_term(maps, batch))
        if self.kd_weight:
            remaining = 1 - progress if self.kd_schedule == "linear" else 1.0
            terms["kd"] = _times(remaining * self.kd_weight, self._teacher_term(maps, batch))
        return terms

    def weights(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the sum of the joints' weights in each of `terms`, by which the means of batches are combined."""
        weights = {}
        if self.gt_weight:
            weights["gt"] = batch["labelled"].sum()
        if self.kd_weight:
            weights["kd"] = self._teacher_weights(batch).sum()
        return weights

    @property
    def readout(self) -> Readout:
        """How the maps of a student trained with this loss are read."""
        return Readout.from_supervision(dataclasses.asdict(self))

    @property
    def needs_labels(self) -> bool:
        """Whether all terms use labelled joints only."""
        return not self.kd_weight or self.joints == "labelled"

    @property
    def _loss(self) -> Loss:
        return LOSSES[self.loss]

    def _label_term(self, maps: Tensor, batch: Batch) -> Tensor:
        size = (maps.shape[-1], maps.shape[-2])
        logits = gaussian_logits(batch["keypoints"], size, self.sigma)
        return self._distance(maps, Target(logits, logits.exp, batch["labelled"]), 1.0)

    def _teacher_term(self, maps: Tensor, batch: Batch) -> Tensor:
        heatmaps = batch["heatmaps"]

        def logits() -> Tensor:
            return TRANSFORMS[self.logits](heatmaps, self.floor)

        return self._distance(maps, Target(logits, heatmaps, self._teacher_weights(batch)), self.temperature)

    def _distance(self, maps: Tensor, target: Target, temperature: float) -> Tensor:
        """The loss of the student's maps; for densities, plus the MSE between heatmaps if its weight is not 0."""
        loss = self._loss.term(maps, target, temperature)
        if not (self.mse_weight and self._loss.is_density):
            return loss
        heatmaps = self._loss.heatmaps(maps, self.sigma, 1.0)
        return loss + self.mse_weight * heatmap_mse(heatmaps, target.heatmaps, target.weight)

    def _teacher_weights(self, batch: Batch) -> Tensor:
        """(B, K) the weight of each joint in the teacher's term."""
        labelled, needs_support = batch["labelled"], self.logits != "raw" and self._loss.is_density
        if not needs_support and self.joints != "confidence":
            return labelled if self.joints == "labelled" else torch.ones_like(labelled)
        peaks = batch["heatmaps"].amax(dim=(-2, -1))
        if self.joints == "confidence":
            return keep_from(peaks, self.floor).clamp_max(1) if needs_support else peaks.clamp(0, 1)
        # A heatmap without a value above the floor has no logits.
        return labelled * (peaks >= self.floor) if self.joints == "labelled" else (peaks >= self.floor).to(peaks.dtype)


def _times(factor: float, term: Tensor) -> Tensor:
    return term if factor == 1 else factor * term


def supervision_of(recipe: Recipe, input_size: tuple[int, int], floor: float, *, distil: bool) -> Supervision:
    """Build the loss of a recipe.

    Args:
        recipe: Its settings.
        input_size: Width and height of the student's input.
        floor: The floor of the store's logits.
        distil: False ignores the teacher and gives the labels the weight 1.
    """
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
