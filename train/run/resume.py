"""Starting a run: anew, or where its last checkpoint ends."""

from typing import Any, Final

import numpy as np
import torch

from cache.errors import StoreFormatError
from cache.format.manifest import differences
from kdcli.progress import say
from kdlib.errors import BadRecordError, KdlibError
from kdlib.samples.dataset import StoreDataset
from kdlib.samples.loader import is_bad_record
from kdlib.students import checkpoint
from kdlib.students.norms import start_norms
from kdlib.students.pretrained import load_pretrained
from train.errors import TrainError
from train.recipe import BEFORE
from train.run.folder import write_history
from train.run.progress import Progress
from train.run.state import State
from train.run.step import compiler_problem

OBSERVED: Final = 64
"""Persons from whose crops added norms take their first statistics."""


def restore(state: State) -> None:
    """Start anew, or go on from ``last.pt``; rank 0 reads, and all have it."""
    content = None
    with state.ranks.together():
        if state.ranks.first and state.run.resume and state.last.exists():
            content = _read_last(state)
        elif state.ranks.first:
            _begin(state)
    content = state.ranks.from_first(content)
    if content is not None:
        state.stepper.load(content)
        state.progress = Progress.of(content["progress"])
        state.saved_step = state.progress.step
    state.stepper.connect(state.run.compile and _can_compile(state))


def _begin(state: State) -> None:
    state.refuse_taken()
    state.progress.start, pretrained = load_pretrained(state.model, state.recipe.student, state.recipe.pretrained)
    say(state.progress.start)
    if pretrained:
        pictures = _pictures(StoreDataset(state.run.store, state.run.input_size, views=None, images=state.run.images))
        if pictures:
            start_norms(state.model, torch.stack(pictures))


def _pictures(dataset: StoreDataset) -> list[torch.Tensor]:
    """Plain crops of `OBSERVED` persons spread over the store, without damaged records: training will report those."""
    pictures = []
    for index in np.linspace(0, len(dataset) - 1, min(OBSERVED, len(dataset))).astype(int):
        try:
            pictures.append(dataset[int(index)]["image"])
        except (StoreFormatError, BadRecordError) as error:
            if not is_bad_record(error):
                raise
    return pictures


def _read_last(state: State) -> dict[str, Any]:
    try:
        content = checkpoint.read(state.last)
    except KdlibError as error:
        raise TrainError(f"{error}; {_without_last(state)}") from error
    found = {key: content.get(key) for key in state.config} | {"recipe": BEFORE | content.get("recipe", {})}
    differing = differences(found, state.config, ignore=("store.name", "val_store.name"))
    if differing:
        raise TrainError(
            f"{state.last} belongs to another run, and resuming would change {'; '.join(differing)}: give the "
            "flags it was begun with, or another --out"
        )
    before = content["resolved"]
    if state.precision != before["precision"]:
        raise TrainError(
            f"{state.last} was trained in {before['precision']} and this is {state.precision}: give --precision"
        )
    if state.ranks.world != before["processes"]:
        say(f"{state.last} was written by {before['processes']} processes; going on with {state.ranks.world}")
    write_history(state.run.out, content["progress"]["history"])
    return content


def _without_last(state: State) -> str:
    """What is left of a run whose ``last.pt`` cannot be read."""
    best, anew = state.run.out / "best.pt", "start anew with another --out, or with --overwrite"
    try:
        epoch = checkpoint.read(best)["epoch"]
    except KdlibError:
        return f"the run cannot go on: {anew}"
    return (
        f"the run cannot go on, but {best}, of epoch {epoch}, is whole, and evaluate, predict and export take it: "
        f"{anew}, which deletes it"
    )


def _can_compile(state: State) -> bool:
    problem = compiler_problem(state.run.device)
    if problem and state.ranks.first:
        say(f"torch.compile does not work here ({problem}): going on without --compile")
    return state.ranks.highest(problem is not None) == 0
