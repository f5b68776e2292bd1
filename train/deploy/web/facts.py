"""What the page needs to know about a student, as one JSON document."""

import json
from pathlib import Path
from typing import Any

import cv2

from kdlib.heatmaps import dark_kernel
from kdlib.images import IMAGENET_MEAN, IMAGENET_STD
from kdlib.readout import DECODER
from kdlib.skeleton import JOINTS, LIMBS
from kdlib.students.loading import OnnxStudent
from kdlib.students.release import EXPORTED, student_file
from train.errors import TrainError
from train.show.drawing import COLOURS


def exported_file(path: Path) -> Path:
    """Find the ONNX file that the page will run: the path itself, or the exported student of a release folder.

    Raises:
        KdlibError: If the folder is not a complete release, or has no exported student.
        TrainError: If the path is another kind of file.
    """
    path = student_file(path, EXPORTED)
    if path.is_file() and path.suffix != ".onnx":
        raise TrainError(
            f"the page runs an exported student, and {path} is none: make one with `python -m train export --student "
            f"{path} --out student.onnx`"
        )
    return path


def describe(student: OnnxStudent) -> dict[str, Any]:
    """Describe a student for the page.

    Args:
        student: The exported student.

    Returns:
        ``run``, ``precision``; ``input_size`` (width, height); ``input`` (``uint8`` or ``normalised``), ``mean`` and
        ``std`` per channel; ``joints``: names; ``sides`` of the joints; ``limbs``: two joint numbers and a side;
        ``decoder``: the default decoder; ``blur``: the weights of DARK's blur; ``colours`` of the sides.
    """
    facts = student.metadata
    joints = _joints(student)
    sides = [_side(name) for name in joints]
    rows = student.input_size[1] // int(facts["stride"])
    return {
        "run": student.name,
        "precision": facts.get("precision", "fp32"),
        "input_size": list(student.input_size),
        "input": facts["input"],
        "mean": json.loads(facts.get("mean", json.dumps(IMAGENET_MEAN))),
        "std": json.loads(facts.get("std", json.dumps(IMAGENET_STD))),
        "joints": joints,
        "sides": sides,
        "limbs": [[a, b, _limb_side(sides[a], sides[b])] for a, b in _limbs(facts, joints)],
        "decoder": facts.get("decoder", DECODER),
        "blur": cv2.getGaussianKernel(dark_kernel(rows), 0)[:, 0].tolist(),
        "colours": {side: list(rgb) for side, rgb in COLOURS.items()},
    }


def _joints(student: OnnxStudent) -> list[str]:
    """The names of the joints; numbers where the file has no names."""
    named = json.loads(student.metadata.get("joints", "null"))
    if isinstance(named, list) and len(named) == student.joints:
        return [str(name) for name in named]
    return [f"joint {number}" for number in range(student.joints)]


def _limbs(facts: dict[str, str], joints: list[str]) -> list[tuple[int, int]]:
    """The limbs of the file; where it names none, COCO's if the joints are COCO's, and otherwise none."""
    if "limbs" in facts:
        pairs = [(int(a), int(b)) for a, b in json.loads(facts["limbs"])]
        return [pair for pair in pairs if all(0 <= joint < len(joints) for joint in pair)]
    return list(LIMBS) if tuple(joints) == JOINTS else []


def _side(joint: str) -> str:
    return next((side for side in ("left", "right") if joint.startswith(side)), "mid")


def _limb_side(a: str, b: str) -> str:
    """The side of a limb: that of its joints; a joint in the middle fits either side."""
    sides = {a, b} - {"mid"}
    return sides.pop() if len(sides) == 1 else "mid"
