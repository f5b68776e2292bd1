"""Where a data folder keeps the images and annotations of a split: COCO's own layout, ours, and FiftyOne's zoo."""

import dataclasses
from pathlib import Path

from precompute.errors import PrecomputeError


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a data set on disk."""

    images: Path
    annotations: Path


def find_split(root: Path, split: str) -> Split:
    """Find the images and keypoint annotations of a split.

    Args:
        root: A folder in one of these layouts, first match wins:
            ``annotations/person_keypoints_{split}2017.json`` with ``{split}2017/`` or ``images/{split}2017/`` (COCO);
            ``annotations/person_keypoints_{split}.json`` with ``{split}/``, ``images/{split}/`` or ``images/``;
            ``raw/person_keypoints_{split}2017.json`` with ``{train|validation}/data/`` (FiftyOne's zoo).
        split: ``train`` or ``val``.

    Raises:
        PrecomputeError: If the folder holds no such split; the message lists where it was looked for.
    """
    zoo = {"train": "train", "val": "validation"}.get(split, split)
    candidates = [
        (root / "annotations" / f"person_keypoints_{split}2017.json", (f"{split}2017", f"images/{split}2017")),
        (root / "annotations" / f"person_keypoints_{split}.json", (split, f"images/{split}", "images")),
        (root / "raw" / f"person_keypoints_{split}2017.json", (f"{zoo}/data",)),
    ]
    for annotations, folders in candidates:
        if annotations.is_file():
            images = [root / folder for folder in folders if (root / folder).is_dir()]
            if not images:
                wanted = ", ".join(f"{folder}/" for folder in folders)
                raise PrecomputeError(f"{annotations} is there, its images are not: {root} has none of {wanted}")
            return Split(images[0], annotations)
    looked = ", ".join(str(annotations.relative_to(root)) for annotations, _ in candidates)
    raise PrecomputeError(f"{root} has no keypoint annotations of the split {split!r}: looked for {looked}")
