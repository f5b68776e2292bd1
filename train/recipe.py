"""Every knob of a training run, with its default and its reason; the command line is made from these fields."""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any, Self

from kdlib.geometry import MAP_STRIDES, STRIDE, check_stride, parse_size
from train.errors import TrainError


def _knob(default: Any, text: str, **options: Any) -> Any:
    """A field with the help and the argparse options of its flag."""
    return dataclasses.field(default=default, metadata={"help": text, "options": options})


_RANGES: dict[str, tuple[Callable[[float], bool], tuple[str, ...]]] = {
    "positive": (lambda value: value > 0, ("epochs", "batch_size", "accumulate", "learning_rate", "temperature")),
    "0 or more": (
        lambda value: value >= 0,
        ("gt_weight", "kd_weight", "mse_weight", "weight_decay", "sigma", "clip", "rotation", "seed"),
    ),
    "at least 0 and below 1": (lambda value: 0 <= value < 1, ("scale", "ema", "warmup")),
    "between 0 and 1": (lambda value: 0 <= value <= 1, ("flip", "half_body")),
}
"""What numbers may be; nan is none of it."""


BEFORE: dict[str, Any] = {"backbone_norm": "none", "stride": STRIDE}
"""What recipes did that were written before they had a knob for it."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train one student."""

    student: str = _knob("squeezenet1_1", "backbone: squeezenet1_1, squeezenet1_0, timm:NAME or torchvision:NAME")
    head: str = _knob(
        "fused",
        "fused (learnt doublings, finer features added to them), deconv (the doublings alone), pyramid (other "
        "doublings), or interp (the notebook's)",
    )
    stride: int = _knob(
        STRIDE,
        "input pixels a pixel of the student's maps: 2 is finer and takes longer, 8 is coarser and cheaper",
        choices=MAP_STRIDES,
    )
    input_size: str = _knob("", "HEIGHTxWIDTH, e.g. 256x192, of the student's input (default: the teacher's)")
    pretrained: str = _knob("auto", "ImageNet weights: auto (download), none, or a file")
    backbone_norm: str = _knob(
        "batch",
        "what squeezenet1_1 and squeezenet1_0 train with: batch (norms that the student file has folded into its "
        "convolutions) or none; others keep what they have",
        choices=["batch", "none"],
    )

    epochs: int = _knob(160, "passes over the store")
    batch_size: int = _knob(16, "instances a step, over all processes")
    accumulate: int = _knob(1, "parts a step's batch is computed in, one after the other, where memory is short")
    learning_rate: float = _knob(2e-3, "peak learning rate of AdamW")
    weight_decay: float = _knob(1e-2, "of AdamW; not applied to biases and norms")
    warmup: float = _knob(0.05, "share of the steps with linearly growing learning rate; then cosine to zero")
    clip: float = _knob(1.0, "largest norm of the gradient; 0 never clips")
    ema: float = _knob(0.0, "decay of a moving average of the weights, evaluated in their place, e.g. 0.999; 0: none")
    precision: str = _knob("auto", "auto, fp32, or bf16 (autocast)", choices=["auto", "fp32", "bf16"])
    seed: int = _knob(0, "of initialisation, order and augmentation")
    order: str = _knob(
        "instances",
        "instances (a true permutation) or shards (a few of the store's shards at a time, for remote stores)",
        choices=["instances", "shards"],
    )

    loss: str = _knob("kl", "kl (maps are logits, spatial softmax) or mse (maps are heatmaps)", choices=["kl", "mse"])
    mse_weight: float = _knob(0.0, "weight of an MSE between heatmaps beside the KL, e.g. 100")
    sigma: float = _knob(0.0, "ground-truth Gaussian in heatmap pixels; 0 takes HRNet's (2 for 64 rows), at least 1")
    gt_weight: float = _knob(0.0, "weight of the ground-truth term when distilling")
    kd_weight: float = _knob(1.0, "weight of the teacher's term when distilling")
    kd_schedule: str = _knob(
        "constant",
        "the teacher's weight over the run: constant, or linear (falls to 0, the labels stay)",
        choices=["constant", "linear"],
    )
    temperature: float = _knob(
        0.5,
        "of teacher and student before their KL, which is multiplied by its square: above 1 softens both, below 1 "
        "looks at the peaks",
    )
    logits: str = _knob("log", "log (of the heatmap above the store's floor) or raw", choices=["log", "raw"])
    joints: str = _knob(
        "confidence",
        "joints the teacher teaches: labelled, all, or all weighted by its confidence",
        choices=["labelled", "all", "confidence"],
    )
    views: str = _knob(
        "average",
        "of a store that holds several, views a target is made of: average (of all), matching (mirrored like the "
        "sample), first, or replay (a random one, shown as the teacher saw it; --flip, --rotation and --scale then "
        "change that view)",
        choices=["average", "matching", "first", "replay"],
    )

    flip: float = _knob(0.5, "probability of mirroring")
    rotation: float = _knob(40.0, "standard deviation in degrees, for 6 of 10 samples")
    scale: float = _knob(0.3, "standard deviation and limit of the relative size")
    half_body: float = _knob(0.0, "probability of showing half a person")

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
        """Take the fields out of parsed arguments."""
        return cls(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(cls)})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser one flag a knob."""
    group = parser.add_argument_group("recipe")
    for field in dataclasses.fields(Recipe):
        flag = "--" + field.name.replace("_", "-")
        text = field.metadata["help"] + (f" (default: {field.default})" if field.default != "" else "")
        kind = field.type if isinstance(field.type, type) else str
        group.add_argument(flag, type=kind, default=field.default, help=text, **field.metadata["options"])
