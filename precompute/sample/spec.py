"""What a sample is made from; light to import, so that the command's help answers at once."""

from dataclasses import asdict, dataclass
from typing import Any

GENERATOR = 2
"""Version of the generator; whoever changes a pixel or a label raises it."""


@dataclass(frozen=True)
class SampleSpec:
    """The same spec gives the same files. The defaults are the demo's sample: about 2,000 and 400 persons.

    Attributes:
        seed: of everything random, at least 0.
        train: number of train pictures.
        val: number of val pictures.
        clean_train: train labels as clean as val's.
    """

    seed: int = 0
    train: int = 1200
    val: int = 240
    clean_train: bool = False

    def marker(self) -> dict[str, Any]:
        """What is written beside the pictures to tell one sample from another."""
        return {"generator": GENERATOR, **asdict(self)}
