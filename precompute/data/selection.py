"""Selects the instances of a run, and the annotations that they are evaluated against."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcli.words import counted
from kdlib.inputs.annotations import Annotations, Instances, read_keypoint_annotations
from kdlib.inputs.ids import shorten
from kdlib.inputs.names import find_other_case, locate, missing_files
from kdlib.inputs.notices import Notices
from kdlib.inputs.orientation import ExifRule, Orientations, survey
from kdlib.skeletons.skeleton import COCO, Skeleton
from precompute.data.folder import Split
from precompute.errors import PrecomputeError

LONGEST_NAME = 160
"""Longer names of missing images are cut in messages."""
EXAMPLES = 5
"""Number of items that an error message lists; it counts the others."""


@dataclasses.dataclass(frozen=True)
class Selection:
    """The instances of a run, ordered by image and annotation id, and all annotations of their images."""

    instances: Instances
    ground_truth: Instances
    summary: dict[str, Any]
    """Description of the selection for the manifest."""
    notices: Notices = dataclasses.field(default_factory=Notices)
    """What was changed or left out so far; later steps of the run add to it."""
    skeleton: Skeleton = COCO
    """The joints of the instances."""
    orientations: Orientations | None = None
    """What is done with the EXIF orientation of the images; None uses them as OpenCV decodes them without it."""

    @property
    def exif(self) -> ExifRule | None:
        """The rule that the images are read with."""
        return None if self.orientations is None else self.orientations.rule


def select(
    split: Split,
    *,
    boxes: Path | None = None,
    unlabelled: bool = False,
    limit: int | None = None,
    skip_missing: bool = False,
    exif: ExifRule | str | None = "auto",
    category: str | None = None,
    skeleton: Skeleton | None = None,
) -> Selection:
    """Read a split and select its instances.

    Args:
        split: Images and annotations.
        boxes: COCO detections to use instead of the annotated boxes.
        unlabelled: Include instances without a labelled keypoint.
        limit: Largest number of instances; None for all. The first ones are taken.
        skip_missing: Leave out instances whose image is missing or whose box has no area inside it.
        exif: What to do with the EXIF orientation of the images: ``auto``, ``apply`` or ``ignore``; or the rule of a
            store, which is None for a store from images without one.
        category: Name of the category whose instances are used; None chooses one.
        skeleton: The joints of the instances; None takes those that the annotations list.

    Raises:
        InputError: If a file cannot be used.
        PrecomputeError: If images are missing or boxes lie outside their images, and ``skip_missing`` is not set.
    """
    converted = split.converted
    notices = Notices() if converted is None else converted.notices
    annotations = read_keypoint_annotations(
        split.annotations,
        boxes=boxes,
        unlabelled=unlabelled,
        notices=notices,
        category=category,
        skeleton=skeleton if converted is None else converted.skeleton,
        document=None if converted is None else converted.document,
    )
    _check_boxes(annotations, split, skip_missing)
    _check_names(annotations.instances, split)
    missing = missing_files(split.images, annotations.instances.file_name)
    if missing and not skip_missing:
        raise PrecomputeError(
            f"{len(missing)} of {len(set(annotations.instances.file_name))} images are missing in {split.images}: "
            f"{_describe_missing(missing, annotations.instances, split)}; give the right folder, or leave out their "
            "instances with --skip-missing"
        )
    present = ~np.isin(annotations.instances.file_name, missing)
    if not present.any():
        named = _describe_missing(missing, annotations.instances, split)
        raise PrecomputeError(f"none of the annotated images is in {split.images}, e.g. {named}")
    left_out = annotations.instances.annotation_id[~present]
    who = annotations.skeleton.instances
    notices.add_all(f"{who} left out because their image is missing", _entries(left_out), len(left_out))
    instances = annotations.instances.select(present)
    order = np.lexsort((np.arange(len(instances)), instances.image_id))[:limit]
    instances = instances.select(order)
    orientations = _survey(instances, split, exif)
    if orientations is not None:
        orientations.report(notices)
    summary = {"instances": len(instances), "unlabelled": unlabelled, "limit": limit, "missing_images": len(missing)}
    truth = annotations.ground_truth
    if boxes is not None and limit is None:  # the ground truth must include the instances that the detector missed
        truth = truth.select(~np.isin(truth.file_name, missing))
    else:
        truth = _ground_truth_of(annotations, instances)
    return Selection(instances, truth, summary, notices, annotations.skeleton, orientations)


def _survey(instances: Instances, split: Split, exif: ExifRule | str | None) -> Orientations | None:
    """Decide about the EXIF orientation of the instances' images."""
    if exif is None:
        return None
    sizes = dict(zip(instances.file_name, instances.image_size.tolist(), strict=True))
    images = [(name, locate(split.images, name), (width, height)) for name, (width, height) in sizes.items()]
    return survey(images, exif) if isinstance(exif, str) else survey(images, exif.mode, exif.fallback)


def _describe_missing(missing: Sequence[str], instances: Instances, split: Split) -> str:
    """Names of missing images with their ids, and the first file that differs in upper and lower case alone."""
    ids = dict(zip(instances.file_name, instances.image_id.tolist(), strict=True))
    named = _some([f"{_plain(name)} (image {ids[name]})" for name in missing])
    other = next(((name, found) for name in missing if (found := find_other_case(split.images, name))), None)
    if other is None:
        return named
    return f"{named}; {_plain(other[0])} is annotated, and the file is {other[1]}: make upper and lower case the same"


def _plain(name: str) -> str:
    """A file name for a message of one line."""
    return name if name.isprintable() and len(name) <= LONGEST_NAME else shorten(name)


def _check_names(instances: Instances, split: Split) -> None:
    """Raise `PrecomputeError` for a name that could lead out of the image folder; a store refuses it too."""
    for name, image_id in zip(instances.file_name, instances.image_id.tolist(), strict=True):
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise PrecomputeError(
                f"{split.annotations}: image {image_id} has the file_name {shorten(name)}; it must be relative to the "
                "image folder, without '..'; change the names, or give a folder above as --images"
            )


def _check_boxes(annotations: Annotations, split: Split, skip_missing: bool) -> None:
    outside = annotations.outside
    if len(outside) and not skip_missing:
        raise PrecomputeError(
            f"{split.annotations}: {counted(len(outside), 'box', 'boxes')} without area inside the image: annotations "
            f"{_some(outside.tolist())}; correct them, or leave out these instances with --skip-missing"
        )


def _ground_truth_of(annotations: Annotations, instances: Instances) -> Instances:
    """All annotations of the instances' images, except usable instances that were not selected."""
    truth = annotations.ground_truth
    in_images = np.isin(truth.image_id, instances.image_id)
    left_out = np.setdiff1d(annotations.instances.annotation_id, instances.annotation_id)
    return truth.select(in_images & ~np.isin(truth.annotation_id, left_out))


def _entries(ids: NDArray[np.int64]) -> list[str]:
    """The first of these annotations, as examples of a notice."""
    return [f"annotation {i}" for i in ids[:EXAMPLES]]


def _some(items: Sequence[object]) -> str:
    rest = len(items) - EXAMPLES
    return ", ".join(map(str, items[:EXAMPLES])) + (f" and {rest} more" if rest > 0 else "")
