"""Where a data folder keeps the images and annotations of a split: COCO's own layout, ours, and FiftyOne's zoo."""

import dataclasses
from pathlib import Path
from typing import Final

from precompute.errors import PrecomputeError

FIFTYONE: Final = {"val": "validation"}
"""FiftyOne's names of splits, where they differ from COCO's."""


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a data set on disk."""

    images: Path
    annotations: Path


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where a split may lie, relative to the data folder."""

    annotations: str
    images: tuple[str, ...]
    """Folders; the first that is there holds the images."""


def split_name(name: str) -> str:
    """COCO's name of a split, which may be given by FiftyOne's: ``validation`` is ``val``."""
    return next((ours for ours, theirs in FIFTYONE.items() if theirs == name), name)


def layouts(split: str) -> list[Layout]:
    """Every layout that is known, the preferred one first."""
    theirs = FIFTYONE.get(split, split)
    coco, zoo = (coco_folder(split), f"images/{coco_folder(split)}"), f"{theirs}/data"
    return [
        Layout(f"annotations/person_keypoints_{split}2017.json", (*coco, zoo)),
        *(
            Layout(f"annotations/person_keypoints_{name}.json", (name, f"images/{name}", "images"))
            for name in dict.fromkeys((split, theirs))
        ),
        Layout(f"raw/person_keypoints_{split}2017.json", (zoo, *coco)),
    ]


def coco_folder(split: str) -> str:
    """COCO's own name of a split's image folder."""
    return f"{split}2017"


def coco_layouts(split: str) -> list[Layout]:
    """The layouts in which COCO's own annotation file may lie, for which COCO's own images would do."""
    return [layout for layout in layouts(split) if coco_folder(split) in layout.images]


def find_split(root: Path, split: str) -> Split:
    """Find the images and keypoint annotations of a split.

    Args:
        root: A folder in one of these layouts, first match wins:
            ``annotations/person_keypoints_{split}2017.json`` with ``{split}2017/`` or ``images/{split}2017/`` (COCO);
            ``annotations/person_keypoints_{split}.json`` with ``{split}/``, ``images/{split}/`` or ``images/``;
            ``raw/person_keypoints_{split}2017.json`` with ``{train|validation}/data/`` (FiftyOne's zoo).
            COCO's and the zoo's images may also lie in each other's place.
        split: ``train`` or ``val``.

    Raises:
        PrecomputeError: If the folder holds no such split; the message lists where it was looked for.
    """
    annotated = [layout for layout in layouts(split) if (root / layout.annotations).is_file()]
    for layout in annotated:
        images = first_folder(root, layout)
        if images is not None:
            return Split(images, root / layout.annotations)
    if annotated:
        wanted = ", ".join(f"{folder}/" for folder in annotated[0].images)
        raise PrecomputeError(
            f"{root / annotated[0].annotations} is there, its images are not: {root} has none of {wanted}"
        )
    looked = ", ".join(layout.annotations for layout in layouts(split))
    raise PrecomputeError(f"{root} has no keypoint annotations of the split {split!r}: looked for {looked}")


def first_folder(root: Path, layout: Layout) -> Path | None:
    """The image folder of a layout that is there."""
    return next((root / folder for folder in layout.images if (root / folder).is_dir()), None)
