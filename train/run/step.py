"""One step of the optimiser, for any number of processes, and of parts into which a batch is split.

A term of the loss is a weighted mean over joints, and the sum of the weights differs from part to part. The mean of the
whole batch is therefore not the mean of the parts' means: each part's mean is weighted by its share of the total
weight. The number of processes then changes a step by rounding errors only. The same holds for the number of parts,
unless the student has batch norms, which normalise one part at a time.
"""

import contextlib
import copy
import dataclasses
import inspect
import itertools
import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdlib.images import normalise_images
from kdlib.students.networks import Student
from train.recipe import Recipe
from train.run.batch_norm import has_equal_buffers, share_statistics
from train.run.ranks import Ranks
from train.supervision import Batch, Supervision

_SYNC_BUFFERS: Final = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")  # the second one is torch's before 2.14
    if name in inspect.signature(DistributedDataParallel).parameters
)
"""The option of DDP that lets every forward pass begin with a broadcast of all buffers."""


@dataclasses.dataclass(frozen=True)
class Measurements:
    """The terms of the loss and the gradient's norm of one step.

    They stay on the device until `read`, for which the host waits: a GPU that is asked after every step is idle while
    the host prepares the next one.
    """

    step: int
    """Steps done, including this one."""
    names: tuple[str, ...]
    """The terms of the loss."""
    terms: Tensor
    """(terms,) of the batch of all ranks."""
    norm: Tensor
    """The gradient's norm before clipping, a scalar."""
    rows: Tensor
    """The store's rows of this rank's part of the batch, on the CPU."""

    def read(self) -> dict[str, float]:
        """Wait for the device; returns ``loss`` and its terms."""
        of_terms = self.terms.tolist()
        return {"loss": math.fsum(of_terms), **dict(zip(self.names, of_terms, strict=True))}


class Stepper:
    """A student with its optimiser. No method waits for the device.

    Args:
        model: The student, trained in place.
        supervision: The loss.
        recipe: Learning rate, clipping, accumulation and average.
        steps: Steps of the whole run, for the learning rate.
        ranks: The processes that share each batch.
        bf16: Run the student under autocast to bfloat16.
    """

    def __init__(
        self, model: Student, supervision: Supervision, recipe: Recipe, steps: int, ranks: Ranks, *, bf16: bool
    ) -> None:
        self.model, self.supervision, self.recipe, self.steps, self.ranks = model, supervision, recipe, steps, ranks
        if ranks.world > 1:
            share_statistics(model, ranks.device)
        self.optimizer = torch.optim.AdamW(_parameter_groups(model, recipe.weight_decay), fused=True)
        self.average = WeightAverage(model, recipe.ema) if recipe.ema else None
        self._autocast = torch.autocast(ranks.device.type, torch.bfloat16, enabled=bf16)
        self.skips_on_device = ranks.device.type == "cuda"  # the optimisers of other devices may not skip
        self._parallel: DistributedDataParallel | None = None
        self._network: Callable[[Tensor], Tensor] = model

    @property
    def student(self) -> Student:
        """The student that is evaluated and saved: the average of the weights if there is one."""
        return self.model if self.average is None else self.average.module

    def wrap(self, *, compiled: bool) -> None:
        """Wrap the model for training on all ranks and for the compiler. Its initial weights must be loaded before."""
        if self.ranks.world > 1:
            with self.ranks.watch_connection():
                for buffer in self.model.buffers():
                    self.ranks.broadcast(buffer)
                options: dict[str, Any] = {_SYNC_BUFFERS: not has_equal_buffers(self.model)}
                self._network = self._parallel = DistributedDataParallel(self.model, **options)
        if compiled:
            self._network = torch.compile(self._network)

    def broadcast_buffers(self) -> None:
        """Copy rank 0's buffers to all ranks: norms that `share_statistics` does not replace differ between ranks.

        Before each evaluation that is enough, because no batch norm reads its buffers in training.
        """
        for buffer in self.student.buffers():
            self.ranks.broadcast(buffer)

    def state(self) -> dict[str, Any]:
        """Weights, average and optimiser, for a checkpoint."""
        state: dict[str, Any] = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.average is not None:
            state |= {"ema": self.student.state_dict(), "ema_updates": self.average.updates}
        return state

    def load(self, state: dict[str, Any]) -> None:
        """Load weights, average and optimiser that `state` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.student.load_state_dict(state["ema"])
            self.average.updates = state["ema_updates"]

    def step(self, batch: Batch, step: int) -> Measurements:
        """Do one step of the optimiser, unless the loss or the gradient is not finite: then no weight changes.

        Args:
            batch: This rank's part of the batch.
            step: Steps done so far.
        """
        terms = self.compute_gradients(batch, step)
        values, norm = torch.stack(list(terms.values())), self.clip()
        self.update(step, skip=~(values.isfinite().all() & norm.isfinite()))
        return Measurements(step + 1, tuple(terms), values, norm, batch["row"])

    def compute_gradients(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Compute the gradients of a batch.

        Args:
            batch: This rank's part of the batch.
            step: Steps done so far.

        Returns:
            The terms of the loss over the batch of all ranks, scalars on the device.
        """
        torch.manual_seed(_seed(self.recipe.seed, step, self.ranks.rank))
        self.optimizer.zero_grad(set_to_none=True)
        parts = _split(batch, self.recipe.accumulate)
        shares = self._shares(parts)
        losses: list[Tensor] = []
        for i, part in enumerate(parts):
            with self.ranks.watch_connection(), self._exchange_gradients(now=i == len(parts) - 1):
                with self._autocast:
                    maps = self._network(normalise_images(part["image"]))
                terms = self.supervision.terms(maps, part, step / self.steps)
                values = torch.stack(
                    [value * shares[i][name] if name in shares[i] else value for name, value in terms.items()]
                )
                values.sum().backward()
                losses.append(values.detach())
        of_terms = losses[0] if len(losses) == 1 else torch.stack(losses).sum(0)
        if self.ranks.world > 1:
            of_terms = self.ranks.total(of_terms) / self.ranks.world
        return dict(zip(terms, of_terms, strict=True))

    def clip(self) -> Tensor:
        """Clip the gradient to the recipe's largest norm; returns the norm before clipping, the same on all ranks."""
        return nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip or math.inf)

    def update(self, step: int, skip: Tensor) -> None:
        """Update the weights and their average.

        Args:
            step: Steps done so far.
            skip: A boolean scalar on the device. If it is true, weights and the optimiser's state stay unchanged; on a
                GPU the fused optimiser itself decides that, as it does for `torch.amp.GradScaler`.
        """
        if self.skips_on_device:
            self.optimizer.found_inf = skip.float()  # type: ignore[attr-defined]
        elif bool(skip):  # on the CPU the host need not wait, and the fused optimiser is faster without the question
            return
        learning_rate = self.recipe.learning_rate * schedule(step, self.steps, self.recipe.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model)

    def _shares(self, parts: list[Batch]) -> list[dict[str, Tensor]]:
        """Share of each part in the mean over all parts of all ranks, times the number of ranks, as DDP averages."""
        if len(parts) * self.ranks.world == 1:
            return [{}]
        names = list(self.supervision.weights(parts[0]))
        weights = torch.stack([torch.stack(list(self.supervision.weights(part).values())) for part in parts])
        whole = self.ranks.total(weights.sum(0))
        shares = self.ranks.world * weights / torch.where(whole > 0, whole, torch.ones_like(whole))
        return [dict(zip(names, row, strict=True)) for row in shares]

    def _exchange_gradients(self, *, now: bool) -> contextlib.AbstractContextManager[Any]:
        """Exchange gradients between the ranks after this part, or only accumulate them if another part follows."""
        if not now and self._parallel is not None:
            return self._parallel.no_sync()
        return contextlib.nullcontext()


def _seed(*numbers: int) -> int:
    """Derive one seed from several numbers, the same on every machine."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _split(batch: Batch, count: int) -> list[Batch]:
    split = {name: tensor.tensor_split(count) for name, tensor in batch.items()}
    return [{name: tensors[i] for name, tensors in split.items()} for i in range(count)]


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: kernels with weight decay, biases and norms without."""
    kernels = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": kernels, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def schedule(step: int, steps: int, warmup: float) -> float:
    """Compute the share of the peak learning rate at a step: a linear warm-up, then half a cosine to zero.

    Args:
        step: Steps done so far.
        steps: Steps of the whole run.
        warmup: Share of the steps in the warm-up.
    """
    warm = max(1, round(warmup * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


class WeightAverage:
    """An exponential moving average of a student's weights and of its batch norms' statistics.

    The first update copies the weights. After n updates the decay is (1 + n) / (10 + n) until it reaches ``decay``, as
    in TensorFlow's ``ExponentialMovingAverage``, so that the random start does not dominate the average of a short run.

    Args:
        model: The student in training.
        decay: The largest decay, at least 0 and below 1.

    Attributes:
        module: A copy of the student with the average.
        updates: Number of updates.
    """

    def __init__(self, model: Student, decay: float) -> None:
        self.module, self.decay, self.updates = copy.deepcopy(model), decay, 0

    @torch.no_grad()
    def update(self, model: Student) -> None:
        """Move the average towards the student's current weights."""
        averages, weights = _tensors(self.module), _tensors(model)
        share = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.updates else 1.0
        averaged = [i for i, tensor in enumerate(averages) if tensor.is_floating_point() and self.updates]
        copied = [i for i in range(len(averages)) if i not in set(averaged)]  # the others count batches
        if averaged:
            torch._foreach_lerp_([averages[i] for i in averaged], [weights[i] for i in averaged], share)
        if copied:
            torch._foreach_copy_([averages[i] for i in copied], [weights[i] for i in copied])
        self.updates += 1


def _tensors(model: nn.Module) -> list[Tensor]:
    """The parameters and buffers of a model."""
    return [tensor.detach() for tensor in itertools.chain(model.parameters(), model.buffers())]


def compiler_problem(device: torch.device) -> str | None:
    """Compile a small function; returns the reason in one line if that fails, else None."""

    def probe(x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x) * 2 + 1

    try:
        torch.compile(probe)(torch.ones(16, 16, device=device))
    except Exception as error:  # the compilers' exceptions have no common base but Exception
        return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return None
