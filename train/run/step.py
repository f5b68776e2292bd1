"""One step of the optimiser, whatever the number of processes and of parts that its batch is computed in.

A term of the loss is a weighted mean over joints, and the weights differ from part to part. The mean of the whole batch
is therefore not the mean of the parts' means: each part's counts by its share of the whole weight. With that, processes
change a step by rounding alone, and so do parts of a student without batch norm (which sees one part at a time).
"""

import contextlib
import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from kdlib.images import normalise_images
from kdlib.students.networks import Student
from train.recipe import Recipe
from train.run.batch_norm import share_statistics
from train.run.ranks import Ranks
from train.supervision import Batch, Supervision


class Stepper:
    """A student with its optimiser.

    Args:
        model: Trained in place.
        supervision: The loss.
        recipe: Learning rate, clipping, accumulation and average.
        steps: Of the whole run, for the learning rate.
        ranks: Who shares each batch.
        bf16: Run the student under autocast.
    """

    def __init__(
        self, model: Student, supervision: Supervision, recipe: Recipe, steps: int, ranks: Ranks, *, bf16: bool
    ) -> None:
        self.model, self.supervision, self.recipe, self.steps, self.ranks = model, supervision, recipe, steps, ranks
        if ranks.world > 1:
            share_statistics(model, ranks.device)
        self.optimizer = torch.optim.AdamW(_parameter_groups(model, recipe.weight_decay), fused=True)
        self.average = averaged(model, recipe.ema) if recipe.ema else None
        self.autocast = torch.autocast(ranks.device.type, torch.bfloat16, enabled=bf16)
        self._parallel: DistributedDataParallel | None = None
        self.network: Callable[[Tensor], Tensor] = model

    @property
    def student(self) -> Student:
        """What is evaluated: the average where there is one."""
        return self.model if self.average is None else cast(Student, self.average.module)

    def connect(self, compiled: bool) -> None:
        """Let the weights, which are final now, be trained by all ranks and through the compiler."""
        if self.ranks.world > 1:
            with self.ranks.contact():
                self.network = self._parallel = DistributedDataParallel(self.model)
        if compiled:
            self.network = torch.compile(self.network)

    def agree_on_statistics(self) -> None:
        """Give all ranks the buffers of rank 0: those of batch norms that `share_statistics` does not know differ."""
        for buffer in self.student.buffers():
            self.ranks.spread(buffer)

    def state(self) -> dict[str, Any]:
        """Weights, average and optimiser, for a checkpoint."""
        state: dict[str, Any] = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.average is not None:
            state |= {"ema": self.student.state_dict(), "ema_updates": int(self.average.n_averaged)}
        return state

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.student.load_state_dict(state["ema"])
            self.average.n_averaged.fill_(state["ema_updates"])

    def gradients(self, batch: Batch, step: int) -> dict[str, float]:
        """Gradients of this rank's part of a batch, summed over all; returns the loss and its terms, over all."""
        torch.manual_seed(_seed(self.recipe.seed, step, self.ranks.rank))
        self.optimizer.zero_grad(set_to_none=True)
        parts = _parts(batch, self.recipe.accumulate)
        shares = self._shares(parts)
        losses: list[Tensor] = []
        for i, part in enumerate(parts):
            with self.ranks.contact(), self._keeping_gradients(i < len(parts) - 1):
                with self.autocast:
                    maps = self.network(normalise_images(part["image"]))
                terms = self.supervision.terms(maps, part, step / self.steps)
                values = torch.stack([value * shares[i].get(name, 1.0) for name, value in terms.items()])
                values.sum().backward()
                losses.append(values.detach())
        of_terms = (self.ranks.total(torch.stack(losses).sum(0)) / self.ranks.world).tolist()
        return {"loss": math.fsum(of_terms), **dict(zip(terms, of_terms, strict=True))}

    def clip(self) -> float:
        """Shorten the gradient to the recipe's largest norm; returns the norm that it had, the same on all ranks."""
        return float(nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip or math.inf))

    def update(self, step: int) -> None:
        """Move the weights along the gradients, and the average along the weights."""
        learning_rate = self.recipe.learning_rate * schedule(step, self.steps, self.recipe.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)

    def _shares(self, parts: list[Batch]) -> list[dict[str, Tensor]]:
        """What each part's means count in the mean over all parts of all ranks; times ranks, as DDP takes a mean."""
        if len(parts) * self.ranks.world == 1:
            return [{}]
        names = list(self.supervision.weights(parts[0]))
        weights = torch.stack([torch.stack(list(self.supervision.weights(part).values())) for part in parts])
        whole = self.ranks.total(weights.sum(0))
        shares = self.ranks.world * weights / torch.where(whole > 0, whole, torch.ones_like(whole))
        return [dict(zip(names, row, strict=True)) for row in shares]

    def _keeping_gradients(self, keep: bool) -> contextlib.AbstractContextManager[Any]:
        """Do not exchange gradients yet where another part follows."""
        if keep and self._parallel is not None:
            return self._parallel.no_sync()
        return contextlib.nullcontext()


def _seed(*numbers: int) -> int:
    """One seed from several numbers, the same on every machine."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _parts(batch: Batch, count: int) -> list[Batch]:
    split = {name: tensor.tensor_split(count) for name, tensor in batch.items()}
    return [{name: tensors[i] for name, tensors in split.items()} for i in range(count)]


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Kernels with weight decay; biases and norms without."""
    kernels = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": kernels, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then half a cosine to zero."""
    warm = max(1, round(warmup * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of weights and of batch norm's statistics; ``update_parameters`` moves it.

    The decay is approached as (1 + n) / (10 + n), as TensorFlow's ``ExponentialMovingAverage`` does: a run of few steps
    is not held back by its random start.
    """

    @torch.no_grad()
    def move(
        average: tuple[Tensor, ...] | list[Tensor], current: tuple[Tensor, ...] | list[Tensor], done: Tensor | int
    ) -> None:
        n = float(done)
        share = 1 - min(decay, (1 + n) / (10 + n))
        if average[0].is_floating_point():
            torch._foreach_lerp_(average, current, share)
        else:  # counts of batches
            for mine, theirs in zip(average, current, strict=True):
                mine.copy_(theirs)

    return AveragedModel(model, multi_avg_fn=move, use_buffers=True)


def compiler_problem(device: torch.device) -> str | None:
    """Why a small function cannot be compiled here, in one line; None if it can."""

    def probe(x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x) * 2 + 1

    try:
        torch.compile(probe)(torch.ones(16, 16, device=device))
    except Exception as error:  # the compilers below raise what they like
        return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return None
