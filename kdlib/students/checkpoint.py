"""Reading checkpoints, the files in which a training run stores its student.

A checkpoint is a dict of tensors and plain values, read with ``weights_only=True``. ``best.pt`` holds a student as it
was evaluated: the batch norms that it was trained with are folded into its convolutions. ``last.pt`` holds the weights
that are being trained, their average, the optimiser and the progress of the run. A change to what a student computes
from the same entries must raise `VERSION`.
"""

from pathlib import Path
from typing import Any, Final

import torch

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
    unknown = dict(content.get("recipe", {})).keys() - RECIPE_SETTINGS
    if unknown:
        raise KdlibError(
            f"{path} has a recipe that this version cannot read ({', '.join(sorted(unknown))}): a newer version may "
            "have written it"
        )
    return content
