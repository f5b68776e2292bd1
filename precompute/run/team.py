"""The processes of one run: `torchrun ... -m precompute ...` starts the command several times, on one or many hosts.

Nothing is averaged and no tensor is sent, so that there is no process group. The processes (ranks) share what torchrun
offers anyway, a small key-value server (the board), and the folder of the store:

    pending      the shards to be written, once rank 0 has begun the store
    taken        a counter: whoever raises it takes the next shard, so that a slow rank takes fewer
    done         instances written so far, for rank 0's progress bar
    filled/R     rank R has nothing left to do; its warnings
    published    the store has its name
    failed       what went wrong, and where: everybody stops
    beat/R       a counter that rank R raises every few seconds; one that stands still is a rank that has died

A shard that a dead rank had begun has no receipt: the same command with --resume writes it.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

from cache.errors import StoreNotFoundError
from precompute.errors import PrecomputeError

BEAT = 5.0
"""Seconds between two signs of life."""
SILENCE = 90.0
"""Seconds without one after which a rank is taken for dead."""
LOOK = 0.2
"""Seconds between two looks at the board."""
Result = TypeVar("Result")


class Alone:
    """One process: the team of the usual run."""

    rank, size = 0, 1

    def __init__(self) -> None:
        self._done = 0

    def begin(self, create: Callable[[bool], Any]) -> Any:
        """The writer that `create` makes; its argument says whether to join a run that rank 0 has begun."""
        return create(False)

    def shards(self, writer: Any) -> Iterator[int]:
        """The shards that this process is to write."""
        yield from writer.pending_shards()

    def advance(self, instances: int) -> int:
        """Count instances; returns how many all processes have done."""
        self._done += instances
        return self._done

    def finish(self, skipped: list[str], publish: Callable[[list[str]], Result]) -> Result | None:
        """Publish the store, given what all processes skipped; None in every process but the first."""
        return publish(skipped)


class Team:
    """One of several processes; like `Alone`, but shards are shared out and rank 0 begins and publishes the store."""

    def __init__(self, board: Any, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._board = board
        self._heard = {other: (-1, time.monotonic()) for other in range(size) if other != rank}
        self._stop = threading.Event()
        threading.Thread(target=self._live, daemon=True, name="signs of life").start()

    def begin(self, create: Callable[[bool], Any]) -> Any:
        """See `Alone.begin`."""
        if self.rank == 0:
            writer = create(False)
            self._set("pending", json.dumps(writer.pending_shards()))
            return writer
        self._wait("pending", of=[0])
        return self._joined(create)

    def _joined(self, create: Callable[[bool], Any]) -> Any:
        """Join rank 0's run, whose folder a network file system may show late."""
        until = time.monotonic() + SILENCE
        while True:
            try:
                return create(True)
            except StoreNotFoundError as error:
                if time.monotonic() > until:
                    raise PrecomputeError(f"{error}; every host must see the folder of the store") from error
                self._look()

    def shards(self, writer: Any) -> Iterator[int]:
        """See `Alone.shards`; a shard is taken when it is asked for."""
        pending = json.loads(self._read("pending"))
        while (turn := self._add("taken", 1)) <= len(pending):
            self._refuse_failure()
            yield pending[turn - 1]

    def advance(self, instances: int) -> int:
        """See `Alone.advance`."""
        return self._add("done", instances)

    def finish(self, skipped: list[str], publish: Callable[[list[str]], Result]) -> Result | None:
        """See `Alone.finish`: rank 0 waits until all have filled their shards, the others until it has published."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        if self.rank:
            self._set(f"filled/{self.rank}", json.dumps(skipped))
            self._wait("published", of=[0])
            self._add("left", 1)
            return None
        for rank in others:
            self._wait(f"filled/{rank}", of=others)
            skipped += json.loads(self._read(f"filled/{rank}"))
        result = publish(skipped)
        self._set("published", "")
        self._say_goodbye()
        return result

    def _say_goodbye(self) -> None:
        """Stay until everybody has read the last word: the board may live in this process."""
        until = time.monotonic() + SILENCE
        while self._add("left", 0) < self.size - 1 and time.monotonic() < until:
            time.sleep(LOOK)

    def fail(self, message: str) -> None:
        """Tell the others why this process stops, unless another one has told its reason before."""
        with suppress(RuntimeError):  # no board any more: they will notice
            self._board.compare_set("failed", "", f"rank {self.rank} on {socket.gethostname()}: {message}")

    def leave(self) -> None:
        """Give no more signs of life."""
        self._stop.set()

    def _live(self) -> None:
        while not self._stop.wait(BEAT):
            try:
                self._board.add(f"beat/{self.rank}", 1)
            except RuntimeError:  # the main thread will say so
                return

    def _wait(self, key: str, of: list[int]) -> None:
        """Wait for a key that ranks `of` are to set, as long as they live."""
        while not self._there(key):
            self._look()
            self._refuse_silence(of)

    def _look(self) -> None:
        self._refuse_failure()
        time.sleep(LOOK)

    def _refuse_failure(self) -> None:
        if self._there("failed"):
            raise PrecomputeError(f"stopped, because of {self._read('failed')}")

    def _refuse_silence(self, ranks: list[int]) -> None:
        now = time.monotonic()
        for rank in ranks:
            beat, (last, since) = self._add(f"beat/{rank}", 0), self._heard[rank]
            if beat != last:
                self._heard[rank] = (beat, now)
            elif now - since > SILENCE and not self._there(f"filled/{rank}"):
                raise PrecomputeError(
                    f"rank {rank} has not been heard of for {SILENCE:.0f} s; what is written is kept, the same "
                    "command with --resume goes on"
                )

    def _there(self, key: str) -> bool:
        return bool(self._ask(lambda: self._board.check([key])))

    def _read(self, key: str) -> str:
        return str(self._ask(lambda: self._board.get(key)).decode())

    def _set(self, key: str, value: str) -> None:
        self._ask(lambda: self._board.set(key, value))

    def _add(self, key: str, amount: int) -> int:
        return int(self._ask(lambda: self._board.add(key, amount)))

    def _ask(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except RuntimeError as error:  # torch's errors of distributed stores are its children
            raise PrecomputeError(
                "lost touch with the other processes; what is written is kept, the same command with --resume goes on"
            ) from error


@contextmanager
def assembled() -> Iterator[Alone | Team]:
    """The team of this process, as torchrun's environment says; an error inside is told to the others."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield Alone()
        return
    team = _join()
    try:
        yield team
    except BaseException as error:
        team.fail(str(error) or type(error).__name__)
        raise
    finally:
        team.leave()


def _join() -> Team:
    import torch.distributed as dist

    try:
        board, rank, size = next(dist.rendezvous("env://", timeout=timedelta(seconds=SILENCE)))
    except (RuntimeError, ValueError) as error:
        raise PrecomputeError(f"cannot reach the other processes; start them with torchrun: {error}") from error
    return Team(dist.PrefixStore(f"precompute/{_restarts()}", board), rank, size)


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def restarted() -> bool:
    """Did torchrun start this process again after one had died (--max-restarts)? Then the run goes on."""
    return _restarts() > 0


def local_share() -> tuple[int, int]:
    """(place among the processes of this host, their number)."""
    return int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def own_device(name: str) -> str:
    """The device of this process: with several on a host, each takes the GPU of its place."""
    import torch

    place, count = local_share()
    if count > 1 and name.startswith("cuda:"):
        raise PrecomputeError(f"--device {name} would put all {count} processes of this host on one GPU; leave it out")
    if count == 1 or name == "cpu" or not torch.cuda.is_available():
        return name
    return f"cuda:{place % torch.cuda.device_count()}"
