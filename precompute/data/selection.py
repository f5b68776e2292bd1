"""Which persons of a split a run is made of, and which annotations they are judged by."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from kdlib.annotations import Annotations, Persons, read_keypoint_annotations
from precompute.data.folder import Split
from precompute.errors import PrecomputeError
from precompute.data.photographs import missing_files

NAMED = 5
"""Offenders that an error names before it counts the rest."""


@dataclasses.dataclass(frozen=True)
class Selection:
    """The persons of a run, by image and annotation id, and every annotation of their images."""

    persons: Persons
    ground_truth: Persons
    summary: dict[str, Any]
    """What the manifest says of the choice."""


def select(
    split: Split,
    *,
    boxes: Path | None = None,
    unlabelled: bool = False,
    limit: int | None = None,
    skip_missing: bool = False,
) -> Selection:
    """Read a split and choose its persons.

    Raises:
        AnnotationError: If a file cannot be used.
        PrecomputeError: If images are missing or boxes lie outside, and ``skip_missing`` is not given.
    """
    annotations = read_keypoint_annotations(split.annotations, boxes=boxes, unlabelled=unlabelled)
    _refuse_outside(annotations, split, skip_missing)
    missing = missing_files(split.images, annotations.instances.file_name)
    if missing and not skip_missing:
        raise PrecomputeError(
            f"{len(missing)} of {len(set(annotations.instances.file_name))} images are missing in {split.images}: "
            f"{_some(missing)}; give the right folder, or leave their persons out with --skip-missing"
        )
    present = ~np.isin(annotations.instances.file_name, missing)
    if not present.any():
        raise PrecomputeError(f"none of the annotated images is in {split.images}, e.g. {_some(missing)}")
    persons = annotations.instances.select(present)
    order = np.lexsort((np.arange(len(persons)), persons.image_id))[:limit]
    persons = persons.select(order)
    summary = {"instances": len(persons), "unlabelled": unlabelled, "limit": limit, "missing_images": len(missing)}
    truth = annotations.ground_truth
    if boxes is not None and limit is None:  # persons that the detector missed count
        return Selection(persons, truth.select(~np.isin(truth.file_name, missing)), summary)
    return Selection(persons, _truth_of(annotations, persons), summary)


def _refuse_outside(annotations: Annotations, split: Split, skip_missing: bool) -> None:
    outside = annotations.outside
    if len(outside) and not skip_missing:
        raise PrecomputeError(
            f"{split.annotations}: {len(outside)} boxes have no area inside their image: annotations "
            f"{_some(outside.tolist())}; mend them, or leave these persons out with --skip-missing"
        )


def _truth_of(annotations: Annotations, persons: Persons) -> Persons:
    """Annotations of the persons' images, without those of usable persons that the selection left out."""
    truth = annotations.ground_truth
    in_images = np.isin(truth.image_id, persons.image_id)
    left_out = np.setdiff1d(annotations.instances.annotation_id, persons.annotation_id)
    return truth.select(in_images & ~np.isin(truth.annotation_id, left_out))


def _some(items: list[Any]) -> str:
    rest = len(items) - NAMED
    return ", ".join(map(str, items[:NAMED])) + (f" and {rest} more" if rest > 0 else "")
