"""Builds the parts of a training run from its settings: loss, batches, student, optimiser, progress."""

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch

from cache import Store
from cache.errors import StoreFormatError
from kdcli.progress import say, show_progress
from kdlib.errors import BadRecordError
from kdlib.machine.device import choose_precision, uses_tf32
from kdlib.samples.dataset import StoreDataset, store_skeleton
from kdlib.samples.loader import Loader
from kdlib.samples.mixture import MixedDataset, training_set
from kdlib.samples.resident import ResidentDataset, why_not_resident
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
from train.run.stopping import describe_loader_problem
from train.sources import Sources
from train.stores import identities, identity, manifests
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
            self.loader.dataset.skeleton,
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
            "joints": len(self.loader.dataset.skeleton),
            **stated(self.loader.dataset.skeleton),
            "store": identities(self.loader.dataset),
            "val_store": identity(self.run.val_store),
        }

    @property
    def sources(self) -> Sources:
        """The instances that the run learns from."""
        dataset = self.loader.dataset
        return Sources(dataset.instances, len(dataset.rows), dataset.labelled, self.steps)

    @property
    def manifests(self) -> dict[str, Any]:
        """The manifests of the stores. They hold no path of this machine."""
        return {"store": manifests(self.run.parts), "val_store": dict(self.run.val_store.manifest)}

    @property
    def resolved(self) -> dict[str, Any]:
        """Values that depend on this machine and this start of the run."""
        return {
            "device": str(self.run.device),
            "precision": self.precision,
            "tf32": uses_tf32(),
            "start": self.progress.start,
            "processes": self.ranks.world,
            "resident": isinstance(self.loader.dataset, ResidentDataset),
        }


def build_state(run: Run) -> State:
    """Build the parts of a run, with random weights and no progress.

    Raises:
        TrainError: If the store has no labels that the loss needs, or the batch is too small for the ranks.
        KdlibError: If the stores and the student do not fit each other.
    """
    recipe = run.recipe
    torch.manual_seed(recipe.seed)
    stores = [part.store for part in run.parts]
    floor = max(store.manifest["provenance"]["logits"]["floor"] for store in stores)
    supervision = supervision_of(recipe, run.input_size, floor, distil=run.distil)
    _check_labels(stores, supervision)
    check_joints(run.val_store, store_skeleton(stores[0]), str(stores[0].path))
    model = build_student(recipe.student, recipe.head, stores[0].spec.joints, run.input_size, recipe.stride)
    model.to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    folded = copy.deepcopy(model)
    if recipe.backbone_norm == "batch":
        model.add_norms()
    loader = _build_loader(run, supervision)
    val_loader = student_loader(
        run.val_store,
        run.input_size,
        VAL_BATCH,
        run.device,
        run.val_images,
        part=(run.ranks.rank, run.ranks.world),
        threads=run.loader_threads,
    )
    precision = choose_precision(recipe.precision, run.device)
    steps = recipe.epochs * len(loader)
    stepper = Stepper(model, supervision, recipe, steps, run.ranks, bf16=precision == "bf16")
    return State(run, supervision, loader, val_loader, stepper, folded, precision)


def _check_labels(stores: Sequence[Store], supervision: Supervision) -> None:
    if supervision.needs_labels and not any(has_labels(store) for store in stores):
        raise TrainError(
            f"{' and '.join(str(store.path) for store in stores)} holds no labelled joint, but this run uses labelled "
            "joints only. To train on the store's teacher, run python -m train distill without --kd-weight 0 and "
            "--joints labelled"
        )


def has_labels(store: Store) -> bool:
    """Whether a joint of a store is labelled."""
    return bool((store.instances["keypoints"][..., 2] > 0).any())


def _build_loader(run: Run, supervision: Supervision) -> Loader:
    recipe, ranks = run.recipe, run.ranks
    dataset = training_set(
        run.parts,
        run.input_size,
        Augmentation(recipe.flip, recipe.rotation, scale=recipe.scale, half_body=recipe.half_body),
        stride=recipe.stride,
        views=recipe.views if supervision.kd_weight > 0 else None,
        seed=recipe.seed,
        labelled_only=supervision.needs_labels,
    )
    loader = Loader(
        dataset,
        recipe.batch_size,
        shuffle=True,
        threads=run.loader_threads,
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


def make_resident(state: State, *, compiled: bool) -> None:
    """Read the training store into the memory of the device, if ``--resident`` demands it and, for ``auto``, it fits.

    All ranks call this, and either all or none of them keep the store. With ``compiled``, samples are made by compiled
    code.

    Raises:
        TrainError: On rank 0, if the store does not fit, or a record is bad; the other ranks exit without a message.
    """
    run, ranks, loader, dataset = state.run, state.ranks, state.loader, state.loader.dataset
    if run.resident == "off" or (run.resident == "auto" and run.device.type == "cpu"):
        return
    with ranks.fail_together(), _named_records():
        if isinstance(dataset, MixedDataset):
            own: str | None = "the memory of the device can hold one store, and this run has several"
        else:
            own = why_not_resident(dataset, run.device)
    problem = next((found for found in ranks.gather(own) if found is not None), None)
    if problem is not None and run.resident == "on":
        ranks.fail(f"{problem}: leave --resident out, or give --resident auto")
    elif problem is not None:
        if ranks.first:
            say(f"{problem}: continuing without --resident")
        return
    assert isinstance(dataset, StoreDataset)  # noqa: S101 - several stores are a problem
    bar = show_progress("read into device memory", "instances", shown=ranks.first, transient=True)
    with ranks.fail_together(), _named_records(), bar as progress:
        loader.dataset = ResidentDataset(
            dataset,
            run.device,
            threads=run.loader_threads,
            compiled=compiled,
            skip_bad=run.skip_bad_records,
            progress=progress,
        )


@contextlib.contextmanager
def _named_records() -> Iterator[None]:
    """Add to the error of a bad record how to train without it."""
    try:
        yield
    except (BadRecordError, StoreFormatError) as error:
        raise TrainError(describe_loader_problem(error)) from error
