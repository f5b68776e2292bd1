"""How a student's maps become points and scores; measured in docs/decisions/0015-reading-students.md."""

from typing import Final

DECODER: Final = "dark"
"""Finds joints between the pixels of a map: most, where maps are small."""
JOINT_THRESHOLD: Final = 0.0
"""Heights above it make a person's score: all, as a student's maps are probabilities and none is background."""
DECODER_HELP: Final = "how a joint is read from its map: argmax (and a quarter pixel, as HRNet), or dark (finer)"
