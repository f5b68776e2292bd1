"""The inputs of one training run: stores, recipe, folder, and options that may differ when it is resumed."""

import dataclasses
import re
from pathlib import Path
from typing import Final, Self

import torch

from cache import Store
from kdlib.geometry import parse_size
from kdlib.samples.mixture import Part, common_input_size
from train.errors import TrainError
from train.recipe import Recipe
from train.run.ranks import Ranks


@dataclasses.dataclass(frozen=True)
class Interval:
    """An interval in steps or in minutes; if both are 0, it never ends."""

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
        """Whether the interval is over after that many steps and seconds."""
        return bool((self.steps and steps >= self.steps) or (self.minutes and seconds >= 60 * self.minutes))


FIVE_MINUTES: Final = Interval(minutes=5)


@dataclasses.dataclass(frozen=True)
class Run:
    """The inputs of one training run.

    Attributes:
        store: Store to train on; several, or one with a weight or an image folder, as a tuple of `Part`.
        val_store: Store to validate on.
        out: Run folder.
        recipe: Settings of the training.
        distil: Train on the stores' teachers; if False, on the labels alone.
        device: Device of this rank.
        resume: Continue the run in ``out``, if there is one.
        overwrite: Delete the run in ``out``, if there is one.
        val_images: Folder of the original images, for a ``val_store`` without frames.
        threads: Threads that load batches; None takes all cores, which the ranks of one machine share.
        skip_bad_records: Replace corrupt records by other records, and count them.
        compile: Use ``torch.compile``.
        resident: Keep the training store in the memory of the device: ``off``, ``on``, or ``auto`` (on a GPU, if it
            fits).
        checkpoint_every: Interval between checkpoints within an epoch.
        ranks: The processes that share the run.
    """

    store: Store | tuple[Part, ...]
    val_store: Store
    out: Path
    recipe: Recipe
    distil: bool
    device: torch.device
    resume: bool = False
    overwrite: bool = False
    val_images: Path | None = None
    threads: int | None = None
    skip_bad_records: bool = False
    compile: bool = False
    resident: str = "off"
    checkpoint_every: Interval = FIVE_MINUTES
    ranks: Ranks = dataclasses.field(default_factory=lambda: Ranks(torch.device("cpu")))

    @property
    def parts(self) -> tuple[Part, ...]:
        """The stores to train on, with their weights and image folders."""
        return (Part(self.store),) if isinstance(self.store, Store) else self.store

    @property
    def name(self) -> str:
        """Name of the student in reports."""
        return "distilled" if self.distil else "baseline"

    @property
    def loader_threads(self) -> int:
        """Threads of this rank that load batches, for training and for evaluation."""
        return self.threads or self.ranks.threads

    @property
    def input_size(self) -> tuple[int, int]:
        """Width and height of the student's input."""
        if self.recipe.input_size:
            return parse_size(self.recipe.input_size)
        return common_input_size([part.store for part in self.parts])
