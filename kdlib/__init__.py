"""The library: training samples from a store, students, losses and metrics, for any training loop.

    import kdlib
    dataset = kdlib.samples.DistillationDataset("train.zarr")
    keypoints = kdlib.students.load_student("best.pt").predict("photo.jpg")     # (1, 17, 3): x, y, heatmap maximum

    samples     DistillationDataset: image, label target and teacher's logits of each instance of a store
    students    load_student: a trained student that predicts keypoints; build_student: a new one
    losses      spatial_kl, heatmap_mse, and the logits that they compare
    metrics     keypoint_ap, pck, oks, linear_cka
    skeletons   COCO and load_skeleton: joints, flip pairs, limbs and sigmas

Importing `kdlib` does not import torch: each of these parts is imported when it is first used. Other modules, such as
`kdlib.heatmaps`, need an import of their own. No part imports `precompute` or `train`.
"""

import importlib
from types import ModuleType
from typing import Final

PARTS: Final = ("losses", "metrics", "samples", "skeletons", "students")
"""The modules that are attributes of `kdlib` without an import of their own."""


def __getattr__(name: str) -> ModuleType:
    if name in PARTS:
        return importlib.import_module(f"kdlib.{name}")
    raise AttributeError(f"module 'kdlib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *PARTS})
