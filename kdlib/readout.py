"""How a student's maps become heatmaps, points and scores; measured in docs/decisions/0015-reading-students.md.

Importing this module does not import torch: command lines show its texts in their help.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from torch import Tensor

DECODER: Final = "dark"
"""Finds joints between the pixels of a map, which matters where maps are small."""
DECODER_HELP: Final = (
    "how points are read from a student's maps: dark (between the pixels; all joints count for the score), or argmax, "
    "as in HRNet's evaluation"
)


@dataclasses.dataclass(frozen=True)
class Readout:
    """How the maps of one student are read.

    Args:
        loss: Name of the loss that it was trained with, a key of `kdlib.losses.LOSSES`.
        sigma: Standard deviation of the labels' Gaussians in heatmap pixels.
        temperature: Temperature at which the student's maps are probabilities; used where the loss is a density.
    """

    loss: str
    sigma: float
    temperature: float = 1.0

    @classmethod
    def of(cls, supervision: Mapping[str, Any]) -> Self:
        """The readout of a student whose checkpoint holds that entry ``supervision``.

        The temperature is that of the teacher's term where this term alone shaped the maps: at another temperature,
        the probability far from the peak was never trained, and there is much of it. Labels and the MSE teach at
        temperature 1; the softmax of raw maps is flat at any temperature, and flatter above 1.
        """
        teacher_alone = supervision["logits"] == "log" and not (
            supervision["gt_weight"] or supervision.get("mse_weight", 0.0)
        )
        temperature = supervision["temperature"] if teacher_alone else 1.0
        return cls(supervision["loss"], supervision["sigma"], temperature)

    @classmethod
    def of_export(cls, facts: Mapping[str, str]) -> Self:
        """The readout of an exported student with that metadata."""
        from kdlib.losses import LOSSES

        loss = next(name for name, loss in LOSSES.items() if loss.meaning == facts["heatmaps"])
        return cls(loss, float(facts["sigma"]), float(facts["temperature"]))

    def heatmaps(self, maps: "Tensor") -> "Tensor":
        """The student's maps as heatmaps (B, K, H, W) float32, on the scale where a label's Gaussian peaks at 1."""
        from kdlib.losses import LOSSES

        return LOSSES[self.loss].heatmaps(maps, self.sigma, self.temperature)

    def joint_threshold(self, decoder: str) -> float:
        """Heatmap height above which joints count for a person's score.

        0 for densities read with ``dark``, because no part of a softmax is background; otherwise HRNet's 0.2.
        """
        from kdlib.losses import LOSSES
        from kdlib.metrics.coco import JOINT_SCORE_THRESHOLD

        return 0.0 if decoder == "dark" and LOSSES[self.loss].is_density else JOINT_SCORE_THRESHOLD
