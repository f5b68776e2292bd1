"""Finds the images and annotations of a split: in the folder layouts of COCO, of FiftyOne's zoo, and of this project, or
by the `data.yaml` of a YOLO-pose data set.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Final

from precompute.errors import PrecomputeError

if TYPE_CHECKING:  # imported in the function that uses them, which keeps --help fast
    from kdlib.skeletons.skeleton import Skeleton
    from precompute.data.yolo import Converted

FIFTYONE: Final = {"val": "validation"}
"""FiftyOne's names of splits, if they differ from COCO's."""
YAML: Final = (".yaml", ".yml")
"""Suffixes of the file that describes a YOLO-pose data set."""


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a data set on disk."""

    images: Path
    annotations: Path
    converted: "Converted | None" = None
    """The content of the annotations, if their file has another format than COCO's."""


@dataclasses.dataclass(frozen=True)
class FolderLayout:
    """Where a split may be, relative to the data folder."""

    annotations: str
    """The annotation file; the same name with ``.gz`` at its end is used where only that exists."""
    images: tuple[str, ...]
    """Candidate image folders; the first that exists is used."""


def choose_split(  # noqa: PLR0917 - the flags of the data, in their order
    data: Path | None,
    split: str,
    images: Path | None,
    annotations: Path | None,
    skeleton: "Skeleton | None" = None,
    category: str | None = None,
) -> Split:
    """Find a split from a data folder and the split's name, or from an image folder and an annotation file.

    Args:
        data: A folder, or the ``data.yaml`` of a YOLO-pose data set.
        split: Name of the split.
        images: Folder of the images.
        annotations: Annotation file.
        skeleton: The joints that the user gives, for YOLO-pose; None takes those of the data set.
        category: The class that the user chooses, for YOLO-pose.

    Raises:
        PrecomputeError: If neither or both pairs are given, or if a folder or file does not exist or cannot be used.
    """
    if data is not None and images is None and annotations is None:
        if data.suffix.lower() not in YAML:
            return find_split(data, split)
        from precompute.data.yolo import convert

        converted = convert(data, split, skeleton, category)
        return Split(converted.images, data, converted)
    if data is None and images is not None and annotations is not None:
        if not images.is_dir():
            raise PrecomputeError(f"no image folder at {images}")
        return Split(images, annotations)
    raise PrecomputeError("give the data either with --data DIR --split NAME, or with --images DIR --annotations FILE")


def to_coco_split(name: str) -> str:
    """Convert a split's name to COCO's: FiftyOne's ``validation`` becomes ``val``."""
    return next((ours for ours, theirs in FIFTYONE.items() if theirs == name), name)


def folder_layouts(split: str) -> list[FolderLayout]:
    """All known layouts of a split, in order of preference."""
    theirs = FIFTYONE.get(split, split)
    coco, zoo = (coco_folder(split), f"images/{coco_folder(split)}"), f"{theirs}/data"
    return [
        FolderLayout(f"annotations/person_keypoints_{split}2017.json", (*coco, zoo)),
        *(
            FolderLayout(f"annotations/person_keypoints_{name}.json", (name, f"images/{name}", "images"))
            for name in dict.fromkeys((split, theirs))
        ),
        FolderLayout(f"raw/person_keypoints_{split}2017.json", (zoo, *coco)),
    ]


def coco_folder(split: str) -> str:
    """COCO's own name of a split's image folder."""
    return f"{split}2017"


def coco_layouts(split: str) -> list[FolderLayout]:
    """The layouts that use COCO's own images, for COCO's own annotation file."""
    return [layout for layout in folder_layouts(split) if coco_folder(split) in layout.images]


def find_split(root: Path, split: str) -> Split:
    """Find the images and keypoint annotations of a split.

    Args:
        root: A folder in one of these layouts; the first match is used:
            ``annotations/person_keypoints_{split}2017.json`` with ``{split}2017/`` or ``images/{split}2017/`` (COCO);
            ``annotations/person_keypoints_{split}.json`` with ``{split}/``, ``images/{split}/`` or ``images/``;
            ``raw/person_keypoints_{split}2017.json`` with ``{train|validation}/data/`` (FiftyOne's zoo).
            The images of COCO's and the zoo's layout may also be in the folders of the other one. The annotation files
            may be compressed with gzip (``.json.gz``).
        split: ``train`` or ``val``.

    Raises:
        PrecomputeError: If the folder has no such split. The message lists the places that were searched.
    """
    annotated = [(layout, file) for layout in folder_layouts(split) if (file := find_annotations(root, layout))]
    for layout, file in annotated:
        images = find_image_folder(root, layout)
        if images is not None:
            return Split(images, file)
    if annotated:
        layout, file = annotated[0]
        wanted = ", ".join(f"{folder}/" for folder in layout.images)
        raise PrecomputeError(f"{file} exists, but its images do not: {root} has none of {wanted}")
    searched = ", ".join(layout.annotations for layout in folder_layouts(split))
    described = next(iter(sorted(path for suffix in YAML for path in root.glob(f"*{suffix}"))), None)
    hint = f"; for the YOLO-pose data set of {described.name}, give --data {described}" if described else ""
    raise PrecomputeError(f"{root} has no keypoint annotations of the split {split!r}: looked for {searched}{hint}")


def find_annotations(root: Path, layout: FolderLayout) -> Path | None:
    """The annotation file of a layout, or else that file compressed with gzip; None if neither exists."""
    plain = root / layout.annotations
    return next((path for path in (plain, plain.with_name(f"{plain.name}.gz")) if path.is_file()), None)


def find_image_folder(root: Path, layout: FolderLayout) -> Path | None:
    """The first image folder of a layout that exists, or None."""
    return next((root / folder for folder in layout.images if (root / folder).is_dir()), None)
