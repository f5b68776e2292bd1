"""Builds the parts of a training run from its settings: loss, batches, student, optimiser, progress."""

import copy
import dataclasses
from typing import Any, Final

import torch

from cache import Store
from kdlib.machine.device import choose_precision
from kdlib.samples.dataset import StoreDataset, store_skeleton
from kdlib.samples.loader import Loader
from kdlib.samples.views import Augmentation
from kdlib.skeletons.reading import stated
from kdlib.students.loading import TorchStudent
from kdlib.students.networks import Student, build_student
from kdlib.students.norms import fold_norms
from train.errors import TrainError
from train.evaluate import check_joints, student_loader
from train.run.progress import Progress
from train.run.ranks import Ranks
from train.run.settings import Run
from train.run.step import Stepper
from train.sources import Sources
from train.supervision import Supervision, supervision_of

VAL_BATCH: Final = 64
"""Instances per batch of an evaluation."""


@dataclasses.dataclass
class State:
    """The parts of one run.

    Attributes:
        run: The run's inputs.
        supervision: The loss.
        loader, val_loader: Batches for training and for evaluation; each rank loads its part of them.
        stepper: The student in training with its optimiser.
        folded: A copy of the student without added norms; `current_student` fills it.
        precision: ``fp32`` or ``bf16``.
        progress: The progress of the run.
    """

    run: Run
    supervision: Supervision
    loader: Loader
    val_loader: Loader
    stepper: Stepper
    folded: Student
    precision: str
    progress: Progress = dataclasses.field(default_factory=Progress)

    @property
    def ranks(self) -> Ranks:
        """The processes that share the run."""
        return self.run.ranks

    @property
    def model(self) -> Student:
        """The student in training."""
        return self.stepper.model

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.stepper.steps

    def current_student(self) -> TorchStudent:
        """The student with its current weights, added norms folded in: the network that is evaluated and saved."""
        self.stepper.broadcast_buffers()
        self.folded.load_state_dict(fold_norms(self.stepper.student.state_dict()))
        return TorchStudent(
            self.folded.eval(),
            self.supervision.readout,
            self.run.input_size,
            store_skeleton(self.run.store),
            name=self.run.name,
        )

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that ``config.json`` and checkpoints hold, and that a resumed run must match."""
        width, height = self.run.input_size
        return {
            "name": self.run.name,
            "recipe": dataclasses.asdict(self.run.recipe),
            "supervision": dataclasses.asdict(self.supervision),
            "input_size": f"{height}x{width}",
            "joints": self.run.store.spec.joints,
            **stated(store_skeleton(self.run.store)),
            "store": _identity(self.run.store),
            "val_store": _identity(self.run.val_store),
        }

    @property
    def sources(self) -> Sources:
        """The instances that the run learns from."""
        dataset = self.loader.dataset
        labelled = (dataset.keypoints[dataset.rows, :, 2] > 0).any(axis=1)
        return Sources(len(dataset), len(dataset.rows), int(labelled.sum()), self.steps)

    @property
    def manifests(self) -> dict[str, Any]:
        """The manifests of the stores. They hold no path of this machine."""
        return {"store": dict(self.run.store.manifest), "val_store": dict(self.run.val_store.manifest)}

    @property
    def resolved(self) -> dict[str, Any]:
        """Values that depend on this machine and this start of the run."""
        return {
            "device": str(self.run.device),
            "precision": self.precision,
            "start": self.progress.start,
            "processes": self.ranks.world,
        }


def build_state(run: Run) -> State:
    """Build the parts of a run, with random weights and no progress.

    Raises:
        TrainError: If the store has no labels that the loss needs, or the batch is too small for the ranks.
        KdlibError: If the stores and the student do not fit each other.
    """
    recipe = run.recipe
    torch.manual_seed(recipe.seed)
    floor = run.store.manifest["provenance"]["logits"]["floor"]
    supervision = supervision_of(recipe, run.input_size, floor, distil=run.distil)
    _check_labels(run.store, supervision)
    check_joints(run.val_store, store_skeleton(run.store), str(run.store.path))
    model = build_student(recipe.student, recipe.head, run.store.spec.joints, run.input_size, recipe.stride)
    model.to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    folded = copy.deepcopy(model)
    if recipe.backbone_norm == "batch":
        model.add_norms()
    loader = _build_loader(run, supervision)
    part = (run.ranks.rank, run.ranks.world)
    val_loader = student_loader(run.val_store, run.input_size, VAL_BATCH, run.device, run.val_images, part=part)
    precision = choose_precision(recipe.precision, run.device)
    steps = recipe.epochs * len(loader)
    stepper = Stepper(model, supervision, recipe, steps, run.ranks, bf16=precision == "bf16")
    return State(run, supervision, loader, val_loader, stepper, folded, precision)


def _check_labels(store: Store, supervision: Supervision) -> None:
    if supervision.needs_labels and not (store.instances["keypoints"][..., 2] > 0).any():
        raise TrainError(
            f"{store.path} holds no labelled joint, but this run uses labelled joints only. To train on the store's "
            "teacher, run python -m train distill without --kd-weight 0 and --joints labelled"
        )


def _build_loader(run: Run, supervision: Supervision) -> Loader:
    recipe, ranks = run.recipe, run.ranks
    dataset = StoreDataset(
        run.store,
        run.input_size,
        Augmentation(recipe.flip, recipe.rotation, scale=recipe.scale, half_body=recipe.half_body),
        stride=recipe.stride,
        views=recipe.views if supervision.kd_weight > 0 else None,
        images=run.images,
        seed=recipe.seed,
        labelled_only=supervision.needs_labels,
    )
    loader = Loader(
        dataset,
        recipe.batch_size,
        shuffle=True,
        threads=run.threads or ranks.threads,
        device=run.device,
        order=recipe.order,
        part=(ranks.rank, ranks.world),
        skip_bad=run.skip_bad_records,
    )
    if loader.batch_size < recipe.accumulate * ranks.world:
        raise TrainError(
            f"a batch of {loader.batch_size} cannot be split over {ranks.world} processes with --accumulate "
            f"{recipe.accumulate}: give a larger --batch-size"
        )
    return loader


def _identity(store: Store) -> dict[str, Any]:
    return {"name": store.path.name, "content_sha256": store.manifest["content_sha256"]}
