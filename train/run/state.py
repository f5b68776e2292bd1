"""The parts of one run (student, loaders, optimiser, progress), and what its checkpoints hold of them."""

import copy
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch

from kdlib.machine.device import choose_precision
from kdlib.samples.dataset import StoreDataset
from kdlib.samples.loader import Loader
from kdlib.samples.views import Augmentation
from kdlib.students.loading import TorchStudent
from kdlib.students.networks import build_student
from kdlib.students.norms import fold_norms
from train.errors import TrainError
from train.evaluate import student_loader
from train.run.folder import discard, make_folder, refuse_taken, save_checkpoint, write_history, write_text
from train.run.progress import Progress
from train.run.settings import Run
from train.run.step import Stepper
from train.supervision import supervision_of

VAL_BATCH = 64


class State:
    """Everything that a run is made of and that its checkpoints hold.

    Raises:
        TrainError: If the stores do not fit each other, the recipe, or the number of ranks.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.recipe, self.ranks = run, run.recipe, run.ranks
        torch.manual_seed(self.recipe.seed)
        self.supervision = supervision_of(
            self.recipe, run.input_size, run.store.manifest["provenance"]["logits"]["floor"], distil=run.distil
        )
        needs_labels = not self.supervision.kd_weight or self.supervision.joints == "labelled"
        if needs_labels and not (run.store.instances["keypoints"][..., 2] > 0).any():
            raise TrainError(
                f"{run.store.path} holds no labelled joint, and only labelled joints were to teach; python -m train "
                "distill, without --kd-weight 0 and --joints labelled, learns from its teacher"
            )
        self.model = build_student(
            self.recipe.student, self.recipe.head, run.store.spec.joints, run.input_size, self.recipe.stride
        )
        self.model.to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._plain = copy.deepcopy(self.model)
        if self.recipe.backbone_norm == "batch":
            self.model.add_norms()
        self.part = (self.ranks.rank, self.ranks.world)
        self.loader = self._loader()
        self.val_loader = student_loader(
            run.val_store, run.input_size, VAL_BATCH, run.device, run.val_images, part=self.part
        )
        self.steps = self.recipe.epochs * len(self.loader)
        self.precision = choose_precision(self.recipe.precision, run.device)
        bf16 = self.precision == "bf16"
        self.stepper = Stepper(self.model, self.supervision, self.recipe, self.steps, run.ranks, bf16=bf16)
        self.progress = Progress()
        self.saved_step, self._saved_at = 0, time.monotonic()

    def _loader(self) -> Loader:
        run, recipe = self.run, self.recipe
        augmentation = Augmentation(recipe.flip, recipe.rotation, scale=recipe.scale, half_body=recipe.half_body)
        views = recipe.views if self.supervision.kd_weight > 0 else None
        dataset = StoreDataset(
            run.store,
            run.input_size,
            augmentation,
            stride=recipe.stride,
            views=views,
            images=run.images,
            seed=recipe.seed,
        )
        loader = Loader(
            dataset,
            recipe.batch_size,
            shuffle=True,
            threads=run.threads or self.ranks.threads,
            device=run.device,
            order=recipe.order,
            part=self.part,
            skip_bad=run.skip_bad_records,
        )
        if loader.batch_size < recipe.accumulate * self.ranks.world:
            raise TrainError(
                f"a batch of {loader.batch_size} cannot be shared by {self.ranks.world} processes with --accumulate "
                f"{recipe.accumulate}: give a larger --batch-size"
            )
        return loader

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration, as ``config.json`` keeps it and a resumed run must match it."""
        width, height = self.run.input_size
        return {
            "name": self.run.name,
            "recipe": dataclasses.asdict(self.recipe),
            "supervision": dataclasses.asdict(self.supervision),
            "input_size": f"{height}x{width}",
            "joints": self.run.store.spec.joints,
            "store": _identity(self.run.store),
            "val_store": _identity(self.run.val_store),
        }

    @property
    def resolved(self) -> dict[str, Any]:
        """What was decided here and now."""
        return {
            "device": str(self.run.device),
            "precision": self.precision,
            "start": self.progress.start,
            "processes": self.ranks.world,
        }

    @property
    def last(self) -> Path:
        """The checkpoint to go on from."""
        return self.run.out / "last.pt"

    def refuse_taken(self) -> None:
        """Raise `TrainError` if the folder holds a run that is neither to go on nor to be replaced."""
        if not (self.run.resume or self.run.overwrite):
            refuse_taken(self.run.out)

    def take_folder(self) -> None:
        """Begin the run folder, after the first step: a run that fails before it leaves all as it was."""
        with self.ranks.together():
            if self.ranks.first:
                self.refuse_taken()
                if self.run.overwrite:
                    discard(self.run.out)
                make_folder(self.run.out)
                config = {**self.config, "resolved": self.resolved}
                write_text(self.run.out / "config.json", json.dumps(config, indent=2) + "\n")
                write_history(self.run.out, [])

    @property
    def has_unsaved_steps(self) -> bool:
        """Would a kill now lose steps?"""
        return self.progress.step > self.saved_step

    def is_checkpoint_due(self) -> bool:
        """Has the run gone on for long enough since the last checkpoint?"""
        steps, seconds = self.progress.step - self.saved_step, time.monotonic() - self._saved_at
        return self.run.checkpoint_every.is_over(steps, seconds)

    def save(self) -> None:
        """Write ``last.pt``."""
        if self.ranks.first:
            content = {**self.config, **self.stepper.state(), "resolved": self.resolved}
            save_checkpoint(self.last, {**content, "progress": self.progress.as_dict()})
        self.saved_step, self._saved_at = self.progress.step, time.monotonic()

    def plain_student(self) -> TorchStudent:
        """The student as it is now, with its added norms folded in: the network that is evaluated and kept."""
        self.stepper.agree_on_statistics()
        self._plain.load_state_dict(fold_norms(self.stepper.student.state_dict()))
        return TorchStudent(self._plain.eval(), self.supervision.readout, self.run.input_size, name=self.run.name)

    def keep_best(self, student: TorchStudent, metrics: dict[str, Any]) -> None:
        """Write ``best.pt`` if no epoch was better."""
        best = self.progress.best
        if best is None or (metrics["ap"] or 0.0) > (best["ap"] or 0.0):
            self.progress.best = metrics
            content = {**self.config, "model": student.model.state_dict(), "resolved": self.resolved}
            save_checkpoint(self.run.out / "best.pt", {**content, "epoch": self.progress.epoch})

    def how_to_go_on(self) -> str:
        """Where the run is, and what a resumed one would start from."""
        where = f"after step {self.progress.step} of {self.steps}, in epoch {self.progress.epoch + 1}"
        return f"{where}; {self.kept()}" + (", --resume goes on from it" if self.saved_step else "")

    def kept(self) -> str:
        """What the last checkpoint of this run holds; one that --overwrite has not yet thrown away is another's."""
        return f"{self.last} holds step {self.saved_step}" if self.saved_step else "there is no checkpoint yet"


def _identity(store: Any) -> dict[str, Any]:
    return {"name": store.path.name, "content_sha256": store.manifest["content_sha256"]}
