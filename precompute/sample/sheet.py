"""Draws a contact sheet: each person of a sample as a plain crop and with the labelled skeleton.

It shows what tests cannot check: whether left and right can be told apart, and whether every joint is in its place.
"""

from pathlib import Path

import cv2
import numpy as np

from kdcli.files import replacing
from kdlib.geometry import box_to_region, region_affine, transform_points
from kdlib.inputs.annotations import read_keypoint_annotations
from kdlib.skeletons.skeleton import COCO

Array = np.ndarray

CELL = (150, 200)
"""Width and height of a person's crop in pixels."""
LEFT, RIGHT, MIDDLE = (235, 140, 20), (20, 90, 240), (90, 220, 240)  # BGR: blue, orange, yellow
_HEADER = 26


def write_sheet(sample: Path, file: Path, *, split: str = "val", persons: int = 40, columns: int = 5) -> None:
    """Draw the first persons of a split of a sample.

    Args:
        sample: The sample's folder.
        file: Image file to write, .png or .jpg.
        split: "train" or "val".
        persons: Largest number of persons.
        columns: Persons per row of the sheet.

    Raises:
        OSError: If an image cannot be read or the sheet cannot be written.
    """
    instances = read_keypoint_annotations(sample / "annotations" / f"person_keypoints_{split}.json").instances
    centers, sizes = box_to_region(instances.bbox, CELL)
    cells = []
    for row in range(min(persons, len(instances))):
        affine = region_affine(centers[row], sizes[row], CELL)
        crop = _crop(sample / "images" / instances.file_name[row], affine)
        cells.append(np.hstack([crop, _with_skeleton(crop, instances.keypoints[row], affine)]))
    sheet = np.vstack([_legend(columns * 2 * CELL[0]), *_rows(cells, columns)])
    with replacing(file) as temporary:
        temporary.write_bytes(cv2.imencode(file.suffix, sheet)[1].tobytes())


def _crop(photo: Path, affine: Array) -> Array:
    pixels = cv2.imread(str(photo), cv2.IMREAD_COLOR)
    if pixels is None:
        raise OSError(f"cannot read the image {photo}")
    return cv2.warpAffine(pixels, affine, CELL, borderValue=(60, 60, 60))


def _rows(cells: list[Array], columns: int) -> list[Array]:
    blank = np.zeros_like(cells[0])
    padded = cells + [blank] * (-len(cells) % columns)
    return [np.hstack(padded[start : start + columns]) for start in range(0, len(padded), columns)]


def _with_skeleton(crop: Array, keypoints: Array, affine: Array) -> Array:
    """Draw limbs and joints on a copy of the crop; joints that are labelled but hidden (v = 1) are rings."""
    image = crop.copy()
    points = np.round(transform_points(keypoints[:, :2], affine) * 16).astype(int)
    for a, b in COCO.limbs:
        if keypoints[a, 2] and keypoints[b, 2]:
            colour = _colour(a) if _colour(a) == _colour(b) else MIDDLE
            cv2.line(image, points[a].tolist(), points[b].tolist(), colour, 1, cv2.LINE_AA, shift=4)
    for joint, visibility in enumerate(keypoints[:, 2]):
        if visibility:
            filled = cv2.FILLED if visibility == 2 else 1
            cv2.circle(image, points[joint].tolist(), 40, _colour(joint), filled, cv2.LINE_AA, shift=4)
    return image


def _colour(joint: int) -> tuple[int, int, int]:
    return MIDDLE if joint == 0 else LEFT if joint % 2 else RIGHT


def _legend(width: int) -> Array:
    strip = np.full((_HEADER, width, 3), 30, np.uint8)
    words = (("the person's LEFT", LEFT), ("the person's RIGHT", RIGHT), ("ring: labelled but hidden", (220, 220, 220)))
    for column, (text, colour) in enumerate(words):
        place = (10 + 230 * column, 18)
        cv2.putText(strip, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)
    return strip
