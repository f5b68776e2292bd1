"""How a student's maps are read: as heatmaps, points and scores. Measurements: docs/decisions/0015-reading-students.md.

Importing this module does not import torch, because `--help` shows its texts and must be fast.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from torch import Tensor

DECODER: Final = "dark"
"""The default decoder. It places joints between the pixels of a map, which matters for small maps."""
DECODER_HELP: Final = (
    "how points are decoded from a student's maps: dark (sub-pixel; all joints count for the score) or argmax (as in "
    "HRNet's evaluation)"
)


@dataclasses.dataclass(frozen=True)
class Readout:
    """How the maps of one student are read.

    Args:
        loss: Name of the loss that it was trained with, a key of `kdlib.losses.LOSSES`.
        sigma: Standard deviation of the labels' Gaussians in heatmap pixels.
        temperature: Temperature at which the softmax of its maps is taken, if the loss trains a density.
    """

    loss: str
    sigma: float
    temperature: float = 1.0

    @classmethod
    def from_supervision(cls, supervision: Mapping[str, Any]) -> Self:
        """The readout of a student, from the entry ``supervision`` of its checkpoint.

        If the loss has only the teacher's term, on log logits, the temperature is that of this term: the probability
        far from the peak, a large part of the whole, was trained at this temperature only. In all other cases it is 1:
        labels and the MSE train at temperature 1, and the softmax of raw logits is almost uniform at temperature 1 and
        even more so above it.
        """
        teacher_alone = supervision["logits"] == "log" and not (
            supervision["gt_weight"] or supervision.get("mse_weight", 0.0)
        )
        temperature = supervision["temperature"] if teacher_alone else 1.0
        return cls(supervision["loss"], supervision["sigma"], temperature)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Self:
        """The readout of an exported student, from its metadata.

        Raises:
            KeyError: If the metadata lacks ``heatmaps``, ``sigma`` or ``temperature``.
            ValueError: If a value is not one that an export writes.
        """
        from kdlib.losses import LOSSES

        names = {loss.meaning: name for name, loss in LOSSES.items()}
        if metadata["heatmaps"] not in names:
            raise ValueError(f"unknown heatmaps {metadata['heatmaps']!r}")
        return cls(names[metadata["heatmaps"]], float(metadata["sigma"]), float(metadata["temperature"]))

    def heatmaps(self, maps: "Tensor") -> "Tensor":
        """The student's maps as heatmaps (B, K, H, W) float32, on the scale where a label's Gaussian peaks at 1."""
        from kdlib.losses import LOSSES

        return LOSSES[self.loss].heatmaps(maps, self.sigma, self.temperature)

    def joint_threshold(self, decoder: str) -> float:
        """Heatmap height above which joints count for an instance's score.

        It is 0 for densities decoded with ``dark``, because a softmax has no background, and HRNet's 0.2 otherwise.
        """
        from kdlib.losses import LOSSES
        from kdlib.metrics.coco import JOINT_SCORE_THRESHOLD

        return 0.0 if decoder == "dark" and LOSSES[self.loss].is_density else JOINT_SCORE_THRESHOLD
