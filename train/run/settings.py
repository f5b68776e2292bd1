"""What one training run is: its stores, its recipe, where it goes, and what may differ when it is resumed."""

import dataclasses
import re
from pathlib import Path
from typing import Any, Self

import torch

from kdlib.geometry import parse_size
from train.errors import TrainError
from train.recipe import Recipe
from train.run.ranks import Ranks


@dataclasses.dataclass(frozen=True)
class Interval:
    """A number of steps or of minutes; 0 of both is never."""

    steps: int = 0
    minutes: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``500`` as steps and ``5m`` as minutes.

        Raises:
            TrainError: If it is neither.
        """
        if re.fullmatch(r"\d+", text):
            return cls(steps=int(text))
        if re.fullmatch(r"\d+(\.\d+)?m", text):
            return cls(minutes=float(text[:-1]))
        raise TrainError(f"--checkpoint-every takes steps, e.g. 500, or minutes, e.g. 5m; got {text!r}")

    def is_over(self, steps: int, seconds: float) -> bool:
        """Is a checkpoint due so many steps and seconds after the last one?"""
        return bool((self.steps and steps >= self.steps) or (self.minutes and seconds >= 60 * self.minutes))


FIVE_MINUTES = Interval(minutes=5)


@dataclasses.dataclass(frozen=True)
class Run:
    """What to train, from what, and where to."""

    store: Any
    val_store: Any
    out: Path
    recipe: Recipe
    distil: bool
    device: torch.device
    resume: bool = False
    overwrite: bool = False
    images: Path | None = None
    val_images: Path | None = None
    threads: int | None = None
    skip_bad_records: bool = False
    compile: bool = False
    checkpoint_every: Interval = FIVE_MINUTES
    ranks: Ranks = dataclasses.field(default_factory=lambda: Ranks(torch.device("cpu")))

    @property
    def name(self) -> str:
        """How reports call this student."""
        return "distilled" if self.distil else "baseline"

    @property
    def input_size(self) -> tuple[int, int]:
        """Width and height of the student's input."""
        if self.recipe.input_size:
            return parse_size(self.recipe.input_size)
        width, height = self.store.manifest["provenance"]["teacher"]["input_size"]
        return width, height
