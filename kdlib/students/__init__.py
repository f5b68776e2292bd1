"""Student networks: building them, initialising them with pretrained weights, loading trained ones, predicting."""

from kdlib.students.loading import LoadedStudent, load_student
from kdlib.students.networks import build_student

__all__ = ["LoadedStudent", "build_student", "load_student"]
