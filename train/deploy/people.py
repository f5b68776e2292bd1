"""Predicts the keypoints of persons from images and boxes, in batches of crops."""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from kdlib.geometry import box_to_region, clip_boxes
from kdlib.inputs.boxes import Boxes
from kdlib.metrics.coco import instance_scores, suppress_duplicates
from kdlib.readout import DECODER
from kdlib.skeletons.skeleton import COCO, Skeleton
from kdlib.students.loading import LoadedStudent, crop_boxes


@dataclasses.dataclass(frozen=True)
class Scene:
    """An image and the boxes of its persons."""

    name: str
    image_id: int
    pixels: NDArray[np.uint8]
    """(H, W, 3) BGR."""
    boxes: Boxes


@dataclasses.dataclass(frozen=True)
class People:
    """The N persons of a scene, highest score first."""

    scene: Scene
    boxes: NDArray[np.float64]
    """(N, 4) x, y, width, height in image pixels."""
    points: NDArray[np.float64]
    """(N, K, 2) image pixels."""
    joint_scores: NDArray[np.float32]
    """(N, K) heights of the heatmaps at the points."""
    scores: NDArray[np.float64]
    """(N,) the score of the box times the mean of the joint scores."""
    outside: int
    """Number of boxes of the scene that have no area inside its image."""
    skeleton: Skeleton = COCO
    """The K joints."""


def whole_image(pixels: NDArray[np.uint8]) -> Boxes:
    """One box around an image (H, W, 3)."""
    height, width = pixels.shape[:2]
    return Boxes(np.array([[0.0, 0.0, width, height]]), np.ones(1))


def estimate(
    student: LoadedStudent, scenes: Iterable[Scene], batch_size: int, decoder: str = DECODER
) -> Iterator[People]:
    """Predict the keypoints of every box.

    Args:
        student: The student.
        scenes: Images with boxes, read one by one.
        batch_size: Crops per batch; a batch may hold crops of several scenes.
        decoder: ``argmax`` or ``dark``.

    Yields:
        The persons of each scene, in the order of the scenes. Boxes without area inside their image are left out.
    """
    waiting: list[tuple[Scene, Boxes]] = []
    crops: list[NDArray[np.uint8]] = []
    affines: list[NDArray[np.float64]] = []
    for scene in scenes:
        boxes = _inside(scene)
        waiting.append((scene, boxes))
        bgr, to_crops = crop_boxes(scene.pixels, boxes.xywh, student.input_size)
        crops += list(np.ascontiguousarray(bgr[..., ::-1]))
        affines += list(to_crops)
        if len(crops) >= batch_size:
            yield from _people(student, waiting, crops, affines, batch_size, decoder)
            waiting, crops, affines = [], [], []
    yield from _people(student, waiting, crops, affines, batch_size, decoder)


def _inside(scene: Scene) -> Boxes:
    sizes = np.tile(np.array(scene.pixels.shape[1::-1]), (len(scene.boxes.xywh), 1))
    kept = (clip_boxes(scene.boxes.xywh, sizes)[:, 2:] > 0).all(axis=1)
    return Boxes(scene.boxes.xywh[kept], scene.boxes.scores[kept])


def _people(
    student: LoadedStudent,
    waiting: list[tuple[Scene, Boxes]],
    crops: list[NDArray[np.uint8]],
    affines: list[NDArray[np.float64]],
    batch_size: int,
    decoder: str,
) -> Iterator[People]:
    """Predict the persons of the waiting scenes; ``crops`` are in the order of the scenes and their boxes."""
    points, scores = np.empty((0, student.joints, 2)), np.empty((0, student.joints), np.float32)
    for start in range(0, len(crops), batch_size):
        batch = slice(start, start + batch_size)
        found = student.points(np.stack(crops[batch]), np.stack(affines[batch]), decoder)
        points, scores = np.concatenate([points, found[0]]), np.concatenate([scores, found[1]])
    start = 0
    for scene, boxes in waiting:
        rows = slice(start, start + len(boxes.xywh))
        threshold = student.readout.joint_threshold(decoder)
        areas = box_to_region(boxes.xywh, student.input_size)[1].prod(axis=1)
        yield _ranked(scene, boxes, points[rows], scores[rows], threshold, student.skeleton, areas)
        start = rows.stop


def _ranked(
    scene: Scene,
    boxes: Boxes,
    points: NDArray[np.float64],
    joint_scores: NDArray[np.float32],
    threshold: float,
    skeleton: Skeleton,
    areas: NDArray[np.floating],
) -> People:
    """Sort persons by score and leave out near-duplicates, as in HRNet's evaluation."""
    scores = instance_scores(boxes.scores, joint_scores, threshold)
    order = suppress_duplicates(points, scores, areas, skeleton)
    outside = len(scene.boxes.xywh) - len(boxes.xywh)
    return People(scene, boxes.xywh[order], points[order], joint_scores[order], scores[order], outside, skeleton)
