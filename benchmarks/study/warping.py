"""Warped stored heatmaps compared with the teacher's on the augmented view: `python -m benchmarks.study.warping`.

The teacher runs on every view of a grid (one rotation or one scale, with and without mirror). The heatmaps of
the plain crop and of its mirror image are warped into the same view, as the trainer does.

warp.kl      KL(teacher on the view || warped map) in nats at T = 1, log logits, weighted by the teacher's confidence
warp.moved   percent of confident maps whose maximum is more than 2 heatmap pixels from the teacher's on the view
warp.wrong   percent of labelled joints more than 2 heatmap pixels off; its peer is the teacher on the view

`target` names the warped maps: `flip test` (the mean of the crop's and its mirror's map, averaged before storing: the
default), `first` (the crop's), `average` (both, averaged in the view) or `matching` (the crop's, or for a mirrored view
the mirror's).
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.store.codec import bench_teacher
from benchmarks.support.alone import run_alone
from benchmarks.support.report import Line
from benchmarks.support.workspace import Workspace
from cache.codec.base import DEFAULT_FLOOR
from cache.codec.divergence import log_divergence
from kdlib.geometry import (
    Affine,
    box_to_region,
    clip_boxes,
    compose_affines,
    invert_affine,
    region_affine,
    scale_affine,
    transform_points,
)
from kdlib.heatmaps import flip_average, peaks
from kdlib.inputs.image_files import read_image_file
from kdlib.resample.exact import crop_image
from kdlib.resample.maps import warp_heatmaps
from kdlib.skeletons.skeleton import COCO
from precompute.teacher.loading import Teacher

ROTATIONS = (0.0, 20.0, 40.0, 60.0, 80.0)
SCALES = (0.7, 0.85, 1.15, 1.3)
INSTANCES = 128
BATCH = 16
CONFIDENT = 0.2
"""Smallest peak of a confident map."""
FAR = 2.0
"""Distance in heatmap pixels beyond which a joint counts as wrong."""
TARGETS = ("flip test", "first", "average", "matching")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One point of the grid."""

    rotation: float = 0.0
    scale: float = 1.0
    flip: bool = False


GRID = [
    *(Setting(rotation=angle) for angle in ROTATIONS),
    *(Setting(scale=scale) for scale in SCALES),
    Setting(flip=True),
    Setting(40.0, 1.15, flip=True),
]


@dataclasses.dataclass(frozen=True)
class Crops:
    """Images, regions (centres and sizes in image pixels) and keypoints of the instances."""

    images: list[NDArray[np.uint8]]
    centers: NDArray[np.float32]
    sizes: NDArray[np.float32]
    keypoints: NDArray[np.float32]

    def affine(self, row: int, setting: Setting, size: tuple[int, int]) -> Affine:
        """Return the affine from image pixels to pixels of the view."""
        region = self.sizes[row] * np.float32(setting.scale)
        return region_affine(self.centers[row], region, size, setting.rotation, flip=setting.flip)


def run(workspace: Workspace) -> Iterator[Line]:
    """Yield the lines of every source of people."""
    for source in workspace.sources:
        teacher = bench_teacher(workspace, source)
        crops = _crops(workspace, source, teacher)
        plain = [_maps(teacher, crops, Setting(flip=flip)) for flip in (False, True)]
        averaged = flip_average(plain[0], plain[1], COCO.flip_order)
        for setting in GRID:
            online = plain[setting.flip] if setting == Setting(flip=setting.flip) else _maps(teacher, crops, setting)
            for target in TARGETS:
                warped = _warped(teacher, crops, _stored(plain, averaged, setting, target), setting)
                extra = {"source": source, "teacher": teacher.name, "target": target, **dataclasses.asdict(setting)}
                yield from _lines(online, warped, _ground_truth(teacher, crops, setting), extra)


def _crops(workspace: Workspace, source: str, teacher: Teacher) -> Crops:
    people = workspace.people(source, min(INSTANCES, workspace.effort.instances))
    persons, split = people.selection.instances, people.split
    boxes = clip_boxes(persons.bbox, persons.image_size)
    images = [
        read_image_file(split.images / name, (int(size[0]), int(size[1])))
        for name, size in zip(persons.file_name, persons.image_size, strict=True)
    ]
    return Crops(images, *box_to_region(boxes, teacher.input_size), persons.keypoints)


def _maps(teacher: Teacher, crops: Crops, setting: Setting) -> NDArray[np.float32]:
    """Run the teacher on the view of every instance, (N, K, h, w)."""
    size = teacher.input_size
    inputs = [crop_image(image, crops.affine(row, setting, size), size) for row, image in enumerate(crops.images)]
    return np.concatenate([teacher(np.stack(inputs[i : i + BATCH])) for i in range(0, len(inputs), BATCH)])


def _warped(
    teacher: Teacher, crops: Crops, views: list[tuple[NDArray[np.float32], bool]], setting: Setting
) -> NDArray[np.float32]:
    """Warp stored maps, each given with its mirror flag, into the view and average them, (N, K, h, w)."""
    stride = scale_affine(teacher.heatmap_size[0] / teacher.input_size[0])
    out = np.zeros_like(views[0][0])
    for row, (view, flip) in ((row, view) for row in range(len(out)) for view in views):
        stored = compose_affines(stride, crops.affine(row, Setting(flip=flip), teacher.input_size))
        wanted = compose_affines(stride, crops.affine(row, setting, teacher.input_size))
        maps = view[row] if flip == setting.flip else view[row][COCO.flip_order]
        affine = compose_affines(wanted, invert_affine(stored))
        warped = warp_heatmaps(maps.transpose(1, 2, 0), affine, teacher.heatmap_size)
        out[row] += warped.transpose(2, 0, 1) / np.float32(len(views))
    return out


def _stored(
    plain: list[NDArray[np.float32]], averaged: NDArray[np.float32], setting: Setting, target: str
) -> list[tuple[NDArray[np.float32], bool]]:
    """Return the stored maps of a target, each with its mirror flag."""
    crop, mirrored = (plain[0], False), (plain[1], True)
    if target == "matching":
        return [mirrored if setting.flip else crop]
    return {"flip test": [(averaged, False)], "first": [crop], "average": [crop, mirrored]}[target]


def _ground_truth(teacher: Teacher, crops: Crops, setting: Setting) -> NDArray[np.float64]:
    """Return the labelled joints (N, K, 2) in heatmap pixels of the view, NaN where unlabelled or outside."""
    scale = scale_affine(teacher.heatmap_size[0] / teacher.input_size[0])
    points = np.empty((len(crops.images), crops.keypoints.shape[1], 2))
    for row, labels in enumerate(crops.keypoints):
        moved = transform_points(labels[:, :2], compose_affines(scale, crops.affine(row, setting, teacher.input_size)))
        points[row] = moved if not setting.flip else moved[COCO.flip_order]
    labelled = crops.keypoints[..., 2] > 0
    labelled = labelled[:, COCO.flip_order] if setting.flip else labelled
    inside = ((points >= 0) & (points <= np.array(teacher.heatmap_size) - 1)).all(axis=-1)
    return np.where((labelled & inside)[..., None], points, np.nan)


def _lines(
    online: NDArray[np.float32], warped: NDArray[np.float32], labels: NDArray[np.float64], extra: dict[str, Any]
) -> Iterator[Line]:
    own, scores = peaks(online)
    theirs, _ = peaks(warped)
    clamped = np.where(warped >= DEFAULT_FLOOR, warped, np.float32(DEFAULT_FLOOR))  # no pixel has probability 0
    nats = log_divergence(online, clamped, DEFAULT_FLOOR, 1)
    confident = (scores > CONFIDENT) & np.isfinite(nats)
    count, mean = int(confident.sum()), float(np.average(nats[confident], weights=scores[confident]))
    yield Line("warp", "kl", mean, "nats", count, extra=extra)
    moved = np.hypot(*np.moveaxis((own - theirs).astype(float), -1, 0)) > FAR
    yield Line("warp", "moved", float(100 * moved[confident].mean()), "%", count, extra=extra)
    labelled = ~np.isnan(labels[..., 0])
    wrong, peer = (
        float(100 * (np.hypot(*np.moveaxis(points - labels, -1, 0))[labelled] > FAR).mean()) for points in (theirs, own)
    )
    yield Line("warp", "wrong", wrong, "%", int(labelled.sum()), "teacher on the view", peer, extra)


if __name__ == "__main__":
    run_alone(run, __doc__)
