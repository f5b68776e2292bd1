"""What one training run is: its stores, its recipe, where it goes, and what may differ when it is resumed."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from kdlib.geometry import parse_size
from train.interval import Interval
from train.ranks import Ranks
from train.recipe import Recipe

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
