"""What a student learns from: how many persons, with labels or with the teacher's heatmaps, in how many steps."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from train.supervision import Supervision


@dataclasses.dataclass(frozen=True)
class Sources:
    """The instances that a run learns from.

    Attributes:
        stored: Instances of the store.
        drawn: Those of them that the run draws: all, or only those with labels if it learns from labels alone.
        labelled: Those of the drawn instances that have a labelled joint.
        steps: Steps of the whole run.
    """

    stored: int
    drawn: int
    labelled: int
    steps: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self | None:
        """Read the entry ``sources`` of ``config.json``; None for runs of earlier versions, which have none."""
        return cls(**config["sources"]) if "sources" in config else None

    def to_dict(self) -> dict[str, int]:
        """The entry ``sources`` of ``config.json``."""
        return dataclasses.asdict(self)

    def describe(self, supervision: Supervision) -> str:
        """The sources in words, to follow "learns from": ``the labels of 150 of 2,017 persons``."""
        persons = _persons(self.stored) if self.drawn == self.stored else f"{self.drawn:,} of {_persons(self.stored)}"
        if not supervision.kd_weight:
            return f"the labels of {persons}"
        heatmaps = f"the teacher's heatmaps of {persons}"
        if supervision.joints == "labelled":
            heatmaps += ", at labelled joints"
        if supervision.gt_weight:
            return f"{heatmaps} and {self._labels()}"
        return heatmaps if supervision.joints == "labelled" else f"{heatmaps}, without labels"

    def _labels(self) -> str:
        return "their labels" if self.labelled == self.drawn else f"the labels of {self.labelled:,} of them"


def _persons(count: int) -> str:
    return f"{count:,} person{'' if count == 1 else 's'}"
