"""What one run consists of, and what the teacher says of its crops."""

import dataclasses

from kdlib.annotations import Persons
from precompute.data.crops import Cropper
from precompute.data.views import Geometry, ViewPlan
from precompute.teacher.loading import Teacher


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
