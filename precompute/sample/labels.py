"""COCO annotations of a scene: clean ones, or with the label noise of COCO's annotators.

Visibility follows COCO: 2 visible, 1 hidden but labelled, 0 unlabelled with x = y = 0. The clean labels mark a hidden
joint as 1 if an annotator could infer its place: behind the person's own body if one neighbouring joint is visible,
behind anything else if two are. This applies to 8 % of all joints, as in COCO. Hidden joints of the face, and joints
outside the image, are unlabelled.

The noisy labels have the measured faults of COCO's: about a third of the joints are unlabelled, positions scatter
(the root mean square of an annotator's distance from the truth is COCO's sigma * sqrt(area), see
cocodataset.org/#keypoints-eval), left and right are sometimes swapped, boxes are loose, and some persons have no
joints.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kdlib.skeletons.skeleton import COCO
from precompute.sample.drawing.scene import Person, Scene

Array = np.ndarray

FACE = slice(0, 5)

_NEIGHBOURS = np.zeros((17, 17), bool)
for _a, _b in COCO.limbs:
    _NEIGHBOURS[_a, _b] = _NEIGHBOURS[_b, _a] = True

_ARMS, _LEGS = slice(5, 11), slice(11, 17)


@dataclass(frozen=True)
class LabelNoise:
    """The errors of annotators, as shares of joints or persons unless stated otherwise.

    Attributes:
        blank_person: share of persons with a box but no joints.
        skip_visible: share of visible joints that are not labelled.
        skip_hidden: share of labelled hidden joints that are not labelled.
        swap: share of persons with left and right arms swapped; the same share, independently, for legs.
        scatter: factor on COCO's annotator spread.
        box: standard deviation of a box's sides, relative to its longer side.
    """

    blank_person: float = 0.04
    skip_visible: float = 0.07
    skip_hidden: float = 0.2
    swap: float = 0.025
    scatter: float = 1.0
    box: float = 0.015


def annotate(scene: Scene, image_id: int, rng: np.random.Generator, noise: LabelNoise | None) -> list[dict[str, Any]]:
    """Make the COCO annotations of all persons in a scene.

    Args:
        scene: The drawn scene.
        image_id: COCO image id; annotation ids are ten times this id, plus 0, 1, ...
        rng: Draws the label noise; unused for clean labels.
        noise: The label noise; None for clean labels.
    """
    annotations: list[dict[str, Any]] = []
    for person in scene.people:
        keypoints, box = clean_keypoints(person), silhouette_box(person.silhouette)
        area = int(person.silhouette.sum())
        if noise is not None:
            size = (person.silhouette.shape[1], person.silhouette.shape[0])
            keypoints = noisy_keypoints(rng, keypoints, area, size, noise)
            box = _noisy_box(rng, box, size, noise.box)
        annotations.append(_entry(image_id, len(annotations), box, area, keypoints))
    if scene.crowd is not None and scene.crowd.sum() > 0:
        box, area = silhouette_box(scene.crowd), int(scene.crowd.sum())
        annotations.append(_entry(image_id, len(annotations), box, area, np.zeros((17, 3)), crowd=True))
    return annotations


def _entry(
    image_id: int, position: int, box: Array, area: int, keypoints: Array, *, crowd: bool = False
) -> dict[str, Any]:
    return {
        "id": image_id * 10 + position,
        "image_id": image_id,
        "category_id": 1,
        "bbox": [round(float(value), 2) for value in box],
        "area": float(area),
        "iscrowd": int(crowd),
        "num_keypoints": int((keypoints[:, 2] > 0).sum()),
        "keypoints": [number for x, y, v in keypoints for number in (round(float(x), 2), round(float(y), 2), int(v))],
    }


def silhouette_box(silhouette: Array) -> Array:
    """Bounding box (x, y, width, height) of a mask's pixels, (4,) float64. The mask must not be empty."""
    (columns,), (rows,) = np.nonzero(silhouette.any(0)), np.nonzero(silhouette.any(1))
    return np.array([columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]], np.float64)


def clean_keypoints(person: Person) -> Array:
    """The keypoints without noise, (17, 3): x, y in image pixels and COCO's visibility."""
    height, width = person.silhouette.shape
    x, y = person.joints.T
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    inferable = inside & ((_NEIGHBOURS & person.visible).sum(1) >= np.where(person.own, 1, 2))
    inferable[FACE] = False
    visibility = np.where(person.visible & inside, 2, np.where(inferable, 1, 0))
    keypoints = np.column_stack([person.joints, visibility]).astype(np.float64)
    keypoints[visibility == 0] = 0
    return keypoints


def noisy_keypoints(
    rng: np.random.Generator, keypoints: Array, area: float, size: tuple[int, int], noise: LabelNoise
) -> Array:
    """Add label noise to clean keypoints (17, 3) in an image of `size` (width, height)."""
    if rng.random() < noise.blank_person:
        return np.zeros_like(keypoints)
    labelled = keypoints[:, 2] > 0
    result = keypoints.copy()
    per_axis = noise.scatter * COCO.spreads * np.sqrt(area / 2)
    result[:, :2] += rng.normal(0, 1, (17, 2)) * per_axis[:, None]
    result[:, :2] = np.clip(result[:, :2], 0, np.array(size) - 1)
    carelessness = rng.uniform(0.3, 1.7)  # of this annotator, 1 on average
    skip = np.where(keypoints[:, 2] == 2, noise.skip_visible, noise.skip_hidden)
    result[~labelled | (rng.random(17) < skip * carelessness)] = 0
    for part in (_ARMS, _LEGS):
        if rng.random() < noise.swap:
            result[part] = result[part].reshape(3, 2, 3)[:, ::-1].reshape(6, 3)
    return result


def _noisy_box(rng: np.random.Generator, box: Array, size: tuple[int, int], spread: float) -> Array:
    """Add noise to the sides of a box; it stays inside an image of `size` (w, h), and at least 2 px wide and high."""
    low, high = box[:2], box[:2] + box[2:]
    deviation = spread * box[2:].max()
    low = np.clip(low + rng.normal(0, deviation, 2), 0, np.array(size) - 2)
    high = np.clip(high + rng.normal(0, deviation, 2), low + 2, np.array(size))
    return np.concatenate([low, high - low])
