"""How a student's maps become points and scores; measured in docs/decisions/0015-reading-students.md."""

from typing import Final

DECODER: Final = "dark"
"""Finds joints between the pixels of a map, which count where maps are small."""
DECODER_HELP: Final = "how a student is read: dark (joints between the pixels, all of them scored), or argmax, as HRNet"


def joint_threshold(decoder: str) -> float:
    """Heights above it make a person's score: HRNet's with its ``argmax``; all, as none of a softmax is background."""
    from kdlib.coco_eval import JOINT_SCORE_THRESHOLD

    return JOINT_SCORE_THRESHOLD if decoder == "argmax" else 0.0
