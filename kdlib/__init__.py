"""The library: pose numerics, samples from a store, students, losses and metrics, for anybody's training loop.

    import kdlib
    dataset = kdlib.samples.DistillationDataset("train.zarr")
    keypoints = kdlib.students.load_student("best.pt").predict("photo.jpg")

Parts are imported when they are first used. None of them imports `precompute` or `train`.
"""

import importlib
from types import ModuleType
from typing import Final

PARTS: Final = ("losses", "metrics", "samples", "skeleton", "students")
"""What `import kdlib` alone makes available."""


def __getattr__(name: str) -> ModuleType:
    if name in PARTS:
        return importlib.import_module(f"kdlib.{name}")
    raise AttributeError(f"module 'kdlib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *PARTS]
