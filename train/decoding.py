"""How a student's maps become points and scores; measured in docs/decisions/0015-reading-students.md."""

from typing import Final

DECODER: Final = "dark"
"""Finds joints between the pixels of a map, which count where maps are small."""
DECODER_HELP: Final = "how a student is read: dark (joints between the pixels, all of them scored), or argmax, as HRNet"


def joint_threshold(decoder: str, loss: str) -> float:
    """Heights above it make a person's score: all under ``dark``, as none of a softmax is background, or else HRNet's.

    HRNet's it is for students of ``--loss mse``, whose maps are regressed as HRNet's are, and with its ``argmax``.
    """
    from kdlib.coco_eval import JOINT_SCORE_THRESHOLD

    return 0.0 if decoder == "dark" and loss == "kl" else JOINT_SCORE_THRESHOLD
