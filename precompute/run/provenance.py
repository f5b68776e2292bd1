"""The provenance in a store's manifest: the origin of its heatmaps. It contains no path of this machine."""

import datetime
import importlib.metadata
import platform
import re
from pathlib import Path
from typing import Any

import cv2
import torch

from kdcli.files import file_sha256
from kdcli.system import processor_name
from kdlib.geometry import PADDING
from kdlib.inputs.orientation import ENTRY, Orientations
from kdlib.losses import DEFAULT_FLOOR
from kdlib.machine.version import project_version
from kdlib.skeletons.reading import stated
from precompute.data.crops import JPEG_QUALITY
from precompute.data.views import FRAME_MARGIN, ViewPlan
from precompute.run.batching import Batching
from precompute.teacher.loading import Teacher

LICENCE = (
    "The heatmaps derive from the images and from the teacher's weights, the frames are parts of the images: the "
    "licences of both apply. COCO's images keep their photographers' Flickr licences."
)


def file_identity(path: Path | None) -> dict[str, str] | None:
    """Name and SHA-256 of a file, or None."""
    if path is None:
        return None
    return {"name": path.name, "sha256": file_sha256(path)}


def describe(  # noqa: PLR0913 - everything that a store records
    teacher: Teacher,
    *,
    annotations: Path,
    boxes: Path | None,
    split: str,
    selection: dict[str, Any],
    plan: ViewPlan,
    frame_size: tuple[int, int],
    orientations: Orientations | None = None,
    batching: Batching | None = None,
    converted_sha256: str | None = None,
) -> dict[str, Any]:
    """Describe the origin of a store. All entries but `software` and `created` must match when a run is resumed.

    Args:
        teacher: The teacher.
        annotations: The annotation file.
        boxes: The file with detections, or None.
        split: Name of the split.
        selection: Summary of the selected instances.
        plan: The stored views.
        frame_size: (width, height) of the frames.
        orientations: What is done with the EXIF orientation of the images; the manifest says so if any has one.
        batching: How the instances are batched on a GPU; None for a teacher on a CPU.
        converted_sha256: SHA-256 of the annotations after they were converted to COCO's format; None if they are in it.

    Returns:
        JSON values.
    """
    exif = None if orientations is None else orientations.to_json()
    return {
        "teacher": {
            "name": teacher.name,
            "weights_sha256": teacher.weights_sha256,
            "input_size": list(teacher.input_size),
            "heatmap_size": list(teacher.heatmap_size),
            **_pixels(teacher),
            "precision": teacher.precision,
            "parameters": teacher.parameters,
            "multiply_adds": teacher.multiply_adds,
            "flip_test": plan.flip_test,
            **_optional(teacher),
            **({"members": _members(teacher)} if teacher.members else {}),
        },
        **stated(teacher.skeleton),
        "logits": {"transform": "log", "floor": DEFAULT_FLOOR},
        "dataset": {
            "split": split,
            "annotations": file_identity(annotations)
            if converted_sha256 is None
            else {"name": annotations.name, "sha256": converted_sha256, "converted_from": "yolo-pose"},
            "boxes": file_identity(boxes),
            **selection,
        },
        "preprocessing": {
            "convention": "hrnet: box clipped, grown to the input's aspect, padded; centre at (width/2, height/2)",
            "padding": PADDING,
            "resampling": "bilinear, exact coordinates",
            "frame_size": list(frame_size),
            "frame_margin": FRAME_MARGIN,
            "frame_jpeg_quality": JPEG_QUALITY,
            **({} if exif is None else {ENTRY: exif}),
        },
        "views": plan.to_json(),
        "licence": LICENCE,
        "software": {
            **software(),
            "device": _device(teacher.device),
            **({} if batching is None else batching.to_json()),
        },
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _members(ensemble: Teacher) -> list[dict[str, Any]]:
    """Name and weights of each member, and its input size and pixels if they differ from those of the first one."""
    described: list[dict[str, Any]] = []
    for member in ensemble.members:
        own = member.input_size == ensemble.input_size
        size = {} if own else {"input_size": list(member.input_size)}
        pixels = {} if _pixels(member) == _pixels(ensemble) else _pixels(member)
        names = {"name": member.name, "weights_sha256": member.weights_sha256}
        described.append({**names, **size, **pixels, **_optional(member)})
    return described


def _pixels(teacher: Teacher) -> dict[str, Any]:
    """Normalisation and colour order of the pixels that a teacher takes; a function takes them as they are."""
    mean, std = teacher.normalisation or ((), ())
    return {
        "normalisation": {"mean": list(mean), "std": list(std)} if teacher.normalisation else None,
        "colour_order": teacher.colour_order,
    }


def _optional(teacher: Teacher) -> dict[str, Any]:
    """Entries of some teachers: why one runs crop by crop, how it computes heatmaps, which are kept, and its origin."""
    provider = "tensorrt" if teacher.provider == "tensorrt" else ""
    entries = {"crop_by_crop": teacher.crop_by_crop, "provider": provider, "udp": teacher.udp}
    stated = {name: value for name, value in entries.items() if value}
    return {**stated, **teacher.output, **teacher.taken.to_json(), **teacher.origin}


def _device(name: str) -> str:
    """The model of a device. Two devices of the same model compute the same values."""
    if name.startswith("cuda"):
        return str(torch.cuda.get_device_name(name))
    if name.startswith("mps"):
        return f"MPS, {processor_name()}"
    return f"CPU, {torch.backends.cpu.get_cpu_capability()}" if name == "cpu" else name


def software() -> dict[str, str]:
    """Versions of all software that affects a heatmap's values."""
    names = ("numpy", "zarr", "h5py", "numba")
    found = re.search(r"JPEG:\s+(.*)", cv2.getBuildInformation())
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "opencv": cv2.__version__,
        "libjpeg": found.group(1).strip() if found else "unknown",
        **{name: importlib.metadata.version(name) for name in names},
        "project": project_version(),
    }
