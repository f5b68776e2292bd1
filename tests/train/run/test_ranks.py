"""Which GPU a training process uses, in every way that a launcher may show it the GPUs of its machine."""

import os
import threading

import pytest
import torch
import torch.distributed as dist

from train.errors import TrainError
from train.run import ranks


class Machine:
    """Processes that a launcher starts on machines with GPUs: `gpus` are the numbers that each process sees."""

    def __init__(self, monkeypatch, *visible):
        self.visible, self.patch, self.used = visible, monkeypatch, []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(dist, "init_process_group", self.connect)
        monkeypatch.setattr(ranks, "rendezvous", lambda *_, **__: iter([(self.store, 0, len(visible))]))

    def connect(self, backend, **options):
        self.used.append((backend, str(options["device_id"]), options["timeout"].total_seconds()))

    def join(self, rank, device="auto", local=None, world=None):
        """Join as one of the processes; the identities of the others are those that they would send."""
        world = world or len(self.visible)
        self.patch.setattr(torch.cuda, "device_count", lambda: len(self.visible[rank]))
        self.patch.setattr(torch.cuda, "set_device", lambda device: self.used.append(str(device)))
        self.patch.setattr(ranks, "_gpu_identity", lambda device: self.visible[rank][device.index or 0])
        self.store = dist.HashStore()
        for place, seen in enumerate(self.visible):
            if place != rank:
                self.store.set(f"gpu of {place}", seen[place % len(seen)])
        numbers = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank if local is None else local}
        environment = {name: str(value) for name, value in numbers.items()} | {"LOCAL_WORLD_SIZE": str(world)}
        return ranks.join(device, environment)


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize(
    ("visible", "devices"),
    [
        ((["a", "b", "c"],) * 3, ["cuda:0", "cuda:1", "cuda:2"]),  # torchrun: every process sees all GPUs
        ((["a"], ["b"], ["c"]), ["cuda:0"] * 3),  # --gpus-per-task=1: each sees its own
    ],
)
def test_every_process_trains_on_its_own_gpu(monkeypatch, device, visible, devices):
    machine = Machine(monkeypatch, *visible)
    assert [str(machine.join(rank, device).device) for rank in range(3)] == devices
    connected = [("cpu:gloo,cuda:nccl", device, 660.0) for device in devices]  # NCCL's limit is after ours
    assert machine.used == [entry for pair in zip(devices, connected, strict=True) for entry in pair]


@pytest.mark.parametrize("visible", [(["a"], ["a"]), (["a", "b"],) * 3])
def test_processes_that_share_a_gpu_are_refused_in_one_line(monkeypatch, visible):
    machine, last = Machine(monkeypatch, *visible), len(visible) - 1
    with pytest.raises(TrainError, match=f"^processes 0 and {last} would train on the same GPU, .*nproc-per-node"):
        machine.join(0)
    for rank in range(1, last + 1):  # the others end without a message
        with pytest.raises(SystemExit) as stopped:
            machine.join(rank)
        assert stopped.value.code == 1


def test_a_numbered_gpu_is_for_one_process(monkeypatch):
    machine = Machine(monkeypatch, ["a", "b"], ["a", "b"])
    with pytest.raises(TrainError, match="give --device cuda"):
        machine.join(0, "cuda:1")
    assert str(machine.join(0, "cuda:1", world=1).device) == "cuda:1"


def test_a_wait_for_the_gpu_has_a_limit_and_ends_in_one_line(monkeypatch, capsys):
    """NCCL's operations do not end when another rank is lost: the process ends itself."""
    ended = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: ended.set() or exits.append(code))
    exits = []
    waiting = ranks.Ranks(torch.device("cuda:1"), rank=1, world=2, timeout=0.05)
    with waiting.limit_wait():
        assert ended.wait(10)
    assert exits == [1]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: rank 1 of 2: lost the connection to the other processes")
    assert "--resume" in line
    with ranks.Ranks(torch.device("cuda:0"), world=2, timeout=0.05).limit_wait():
        pass  # in time
    for one in (ranks.Ranks(torch.device("cuda:0"), timeout=0), ranks.Ranks(torch.device("cpu"), world=2, timeout=0)):
        with one.limit_wait():
            ended.clear()
            assert not ended.wait(0.1)
    assert exits == [1]


def test_ranks_of_one_machine_share_all_its_cores(monkeypatch):
    monkeypatch.setattr(ranks, "available_cores", lambda: 48)
    shared = [ranks.Ranks(torch.device("cpu"), rank=0, world=8, local_world=of).threads for of in (1, 4, 64)]
    assert shared == [48, 12, 1]
