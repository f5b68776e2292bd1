"""Starts a run from pretrained or random weights, or resumes it from its last checkpoint."""

from typing import Any, Final

import numpy as np
import torch

from cache.errors import StoreFormatError
from cache.format.manifest import differences
from kdcli.progress import say
from kdlib.errors import BadRecordError, KdlibError
from kdlib.samples.dataset import StoreDataset
from kdlib.samples.loader import is_bad_record
from kdlib.samples.mixture import MixedDataset, training_set
from kdlib.students import checkpoint
from kdlib.students.checkpoint import LEGACY_DEFAULTS
from kdlib.students.norms import start_norms
from kdlib.students.pretrained import load_pretrained
from train.errors import TrainError
from train.run.folder import RunFolder
from train.run.progress import Progress
from train.run.state import State, make_resident
from train.run.step import compiler_problem
from train.stores import training

FOLLOWING: Final = ("name", "instances")
"""Entries of a store's identity that do not identify it, or that follow from the others."""
NORM_SAMPLES: Final = 64
"""Number of instances whose crops give added norms their first statistics."""


def start_or_resume(state: State, folder: RunFolder) -> None:
    """Load ``last.pt`` if the run is resumed, else the pretrained weights. Rank 0 reads and broadcasts them.

    With ``--resident``, each rank then reads the store into the memory of its device.

    Raises:
        TrainError: On rank 0, if the folder holds another run or the checkpoint cannot be used; the other ranks exit.
    """
    content = None
    with state.ranks.fail_together():
        if state.ranks.first and state.run.resume and folder.last.exists():
            content = _read_last(state, folder)
        elif state.ranks.first:
            folder.check_free()
            _load_start(state)
    content = state.ranks.broadcast_object(content)
    if content is not None:
        state.stepper.load(content)
        state.progress = Progress.from_dict(content["progress"])
        folder.saved_step = state.progress.step
    compiled = state.run.compile and can_compile(state)
    state.stepper.wrap(compiled=compiled)
    make_resident(state, compiled=compiled)


def _load_start(state: State) -> None:
    recipe = state.run.recipe
    skeleton = state.loader.dataset.skeleton
    state.progress.start, is_pretrained = load_pretrained(state.model, recipe.student, recipe.pretrained, skeleton)
    say(state.progress.start)
    if is_pretrained:
        crops = _sample_crops(training_set(state.run.parts, state.run.input_size, views=None))
        if crops:
            start_norms(state.model, torch.stack(crops))


def _sample_crops(dataset: StoreDataset | MixedDataset) -> list[torch.Tensor]:
    """Plain crops of `NORM_SAMPLES` instances spread over the stores; the training reports damaged records later."""
    crops = []
    for index in np.linspace(0, len(dataset) - 1, min(NORM_SAMPLES, len(dataset))).astype(int):
        try:
            crops.append(dataset[int(index)]["image"])
        except (StoreFormatError, BadRecordError) as error:
            if not is_bad_record(error):
                raise
    return crops


def _read_last(state: State, folder: RunFolder) -> dict[str, Any]:
    try:
        content = checkpoint.read(folder.last)
    except KdlibError as error:
        raise TrainError(f"{error}; {_describe_without_last(folder)}") from error
    recipe = LEGACY_DEFAULTS | content.get("recipe", {})
    found = {key: content.get(key) for key in state.config} | {"recipe": recipe}
    given, ignored = dict(state.config), ["store.name", "val_store.name"]
    if isinstance(found["store"], list) or isinstance(given["store"], list):  # name each store by its number
        found["store"], given["store"] = training(found), training(given)
        ignored += [f"store[{i}].{name}" for i in range(len(found["store"] + given["store"])) for name in FOLLOWING]
    differing = differences(found, given, ignored)
    if differing:
        raise TrainError(
            f"{folder.last} belongs to another run, and resuming would change {'; '.join(differing)}: give the "
            "flags that the run was started with, or another --out"
        )
    before = content["resolved"]
    if state.precision != before["precision"]:
        raise TrainError(
            f"{folder.last} was trained in {before['precision']}, but this run would use {state.precision}: give "
            f"--precision {before['precision']}"
        )
    if state.ranks.world != before["processes"]:
        say(f"{folder.last} was written by {before['processes']} processes; continuing with {state.ranks.world}")
    folder.delete_partial_files()
    folder.write_history(content["progress"]["history"])
    return content


def _describe_without_last(folder: RunFolder) -> str:
    """Describe what can be used of a run whose ``last.pt`` cannot be read."""
    restart = "start again with another --out, or with --overwrite"
    try:
        epoch = checkpoint.read(folder.best)["epoch"]
    except KdlibError:
        return f"the run cannot be resumed: {restart}"
    return (
        f"the run cannot be resumed, but {folder.best}, of epoch {epoch}, is complete, and evaluate, predict and "
        f"export accept it: {restart}, which deletes it"
    )


def can_compile(state: State) -> bool:
    """Whether ``torch.compile`` works on every rank; if not, rank 0 prints the reason."""
    problem = compiler_problem(state.run.device)
    if problem and state.ranks.first:
        say(f"torch.compile does not work here ({problem}): continuing without --compile")
    return state.ranks.highest(problem is not None) == 0
