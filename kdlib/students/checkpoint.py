"""Reading checkpoints, the files in which a training run stores its student.

A checkpoint is a dict of tensors and plain values, read with ``weights_only=True``. ``best.pt`` holds a student as it
was evaluated: the batch norms that it was trained with are folded into its convolutions. ``last.pt`` holds the weights
that are being trained, their average, the optimiser and the progress of the run. A change to what a student computes
from the same entries must raise `VERSION`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from kdlib.errors import KdlibError
from kdlib.geometry import STRIDE

VERSION: Final = 1
RECIPE_SETTINGS: Final = frozenset(
    (
        "student",
        "head",
        "stride",
        "input_size",
        "pretrained",
        "backbone_norm",
        "epochs",
        "evaluate_every",
        "batch_size",
        "accumulate",
        "learning_rate",
        "weight_decay",
        "warmup",
        "clip",
        "ema",
        "precision",
        "seed",
        "order",
        "loss",
        "mse_weight",
        "sigma",
        "gt_weight",
        "kd_weight",
        "kd_schedule",
        "temperature",
        "logits",
        "joints",
        "views",
        "flip",
        "rotation",
        "scale",
        "half_body",
    )
)
"""The entries of ``recipe`` that this version knows: the fields of `train.recipe.Recipe`."""

LEGACY_DEFAULTS: Final[dict[str, Any]] = {"backbone_norm": "none", "stride": STRIDE, "evaluate_every": 1}
"""Values of the settings that are missing in recipes written before these settings existed."""


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        KdlibError: If the file is missing, cannot be read, is not a checkpoint of this `VERSION`, or has a recipe with
            settings that this version does not know.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise KdlibError(f"no student at {path}; train one with `python -m train distill` or `baseline`") from error
    except IsADirectoryError as error:
        raise KdlibError(f"{path} is a folder; a run's student is {path / 'best.pt'}") from error
    except PermissionError as error:
        raise KdlibError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # torch.load raises many kinds of exceptions for other formats
        raise KdlibError(
            f"{path} is not a student's checkpoint: it is truncated or was not written by PyTorch"
        ) from error
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise KdlibError(f"{path} is not a student's checkpoint of version {VERSION}")
    recipe = content.get("recipe", {})
    if not isinstance(recipe, dict):
        raise KdlibError(f"{path} is not a complete checkpoint of a student: its recipe is a {type(recipe).__name__}")
    unknown = recipe.keys() - RECIPE_SETTINGS
    if unknown:
        raise KdlibError(
            f"{path} has a recipe that this version cannot read ({', '.join(sorted(unknown))}): a newer version may "
            "have written it"
        )
    return content


def is_checkpoint(path: Path) -> bool:
    """Whether a file holds a checkpoint, of whichever version."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a missing file, or one of the many kinds of exceptions for other formats
        return False
    return isinstance(content, dict) and {"version", "recipe"} <= content.keys()


def describe_misfit(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], part: str) -> str:
    """How a state dict differs from the wanted one, as a clause about its file; ``part`` is the part of the network."""
    needed = [key for key in wanted if not key.endswith("num_batches_tracked")]  # torch loads without these
    present = [key for key in needed if key in found]
    if len(present) < len(needed):
        return f"it has {len(present)} of the {len(needed)} tensors of the {part}"
    others = [key for key in present if found[key].shape != wanted[key].shape]
    if others:
        return f"{len(others)} of the {len(needed)} tensors of the {part} have other shapes in it"
    unknown = next((key for key in found if key not in wanted), "")
    return f"its entry {unknown!r} does not belong to the {part}"
