"""Student files: what a run writes to go on later, and what evaluation, report and export read.

A checkpoint is a dict of tensors and plain values, written beside and renamed, and read with ``weights_only=True``.
``best.pt`` holds a student as it was evaluated, the norms that it trained with folded in; ``last.pt`` the weights that
train, their average, the optimiser and the run's progress.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import torch

from kdlib.geometry import parse_size
from train.conv_norms import fold_norms
from train.errors import TrainError, not_written
from train.recipe import Recipe
from train.students import Student, build_student
from train.supervision import Supervision, default_sigma

VERSION = 1


@dataclasses.dataclass(frozen=True)
class TrainedStudent:
    """A student read back from a checkpoint."""

    model: Student
    name: str
    recipe: Recipe
    input_size: tuple[int, int]
    supervision: Supervision
    """Tells what the student's maps mean."""


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint so that the path never holds half of one.

    Raises:
        TrainError: If it cannot be written; an older checkpoint at the path is left as it was.
    """
    beside = path.with_name(path.name + ".tmp")
    try:
        with beside.open("wb") as file:
            torch.save({"version": VERSION, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except (OSError, RuntimeError) as error:
        of_disk = _of_disk(error)
        refusal = of_disk and not_written(path, path.parent, of_disk)
        beside.unlink(missing_ok=True)
        if refusal is None:
            raise
        raise refusal from error


def _of_disk(error: BaseException | None) -> OSError | None:
    """The disk's error, in place of which torch may raise one of its own on the way out."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        TrainError: If there is none or it is something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise TrainError(f"no student at {path}; train one with `python -m train distill` or `baseline`") from error
    except IsADirectoryError as error:
        raise TrainError(f"{path} is a folder; a run's student is {path / 'best.pt'}") from error
    except PermissionError as error:
        raise TrainError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # torch.load raises whatever the bytes of a foreign file lead it to
        raise TrainError(f"{path} is not a student's checkpoint: it is cut short, or no file of PyTorch") from error
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise TrainError(f"{path} is not a student's checkpoint of version {VERSION}")
    return content


def supervision_of(recipe: Recipe, input_size: tuple[int, int], floor: float, *, distil: bool) -> Supervision:
    """The loss that a recipe means for a student of that input size."""
    return Supervision(
        loss=recipe.loss,
        sigma=recipe.sigma or default_sigma(input_size[1] // recipe.stride),
        gt_weight=recipe.gt_weight if distil else 1.0,
        kd_weight=recipe.kd_weight if distil else 0.0,
        temperature=recipe.temperature,
        logits=recipe.logits,
        floor=floor,
        joints=recipe.joints,
        mse_weight=recipe.mse_weight,
        kd_schedule=recipe.kd_schedule if distil else "constant",
    )


def load_student(path: Path) -> TrainedStudent:
    """Rebuild the student of a checkpoint, in evaluation mode: the average of its weights where the run kept one."""
    content = read(path)
    recipe, input_size = Recipe.read(content["recipe"], path), parse_size(content["input_size"])
    model = build_student(recipe.student, recipe.head, content["joints"], input_size, recipe.stride)
    model.load_state_dict(fold_norms(content.get("ema", content["model"])))
    supervision = Supervision(**content["supervision"])
    return TrainedStudent(model.eval(), content["name"], recipe, input_size, supervision)
