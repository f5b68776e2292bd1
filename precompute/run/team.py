"""The processes of one run: one, several that torchrun starts, or one of a job array (`Share`).

`torchrun ... -m precompute ...` starts the command several times, on one or many hosts.

No gradients are averaged and no tensors are exchanged, so the processes (ranks) need no process group. They share the
folder of the store, and the small key-value server that torchrun provides anyway. Its keys:

    batching     how all ranks batch their instances; set by rank 0
    pending      the shards to write; set when rank 0 has begun the store
    taken        a counter; a rank that increments it takes the next shard, so slow ranks take fewer
    done         instances written so far, for the progress bar of rank 0
    filled/R     set when rank R has no shard left to write; holds its list of skipped instances
    published    set when the store has its final name
    left         a counter of the ranks that have read `published`
    failed       the first error and the rank where it occurred; all ranks stop
    heartbeat/R  a counter that rank R increments every few seconds; if it stops, rank R is considered dead

A shard that a dead rank had begun is incomplete; the same command with --resume writes it.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from io import FileIO
from typing import TYPE_CHECKING, Any, TypeVar

from cache import Writer
from cache.errors import StoreBusyError, StoreNotFoundError
from cache.writing.shares import claim
from kdcli.progress import say
from kdlib.machine.process import available_cores
from precompute.errors import PrecomputeError

if TYPE_CHECKING:
    from torch.distributed import Store as KeyValueServer

HEARTBEAT_SECONDS = 5.0
"""Time between two heartbeats of a rank."""
TIMEOUT_SECONDS = 90.0
"""A rank without a heartbeat for this long is considered dead."""
POLL_SECONDS = 0.2
"""Time between two reads of a key that a rank waits for."""
MAX_THREADS = 16
"""Most threads of one process that read images, and that encode."""
Result = TypeVar("Result")


class SingleProcess:
    """The team of a run in one process."""

    rank, size = 0, 1

    def __init__(self) -> None:
        self._done = 0

    def agree(self, choose: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what the first process chooses, as JSON values, in every process.

        Args:
            choose: Called in the first process only.
        """
        return choose()

    def begin(self, create: Callable[[bool], Writer]) -> Writer:
        """Create the writer.

        Args:
            create: Creates it; the argument is True to join a run that rank 0 has begun.
        """
        return create(False)

    def pending(self, writer: Writer) -> list[int]:
        """The shards that are not written yet and that this team writes."""
        return writer.pending_shards()

    def shards(self, writer: Writer) -> Iterator[int]:
        """Yield the shards that this process writes."""
        yield from self.pending(writer)

    def advance(self, instances: int) -> int:
        """Count written instances; returns the number that all processes have written."""
        self._done += instances
        return self._done

    def finish(self, skipped: list[str], publish: Callable[[list[str]], Result]) -> Result | None:
        """Publish the store. Returns the result of `publish` in the first process, and None in the others.

        Args:
            skipped: Instances that this process skipped, one line each.
            publish: Publishes the store; its argument lists what all processes skipped.
        """
        return publish(skipped)


class Share(SingleProcess):
    """A process that writes every ``count``-th shard, beside others with other shares, and does not publish the store.

    The processes do not communicate. The first one begins the store, whichever it is; the others join. They may start
    and end at any time, for example as the tasks of a job array. A run of one process completes the store. Two
    processes with the same share, or with different counts, are refused (`cache.writing.shares`).

    Args:
        index: The first shard of the share, below ``count``.
        count: The number of shares.
    """

    def __init__(self, index: int, count: int) -> None:
        super().__init__()
        self._index, self._count = index, count
        self._claimed: FileIO | None = None

    def begin(self, create: Callable[[bool], Writer]) -> Writer:
        """Begin the store, or join the processes that write it, and claim the share; see `SingleProcess.begin`."""
        writer = self._begin(create)
        self._claimed = self._claim(writer)
        return writer

    def _begin(self, create: Callable[[bool], Writer]) -> Writer:
        until = time.monotonic() + TIMEOUT_SECONDS
        while True:
            for join in (False, True):
                try:
                    return create(join)
                except (StoreBusyError, StoreNotFoundError) as error:  # another process is beginning the store
                    if time.monotonic() > until:
                        raise PrecomputeError(f"cannot join the processes that write the store: {error}") from error
            time.sleep(POLL_SECONDS)

    def _claim(self, writer: Writer) -> FileIO:
        """Claim the share. The lock of a process on a host that has crashed may end late on a network file system."""
        until = time.monotonic() + TIMEOUT_SECONDS
        is_first = True
        while True:
            try:
                return claim(writer.path, self._index, self._count)
            except StoreBusyError as error:
                if time.monotonic() > until:
                    raise
                if is_first:
                    say(f"waiting up to {TIMEOUT_SECONDS:.0f} s: {error}")
                is_first = False
            time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Give up the share."""
        if self._claimed is not None:
            self._claimed.close()

    def pending(self, writer: Writer) -> list[int]:
        """The shards of this share that are not written yet."""
        return [shard for shard in writer.pending_shards() if shard % self._count == self._index]

    def finish(self, skipped: list[str], publish: Callable[[list[str]], Result]) -> Result | None:
        """Say what is left to do; returns None."""
        for line in skipped:
            say(f"skipped {line}")
        say(f"share {self._index}/{self._count} is written; the same command without --share completes the store")
        return None


class Team:
    """One of several processes: like `SingleProcess`, but ranks share the shards; rank 0 begins and publishes."""

    def __init__(self, server: "KeyValueServer", rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._server = server
        self._last_heartbeats = {other: (-1, time.monotonic()) for other in range(size) if other != rank}
        self._stop = threading.Event()
        threading.Thread(target=self._send_heartbeats, daemon=True, name="heartbeats").start()

    def agree(self, choose: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return rank 0's choice; see `SingleProcess.agree`."""
        if self.rank == 0:
            self._set("batching", json.dumps(choose()))
        else:
            self._wait("batching", ranks=[0])
        chosen: dict[str, Any] = json.loads(self._get("batching"))
        return chosen

    def begin(self, create: Callable[[bool], Writer]) -> Writer:
        """Create the writer, after rank 0 has begun the store; see `SingleProcess.begin`."""
        if self.rank == 0:
            writer = create(False)
            self._set("pending", json.dumps(writer.pending_shards()))
            return writer
        self._wait("pending", ranks=[0])
        return self._join_run(create)

    def _join_run(self, create: Callable[[bool], Writer]) -> Writer:
        """Join rank 0's run; on a network file system its folder may become visible late."""
        until = time.monotonic() + TIMEOUT_SECONDS
        while True:
            try:
                return create(True)
            except StoreNotFoundError as error:
                if time.monotonic() > until:
                    raise PrecomputeError(f"{error}; all hosts must share the folder of the store") from error
                self._poll()

    def pending(self, writer: Writer) -> list[int]:
        """The shards that are not written yet; see `SingleProcess.pending`."""
        return writer.pending_shards()

    def shards(self, writer: Writer) -> Iterator[int]:
        """Yield shards that no other rank has taken; a shard is taken when the iterator advances to it."""
        pending = json.loads(self._get("pending"))
        while (turn := self._add("taken", 1)) <= len(pending):
            self._check_failure()
            yield pending[turn - 1]

    def advance(self, instances: int) -> int:
        """Count written instances; see `SingleProcess.advance`."""
        return self._add("done", instances)

    def finish(self, skipped: list[str], publish: Callable[[list[str]], Result]) -> Result | None:
        """Publish in rank 0 after all ranks have written their shards; the others wait. See `SingleProcess.finish`."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        if self.rank:
            self._set(f"filled/{self.rank}", json.dumps(skipped))
            self._wait("published", ranks=[0])
            self._add("left", 1)
            return None
        for rank in others:
            self._wait(f"filled/{rank}", ranks=others)
            skipped += json.loads(self._get(f"filled/{rank}"))
        result = publish(skipped)
        self._set("published", "")
        self._wait_for_others_to_leave()
        return result

    def _wait_for_others_to_leave(self) -> None:
        """Keep the key-value server, which may run in this process, until all ranks have read `published`."""
        until = time.monotonic() + TIMEOUT_SECONDS
        while self._add("left", 0) < self.size - 1 and time.monotonic() < until:
            time.sleep(POLL_SECONDS)

    def fail(self, message: str) -> None:
        """Report to the other ranks why this one stops, unless another rank has already reported an error."""
        with suppress(RuntimeError):  # the server is gone; the other ranks get the same error
            self._server.compare_set("failed", "", f"rank {self.rank} on {socket.gethostname()}: {message}")

    def leave(self) -> None:
        """Stop the heartbeats."""
        self._stop.set()

    def _send_heartbeats(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                self._server.add(f"heartbeat/{self.rank}", 1)
            except RuntimeError:  # the main thread will raise the error
                return

    def _wait(self, key: str, ranks: list[int]) -> None:
        """Wait for a key that one of `ranks` sets; raise PrecomputeError if one of them is considered dead."""
        while not self._has(key):
            self._poll()
            self._check_heartbeats(ranks)

    def _poll(self) -> None:
        self._check_failure()
        time.sleep(POLL_SECONDS)

    def _check_failure(self) -> None:
        if self._has("failed"):
            raise PrecomputeError(f"stopped because of an error in {self._get('failed')}")

    def _check_heartbeats(self, ranks: list[int]) -> None:
        now = time.monotonic()
        for rank in ranks:
            heartbeat, (last, since) = self._add(f"heartbeat/{rank}", 0), self._last_heartbeats[rank]
            if heartbeat != last:
                self._last_heartbeats[rank] = (heartbeat, now)
            elif now - since > TIMEOUT_SECONDS and not self._has(f"filled/{rank}"):
                raise PrecomputeError(
                    f"rank {rank} has sent no heartbeat for {TIMEOUT_SECONDS:.0f} s; finished shards are kept, run the "
                    "same command with --resume to continue"
                )

    def _has(self, key: str) -> bool:
        return bool(self._request(lambda: self._server.check([key])))

    def _get(self, key: str) -> str:
        return self._request(lambda: self._server.get(key)).decode()

    def _set(self, key: str, value: str) -> None:
        self._request(lambda: self._server.set(key, value))

    def _add(self, key: str, amount: int) -> int:
        return int(self._request(lambda: self._server.add(key, amount)))

    def _request(self, call: Callable[[], Result]) -> Result:
        try:
            return call()
        except RuntimeError as error:  # base class of the errors of torch's distributed stores
            raise PrecomputeError(
                "lost the connection to the other processes; finished shards are kept, run the same command with "
                "--resume to continue"
            ) from error


@contextmanager
def join_team(share: tuple[int, int] | None = None) -> Iterator[SingleProcess | Team]:
    """Join the processes that torchrun's environment variables describe; an error in the block stops all of them.

    Args:
        share: K and N of a process that writes every N-th shard without communication; see `Share`.
    """
    if share is not None:
        with closing(Share(*share)) as member:
            yield member
        return
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield SingleProcess()
        return
    team = _connect()
    try:
        yield team
    except BaseException as error:
        team.fail(str(error) or type(error).__name__)
        raise
    finally:
        team.leave()


def _connect() -> Team:
    import torch.distributed as dist

    try:
        server, rank, size = next(dist.rendezvous("env://", timeout=timedelta(seconds=TIMEOUT_SECONDS)))
    except (RuntimeError, ValueError) as error:
        raise PrecomputeError(f"cannot reach the other processes; start them with torchrun: {error}") from error
    return Team(dist.PrefixStore(f"precompute/{_restarts()}", server), rank, size)


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def is_restarted() -> bool:
    """Whether torchrun has restarted this process after one had died (--max-restarts); the run then continues."""
    return _restarts() > 0


def local_rank_and_size() -> tuple[int, int]:
    """Rank of this process on its host, and the number of processes there."""
    return int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def own_device(name: str) -> str:
    """Choose the device of this process. If several processes share a host, each gets the GPU of its local rank."""
    import torch

    rank, size = local_rank_and_size()
    if size > 1 and name.startswith("cuda:"):
        raise PrecomputeError(f"--device {name} would put all {size} processes of this host on one GPU; leave it out")
    if size == 1 or name == "cpu" or not torch.cuda.is_available():
        return name
    return f"cuda:{rank % torch.cuda.device_count()}"


def own_threads() -> int:
    """Threads of this process that read images, and threads that encode: the processes of a host share its cores."""
    return max(1, min(MAX_THREADS, available_cores() // local_rank_and_size()[1]))


def processes_per_gpu() -> int:
    """The most processes of this host that share one GPU.

    If a scheduler shows each process one GPU, this counts all processes of the host, because a process cannot tell
    whether the others see the same one. The result is then too large, which only lowers the memory that each may use.
    """
    import torch

    return -(-local_rank_and_size()[1] // max(1, torch.cuda.device_count()))
