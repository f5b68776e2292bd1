"""The library: training samples from a store, students, losses and metrics, for any training loop.

    import kdlib
    dataset = kdlib.samples.DistillationDataset("train.zarr")
    keypoints = kdlib.students.load_student("best.pt").predict("photo.jpg")

Importing `kdlib` does not import torch: each part is imported when it is first used. No part imports `precompute` or
`train`.
"""

import importlib
from types import ModuleType
from typing import Final

PARTS: Final = ("losses", "metrics", "samples", "skeleton", "students")
"""The modules that are attributes of `kdlib` without an import of their own."""


def __getattr__(name: str) -> ModuleType:
    if name in PARTS:
        return importlib.import_module(f"kdlib.{name}")
    raise AttributeError(f"module 'kdlib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *PARTS})
