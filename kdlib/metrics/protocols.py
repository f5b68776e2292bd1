"""What the published evaluations of other data sets do differently from COCO's, by name and joints of the skeleton.

Source: xtcocotools 1.14.3 (``cocoeval.py``), with which mmpose and the model zoos built on it measure. Everything else
is as in pycocotools. What is not computed here: CrowdPose's easy, medium and hard AP, which need the crowd index of
each image in CrowdPose's own file.
"""

import dataclasses
from collections.abc import Mapping
from typing import Final, NamedTuple

from kdlib.skeletons.reading import difference_from_built_in
from kdlib.skeletons.skeleton import Skeleton


class Part(NamedTuple):
    """Consecutive joints that a data set evaluates on their own."""

    name: str
    first: int
    end: int
    """One more than the last joint."""

    @property
    def joints(self) -> slice:
        """The joints, to index arrays with."""
        return slice(self.first, self.end)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How an evaluation differs from COCO's; the defaults are COCO's."""

    box_area: float | None = None
    """A person's area is this fraction of the area of the annotated box; None takes the annotated area."""
    above: float = 0.0
    """Persons count if a joint's visibility is above this: 0 means labelled, 1 means visible."""
    extent: int | None = None
    """The extent of this many joints, the first ones, is the area of a prediction; None takes all joints. The area
    decides whether an unmatched prediction is medium or large."""
    parts: tuple[Part, ...] = ()
    """The parts that are evaluated on their own as well."""


PROTOCOLS: Final[Mapping[str, Protocol]] = {
    "crowdpose": Protocol(box_area=0.53, above=1),
    "aic": Protocol(box_area=0.53),
    "coco_wholebody": Protocol(
        extent=17,
        parts=(
            Part("body", 0, 17),
            Part("foot", 17, 23),
            Part("face", 23, 91),
            Part("left_hand", 91, 112),
            Part("right_hand", 112, 133),
        ),
    ),
}
"""By built-in skeleton: ``use_area=False``, ``keypoints_crowd``, and the parts of ``keypoints_wholebody``."""


def protocol_of(skeleton: Skeleton) -> Protocol:
    """The evaluation of a skeleton's data set: one of `PROTOCOLS` if name and joints are a built-in skeleton's.

    Otherwise it is COCO's, also for other joints under the name of a built-in skeleton.
    """
    found = PROTOCOLS.get(skeleton.name)
    return Protocol() if found is None or difference_from_built_in(skeleton) is not None else found
