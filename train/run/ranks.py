"""The processes, started by ``torchrun``, that train one student together: collectives, and ending all on an error.

Every rank holds the same weights and computes its part of every batch. When one rank fails, all ranks are informed
before the next collective operation, so that no rank waits for a process that has ended. A process that is killed, or
whose machine is lost, cannot do that: each wait for the others therefore has a limit, ``--timeout``. gloo, which the
ranks call before every step, enforces it itself. A rank that waits for its GPU, on which NCCL may be waiting for a lost
rank, is ended by `Ranks.limit_wait`.
"""

import contextlib
import datetime
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from cache.errors import StoreError
from kdcli.memory import is_out_of_memory
from kdlib.errors import KdlibError
from kdlib.machine.device import choose_device, forbid_tf32
from kdlib.machine.process import available_cores
from train.errors import TrainError
from train.recipe import TIMEOUT

LONGER: Final = 60
"""Seconds after which NCCL ends the process, beyond the timeout: its message is long, ours comes first."""
LOST: Final = "lost the connection to the other processes: one of them failed or was killed"


class Ranks:
    """This process among all processes of the run. With a single process, every method returns immediately.

    Attributes:
        rank, world: The number of this process, from 0, and the number of processes.
        device: Device of this rank.
        timeout: Seconds that a rank waits for the others.
    """

    def __init__(
        self, device: torch.device, rank: int = 0, world: int = 1, local_world: int = 1, *, timeout: float = TIMEOUT
    ) -> None:
        self.device, self.rank, self.world, self._local_world = device, rank, world, local_world
        self.timeout = timeout

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes all files and messages."""
        return self.rank == 0

    @property
    def threads(self) -> int:
        """Threads for the loader: the ranks of one machine share its cores."""
        return max(1, available_cores() // self._local_world)

    def total(self, values: Tensor) -> Tensor:
        """Sum a tensor over all ranks, in place and without gradient."""
        if self.world > 1:
            with self.watch_connection():
                dist.all_reduce(values)
        return values

    def highest(self, value: int) -> int:
        """Return the largest of the ranks' numbers."""
        if self.world == 1:
            return value
        values = torch.tensor(value)
        with self.watch_connection():
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return int(values)

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks in their order, on every rank."""
        values = [value] * self.world
        if self.world > 1:
            with self.watch_connection():
                dist.all_gather_object(values, value)
        return values

    def broadcast_object(self, value: Any) -> Any:
        """Return rank 0's value on every rank."""
        values = [value]
        if self.world > 1:
            with self.watch_connection():
                dist.broadcast_object_list(values)
        return values[0]

    def broadcast(self, values: Tensor) -> None:
        """Overwrite a tensor with rank 0's, in place."""
        if self.world > 1:
            with self.watch_connection():
                dist.broadcast(values, 0)

    def fail_if_any(self, problem: str | None) -> None:
        """End all ranks if one of them has a problem.

        Raises:
            TrainError: On rank 0, with the first problem and its rank; the other ranks exit without a message.
        """
        problems = self.gather(problem)
        for rank, found in enumerate(problems):
            if found is not None:
                whose = f"rank {rank} of {self.world}: " if self.world > 1 else ""
                self.fail(whose + found)

    @contextlib.contextmanager
    def fail_together(self) -> Iterator[None]:
        """Run the block on every rank, and end all ranks if it raises an error on one of them.

        Raises:
            TrainError: On rank 0, with the first problem and its rank; the other ranks exit without a message.
        """
        problem = None
        try:
            yield
        except (KdlibError, StoreError, OSError) as error:
            if self.world == 1:
                raise
            problem = str(error)
        self.fail_if_any(problem)

    def fail(self, message: str) -> NoReturn:
        """End this rank; all ranks must call this. Rank 0 raises an error with the reason.

        Raises:
            TrainError: On rank 0; the other ranks exit without a message.
        """
        raise TrainError(message) if self.first else SystemExit(1)

    @contextlib.contextmanager
    def watch_connection(self) -> Iterator[None]:
        """Turn the error of a broken connection into a one-line error, on every rank: rank 0 may be the lost one.

        Raises:
            TrainError: If another process ended, or was silent for longer than the timeout.
        """
        try:
            yield
        except RuntimeError as error:
            if self.world == 1 or is_out_of_memory(error) or not _is_broken_connection(error):
                raise
            raise TrainError(self.describe_loss(str(error).strip().splitlines()[0])) from error

    @contextlib.contextmanager
    def limit_wait(self) -> Iterator[None]:
        """End this process in one line if the block takes longer than the timeout, in which the rank waits for its GPU.

        NCCL's operations run on the GPU. If another rank is lost, they do not end, and neither does the wait for them;
        no exception can end it.
        """
        if self.world == 1 or self.device.type == "cpu":
            yield
            return
        timer = threading.Timer(self.timeout, self._give_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        sys.stderr.write(f"error: {self.describe_loss(f'{self.device} has waited for them for {self.timeout:g} s')}\n")
        sys.stderr.flush()
        os._exit(1)  # the main thread cannot be interrupted

    def describe_loss(self, reason: str) -> str:
        """Describe in one line that another process is lost."""
        whose = "" if self.first else f"rank {self.rank} of {self.world}: "
        return f"{whose}{LOST} ({reason}); --resume continues from the last checkpoint"

    def leave(self) -> None:
        """Close the connection to the other ranks after the work is done."""
        if self.world > 1:
            dist.destroy_process_group()


def _is_broken_connection(error: RuntimeError) -> bool:
    """Whether gloo (a plain `RuntimeError`) or NCCL raised this because another process ended."""
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "Connection"))


def join(device: str, environment: Mapping[str, str] = os.environ, *, timeout: float = TIMEOUT) -> Ranks:
    """Connect to the other ranks, if ``torchrun`` started this process; each rank of a machine uses its own GPU.

    A scheduler may show each process all GPUs of its machine, or one of its own, which is then ``cuda:0`` in each.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``; with one process also ``mps`` and ``cuda:N``.
        environment: Holds RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE, as ``torchrun`` sets them.
        timeout: Seconds that a rank waits for the others, here and later.

    Raises:
        KdlibError: If there is no such device, or (`TrainError`) the other processes do not answer, or (`TrainError`,
            on rank 0) two ranks would share a GPU. The other ranks then exit without a message.
    """
    rank, world, local, local_world = (
        int(environment.get(name, default))
        for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
    )
    chosen = choose_device(device)
    if world > 1 and chosen.type == "mps":
        if device != "auto":
            raise TrainError("several processes cannot train on the GPU of a Mac: give --device cpu, or start one")
        chosen = torch.device("cpu")
    forbid_tf32()
    if world > 1 and chosen.type == "cuda":
        if chosen.index is not None:
            raise TrainError(f"--device {device} would put {local_world} processes on one GPU: give --device cuda")
        chosen = torch.device("cuda", local % torch.cuda.device_count())
    ranks = Ranks(chosen, rank, world, local_world, timeout=timeout)
    if world > 1:
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        with ranks.watch_connection():
            _connect(ranks)
    return ranks


def _connect(ranks: Ranks) -> None:
    """Create the process group, after all ranks have met in its store."""
    on_gpu = ranks.device.type == "cuda"
    limit = datetime.timedelta(seconds=ranks.timeout)
    store, *_ = next(rendezvous("env://", ranks.rank, ranks.world, timeout=limit))
    store.set_timeout(limit)
    if on_gpu:  # NCCL connects at once and would end in an error of its own
        _refuse_shared_gpus(ranks, store)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=dist.PrefixStore("group", store),
        rank=ranks.rank,
        world_size=ranks.world,
        timeout=limit + datetime.timedelta(seconds=LONGER if on_gpu else 0),
        device_id=ranks.device if on_gpu else None,
    )


def _refuse_shared_gpus(ranks: Ranks, store: dist.Store) -> None:
    """End all ranks if two of them use the same GPU, which NCCL cannot do."""
    store.set(f"gpu of {ranks.rank}", _gpu_identity(ranks.device))
    gpus: dict[bytes, int] = {}
    for rank in range(ranks.world):
        gpu = store.get(f"gpu of {rank}")
        if gpu in gpus:
            ranks.fail(
                f"processes {gpus[gpu]} and {rank} would train on the same GPU, which NCCL does not support: start one "
                "process per GPU (torchrun --nproc-per-node), or give --device cpu"
            )
        gpus[gpu] = rank


def _gpu_identity(device: torch.device) -> str:
    """What distinguishes a GPU from all others, whatever number it has in this process."""
    return str(torch.cuda.get_device_properties(device).uuid)
