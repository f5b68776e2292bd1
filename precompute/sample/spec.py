"""The parameters of a sample. Imports no large library, which keeps --help fast."""

from dataclasses import asdict, dataclass
from typing import Any

GENERATOR = 2
"""Version of the generator. Raise it with every change of a pixel or a label."""


@dataclass(frozen=True)
class SampleSpec:
    """Parameters that determine every file of a sample. The defaults give the demo's: about 2,000 and 400 persons.

    Attributes:
        seed: random seed, at least 0.
        train: number of train images.
        val: number of val images.
        clean_train: whether the train labels are free of noise, as the val labels are.
    """

    seed: int = 0
    train: int = 1200
    val: int = 240
    clean_train: bool = False

    def marker(self) -> dict[str, Any]:
        """The content of the file that identifies the sample in its folder."""
        return {"generator": GENERATOR, **asdict(self)}
