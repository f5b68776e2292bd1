"""What one run consists of, and what the teacher says of its crops."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from kdlib.annotations import Persons
from kdlib.heatmaps import flip_average
from precompute.crops import Cropper, Crops
from precompute.ensemble import mean_maps
from precompute.teacher import Teacher, mirror
from precompute.views import Geometry, ViewPlan


@dataclasses.dataclass(frozen=True)
class Job:
    """Everything one run needs."""

    teacher: Teacher
    persons: Persons
    ground_truth: Persons
    cropper: Cropper
    geometry: Geometry
    plan: ViewPlan
    batch_size: int
    threads: int
    skip_missing: bool = False


def teacher_maps(teacher: Teacher, crops: Crops, plan: ViewPlan) -> NDArray[np.float32]:
    """Maps of every view, (B, V, K, h, w), of crops (B, V, H, W, 3) at the teacher's input sizes."""
    if teacher.members:
        return mean_maps([teacher_maps(member, crops, plan) for member in teacher.members])
    return _own_maps(teacher, crops[teacher.input_size], plan)


def _own_maps(teacher: Teacher, crops: NDArray[np.uint8], plan: ViewPlan) -> NDArray[np.float32]:
    maps = np.stack([teacher(crops[:, v]) for v in range(crops.shape[1])], axis=1)
    if plan.flip_test:
        mirrored = np.stack([teacher(mirror(crops[:, v])) for v in range(crops.shape[1])], axis=1)
        maps = flip_average(maps, mirrored)
    return maps
