"""What the page needs to know about a student, as one JSON document."""

import json
from pathlib import Path
from typing import Any

import cv2

from kdlib.heatmaps import dark_kernel
from kdlib.images import IMAGENET_MEAN, IMAGENET_STD
from kdlib.readout import DECODER
from kdlib.students.loading import OnnxStudent
from kdlib.students.release import EXPORTED, student_file
from train.errors import TrainError
from train.show.drawing import COLOURS, fine_joints


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
        ``fine``: whether joints are drawn thin, see `fine_joints`;
        ``decoder``: the default decoder; ``blur``: the weights of DARK's blur; ``colours`` of the sides.
    """
    facts = student.metadata
    skeleton = student.skeleton
    rows = student.input_size[1] // int(facts["stride"])
    return {
        "run": student.name,
        "precision": facts.get("precision", "fp32"),
        "input_size": list(student.input_size),
        "input": facts["input"],
        "mean": json.loads(facts.get("mean", json.dumps(IMAGENET_MEAN))),
        "std": json.loads(facts.get("std", json.dumps(IMAGENET_STD))),
        "joints": list(skeleton.joints),
        "sides": list(skeleton.sides),
        "limbs": [[a, b, skeleton.limb_side(a, b)] for a, b in skeleton.limbs],
        "fine": list(fine_joints(skeleton)),
        "decoder": facts.get("decoder", DECODER),
        "blur": cv2.getGaussianKernel(dark_kernel(rows), 0)[:, 0].tolist(),
        "colours": {side: list(rgb) for side, rgb in COLOURS.items()},
    }
