"""Processes that train one student together, as ``torchrun`` starts them: sums, agreement and gathering over all.

Every rank holds the same weights and takes its part of every batch. What one rank cannot do, all of them hear of before
the next collective, so that none waits for one that has gone.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from cache.errors import StoreError
from kdlib.errors import KdlibError
from kdlib.machine.device import choose_device
from train.errors import TrainError


class Ranks:
    """This process among all; without ``torchrun`` it is alone, and every method costs nothing.

    Attributes:
        rank, world: Which of how many.
        device: Where this rank computes.
    """

    def __init__(self, device: torch.device, rank: int = 0, world: int = 1, local_world: int = 1) -> None:
        self.device, self.rank, self.world, self._local_world = device, rank, world, local_world

    @property
    def first(self) -> bool:
        """Does this rank write files and speak?"""
        return self.rank == 0

    @property
    def threads(self) -> int:
        """Threads for the loader: the ranks of one machine share its cores."""
        return max(1, min(8, (os.cpu_count() or 1) // self._local_world))

    def total(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all ranks; without gradient."""
        if self.world > 1:
            with self.contact():
                dist.all_reduce(values)
        return values

    def highest(self, value: int) -> int:
        """The largest of the ranks' numbers."""
        if self.world == 1:
            return value
        values = torch.tensor(value)
        with self.contact():
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return int(values)

    def gather(self, value: Any) -> list[Any]:
        """The ranks' values, in the order of ranks, on every rank."""
        values = [value] * self.world
        if self.world > 1:
            with self.contact():
                dist.all_gather_object(values, value)
        return values

    def from_first(self, value: Any) -> Any:
        """What rank 0 has, on every rank."""
        values = [value]
        if self.world > 1:
            with self.contact():
                dist.broadcast_object_list(values)
        return values[0]

    def spread(self, values: Tensor) -> None:
        """Overwrite a tensor with rank 0's."""
        if self.world > 1:
            with self.contact():
                dist.broadcast(values, 0)

    def agree(self, problem: str | None) -> None:
        """End all ranks if one of them has a problem.

        Raises:
            TrainError: On rank 0, with the first problem and whose it is; the other ranks exit without a word.
        """
        problems = self.gather(problem)
        for rank, found in enumerate(problems):
            if found is not None:
                whose = f"rank {rank} of {self.world}: " if self.world > 1 else ""
                self.fail(whose + found)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Do something on every rank, and end all of them if one is refused.

        Raises:
            TrainError: As `agree` says.
        """
        problem = None
        try:
            yield
        except (KdlibError, StoreError, OSError) as error:
            if self.world == 1:
                raise
            problem = str(error)
        self.agree(problem)

    def fail(self, message: str) -> NoReturn:
        """End this rank, as all others do; rank 0 says why.

        Raises:
            TrainError: On rank 0; the other ranks exit without a word.
        """
        raise TrainError(message) if self.first else SystemExit(1)

    @contextlib.contextmanager
    def contact(self) -> Iterator[None]:
        """Turn a broken connection into one clear line.

        Raises:
            TrainError: On rank 0; the other ranks exit without a word.
        """
        try:
            yield
        except RuntimeError as error:
            if self.world == 1 or not _is_broken_contact(error):
                raise
            reason = str(error).strip().splitlines()[0]
            self.fail(f"lost contact with the other processes: one of them failed or was killed ({reason})")

    def leave(self) -> None:
        """Part from the others after the work is done."""
        if self.world > 1:
            dist.destroy_process_group()


def _is_broken_contact(error: RuntimeError) -> bool:
    """Is this what gloo (a plain `RuntimeError`) and NCCL raise when another process ends?"""
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "Connection"))


def join(device: str, environment: Mapping[str, str] = os.environ) -> Ranks:
    """Meet the other ranks, if ``torchrun`` started this process; each on one machine takes a GPU of its own.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, or ``cuda:N`` for a process that is alone.
        environment: Where ``torchrun`` leaves RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE.

    Raises:
        KdlibError: If there is no such device here, or (`TrainError`) all ranks would share one GPU.
    """
    rank, world, local, local_world = (
        int(environment.get(name, default))
        for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
    )
    chosen = choose_device(device)
    if world > 1 and chosen.type == "cuda":
        if chosen.index is not None:
            raise TrainError(f"--device {device} would put {local_world} processes on one GPU: give --device cuda")
        chosen = choose_device(f"cuda:{local}")
    if world > 1:
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo")
    return Ranks(chosen, rank, world, local_world)
