"""Every setting of a training run with its default; the flags of the command line are generated from these fields.

This module does not import torch, so that ``--help`` is fast. A test checks that the choices of ``--loss``
are the keys of `kdlib.losses.LOSSES`.
"""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any, Final, Self

from kdlib.geometry import MAP_STRIDES, STRIDE, check_stride, parse_size
from train.errors import TrainError

TIMEOUT: Final = 600
"""Seconds that each of several processes waits for the others. Rank 0 may download weights in this time."""
_RANGES: Final[dict[str, tuple[Callable[[float], bool], tuple[str, ...]]]] = {
    "positive": (
        lambda value: value > 0,
        ("epochs", "evaluate_every", "batch_size", "accumulate", "learning_rate", "temperature"),
    ),
    "0 or more": (
        lambda value: value >= 0,
        ("gt_weight", "kd_weight", "mse_weight", "weight_decay", "sigma", "clip", "rotation", "seed"),
    ),
    "at least 0 and below 1": (lambda value: 0 <= value < 1, ("scale", "ema", "warmup")),
    "between 0 and 1": (lambda value: 0 <= value <= 1, ("flip", "half_body")),
}
"""The allowed range of each number: its description, the test of a value (false for NaN), and the settings."""


def _setting(default: Any, text: str, **options: Any) -> Any:
    """A field with the help text of its flag and further options for argparse."""
    return dataclasses.field(default=default, metadata={"help": text, "options": options})


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The settings of one run: how to train a student."""

    student: str = _setting(
        "squeezenet1_1", "backbone: squeezenet1_1, squeezenet1_0, timm:NAME or torchvision:NAME; see docs/students.md"
    )
    head: str = _setting("fused", "head that turns features into maps; docs/choosing.md compares the heads")
    stride: int = _setting(
        STRIDE,
        "input pixels per pixel of the student's maps: 2 gives finer maps and slower training, 8 coarser and faster",
        choices=MAP_STRIDES,
    )
    input_size: str = _setting("", "size of the student's input as HEIGHTxWIDTH, e.g. 256x192 (default: the teacher's)")
    pretrained: str = _setting(
        "auto",
        "weights to start from: auto (ImageNet weights of the backbone, downloaded), none (random weights), a file of "
        "ImageNet weights, or a trained student (best.pt or a release folder); its input size and joints may differ",
    )
    backbone_norm: str = _setting(
        "batch",
        "norms of a SqueezeNet in training: batch (folded into the convolutions of the saved student) or none; "
        "other backbones keep their own norms",
        choices=["batch", "none"],
    )

    epochs: int = _setting(160, "passes over the store")
    evaluate_every: int = _setting(
        1, "epochs between two evaluations, of which the best gives best.pt; the last epoch is always evaluated"
    )
    batch_size: int = _setting(16, "instances per step, over all processes")
    accumulate: int = _setting(1, "parts into which the batch of a step is split to save memory")
    learning_rate: float = _setting(2e-3, "peak learning rate of AdamW")
    weight_decay: float = _setting(1e-2, "weight decay of AdamW; biases and norms have none")
    warmup: float = _setting(
        0.05, "share of the steps with a linearly growing learning rate, before its cosine decay to zero"
    )
    clip: float = _setting(1.0, "largest norm of the gradient; 0 disables clipping")
    ema: float = _setting(
        0.0, "decay of a moving average of the weights, which is evaluated and saved, e.g. 0.999; 0 disables it"
    )
    precision: str = _setting("auto", "auto, fp32, or bf16 (autocast)", choices=["auto", "fp32", "bf16"])
    seed: int = _setting(0, "seed of initialisation, order and augmentation")
    order: str = _setting(
        "instances",
        "order of the instances: instances (a random permutation) or shards (a few shards at a time, for remote "
        "stores)",
        choices=["instances", "shards"],
    )

    loss: str = _setting(
        "kl", "kl (maps are logits of a spatial softmax) or mse (maps are heatmaps)", choices=["kl", "mse"]
    )
    mse_weight: float = _setting(0.0, "weight of an MSE between heatmaps, added to the KL loss, e.g. 100")
    sigma: float = _setting(
        0.0,
        "standard deviation of the labels' Gaussians in heatmap pixels; 0 uses HRNet's (2 for 64 rows), but at least 1",
    )
    gt_weight: float = _setting(0.0, "distill: weight of the labels' term")
    kd_weight: float = _setting(1.0, "distill: weight of the teacher's term")
    kd_schedule: str = _setting(
        "constant",
        "weight of the teacher's term over the run: constant, or linear (falls to 0; the labels keep their weight)",
        choices=["constant", "linear"],
    )
    temperature: float = _setting(
        0.5,
        "temperature of teacher and student in the KL loss, which is multiplied by its square: above 1 softens "
        "both, below 1 emphasises the peaks",
    )
    logits: str = _setting(
        "log",
        "how heatmaps become logits: log (their logarithm above the store's floor) or raw (unchanged)",
        choices=["log", "raw"],
    )
    joints: str = _setting(
        "confidence",
        "joints in the teacher's term: labelled, all, or confidence (all, weighted by the peak of their heatmap)",
        choices=["labelled", "all", "confidence"],
    )
    views: str = _setting(
        "average",
        "stored views for the target, if a store holds several: average (of all), matching (those mirrored "
        "like the sample), first, or replay (a random one; the student's input shows the same view, which --flip, "
        "--rotation and --scale then change)",
        choices=["average", "matching", "first", "replay"],
    )

    flip: float = _setting(0.5, "probability of mirroring a sample")
    rotation: float = _setting(40.0, "standard deviation of the rotation in degrees; 6 of 10 samples are rotated")
    scale: float = _setting(0.3, "standard deviation of the relative size, and its largest deviation from 1")
    half_body: float = _setting(0.0, "probability of a crop of the upper or lower body only")

    def __post_init__(self) -> None:
        for wanted, (fits, names) in _RANGES.items():
            wrong = next((name for name in names if not fits(getattr(self, name))), None)
            if wrong:
                raise TrainError(f"--{wrong.replace('_', '-')} must be {wanted}, got {getattr(self, wrong)}")
        check_stride(self.stride)
        if self.input_size:
            try:
                parse_size(self.input_size)
            except ValueError as error:
                raise TrainError(f"--input-size: {error}") from error

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Self:
        """Build a recipe from parsed arguments.

        Raises:
            TrainError: If a number is out of its range.
        """
        return cls(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(cls)})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one flag per setting to the parser."""
    group = parser.add_argument_group("recipe")
    for field in dataclasses.fields(Recipe):
        flag = "--" + field.name.replace("_", "-")
        text = field.metadata["help"] + (f" (default: {field.default})" if field.default != "" else "")
        kind = field.type if isinstance(field.type, type) else str
        group.add_argument(flag, type=kind, default=field.default, help=text, **field.metadata["options"])
