"""What a store's manifest says about where its heatmaps come from. No path of this machine goes into it."""

import datetime
import hashlib
import importlib.metadata
import json
import platform
import re
from pathlib import Path
from typing import Any

import cv2
import torch

from kdlib.geometry import PADDING
from kdlib.losses import DEFAULT_FLOOR
from kdlib.machine.version import project_version
from precompute.data.crops import JPEG_QUALITY
from precompute.data.views import FRAME_MARGIN, ViewPlan
from precompute.errors import PrecomputeError
from precompute.run.job import Job
from precompute.teacher.loading import Teacher

LICENCE = (
    "The heatmaps derive from the images and from the teacher's weights, the frames are parts of the images: the "
    "licences of both apply. COCO's images keep their photographers' Flickr licences."
)


def file_identity(path: Path | None) -> dict[str, str] | None:
    """Name and sha256 of a file."""
    if path is None:
        return None
    with path.open("rb") as file:
        return {"name": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def describe(
    teacher: Teacher,
    *,
    annotations: Path,
    boxes: Path | None,
    split: str,
    selection: dict[str, Any],
    plan: ViewPlan,
    frame_size: tuple[int, int],
    licence: str = LICENCE,
) -> dict[str, Any]:
    """Provenance of a store; `software` and `created` are for information, all else must match on resume."""
    mean, std = teacher.normalisation
    return {
        "teacher": {
            "name": teacher.name,
            "weights_sha256": teacher.weights_sha256,
            "input_size": list(teacher.input_size),
            "heatmap_size": list(teacher.heatmap_size),
            "normalisation": {"mean": list(mean), "std": list(std)},
            "colour_order": teacher.colour_order,
            "precision": teacher.precision,
            "parameters": teacher.parameters,
            "multiply_adds": teacher.multiply_adds,
            "flip_test": plan.flip_test,
            **({"members": _members(teacher)} if teacher.members else {}),
        },
        "logits": {"transform": "log", "floor": DEFAULT_FLOOR},
        "dataset": {
            "split": split,
            "annotations": file_identity(annotations),
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
        },
        "views": plan.to_json(),
        "licence": licence,
        "software": {**software(), "device": _device(teacher.device)},
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _members(ensemble: Teacher) -> list[dict[str, Any]]:
    """Who was averaged; the input size of those that do not look at the ensemble's own."""
    described: list[dict[str, Any]] = []
    for member in ensemble.members:
        own = member.input_size == ensemble.input_size
        size = {} if own else {"input_size": list(member.input_size)}
        described.append({"name": member.name, "weights_sha256": member.weights_sha256, **size})
    return described


def _device(name: str) -> str:
    """What a device is: two of one kind compute the same."""
    if name.startswith("cuda"):
        return str(torch.cuda.get_device_name(name))
    return f"CPU, {torch.backends.cpu.get_cpu_capability()}"


def software() -> dict[str, str]:
    """Versions of everything that decides a heatmap's value."""
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


INFORMATIVE = ("software", "created")
"""Entries of the provenance that may differ between two runs of one store."""


def refuse_other(job: Job, store: Any, codec: Any, provenance: dict[str, Any]) -> str:
    """Compare a finished store with what this run would make.

    Returns:
        One line that says that there is nothing to do.

    Raises:
        PrecomputeError: If it is another store; the message names the entries that differ.
    """
    stored = {**store.manifest["provenance"], "codec": store.spec.codec.to_json(), "frames": store.has_frames}
    wanted = {**json.loads(json.dumps(provenance)), "codec": codec.to_json(), "frames": job.cropper.frames}
    differing = sorted(_differences(stored, wanted))
    if differing:
        raise PrecomputeError(
            f"{store.path} is complete and another store than this run would make: it differs in "
            f"{'; '.join(differing)}. Give another --store, or replace it with --overwrite instead of --resume"
        )
    return f"{store.path} is complete: nothing to do"


def _differences(stored: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> list[str]:
    """Entries that differ, as ``path: stored, now wanted``."""
    differing = []
    for key in sorted({*stored, *wanted} - set(INFORMATIVE)):
        before, now = stored.get(key), wanted.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            differing += _differences(before, now, f"{prefix}{key}.")
        elif before != now:
            differing.append(f"{prefix}{key}: {before!r}, now {now!r}")
    return differing
