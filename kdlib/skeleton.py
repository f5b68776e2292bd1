"""COCO's person skeleton: 17 joints, their left-right pairs, limbs and annotation spread."""

from typing import Final

import numpy as np

JOINTS: Final = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
"""COCO's keypoint names, in COCO's order. Left and right are the person's own."""
FLIP_PAIRS: Final = tuple((left, left + 1) for left in range(1, len(JOINTS), 2))
"""Joints that swap in a mirrored image."""
FLIP_ORDER: Final = np.array([0, *(i for left, right in FLIP_PAIRS for i in (right, left))], dtype=np.int64)
"""``mirrored[k] = original[FLIP_ORDER[k]]``; its own inverse."""
LIMBS: Final = (
    (15, 13),
    (13, 11),
    (16, 14),
    (14, 12),
    (11, 12),
    (5, 11),
    (6, 12),
    (5, 6),
    (5, 7),
    (6, 8),
    (7, 9),
    (8, 10),
    (1, 2),
    (0, 1),
    (0, 2),
    (1, 3),
    (2, 4),
    (3, 5),
    (4, 6),
)
"""COCO's skeleton as pairs of joint numbers from 0 (the annotation files count from 1)."""
UPPER_BODY: Final = np.arange(len(JOINTS)) < 11
"""(17,) bool, True for head, shoulders, elbows and wrists; half-body augmentation shows these joints or the others."""
SIGMAS: Final = (
    np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89], dtype=np.float64) / 1000
)
"""(17,) spread of human annotations per joint, relative to sqrt(area): COCO's OKS constants, as in pycocotools."""
