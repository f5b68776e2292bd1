"""Several processes write one store under torchrun: the same content as one process, even if a process dies."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest
import torch.distributed as dist

from cache import Writer
from cache.commands.diff import diff_stores
from cache.commands.verify import verify_store
from cache.errors import StoreBusyError, StoreError, StoreNotFoundError
from cache.writing.shares import claim
from cache.writing.staging import staging_path
from precompute.__main__ import main
from precompute.errors import PrecomputeError
from precompute.run.team import Share, Team, own_device, own_threads, processes_per_gpu
from tests.support import tiny_precompute
from tests.support.stores import small as small_store

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = f"""
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
import cache.format.spec
cache.format.spec.default_shard_instances = lambda _: 2
from precompute.run import pipeline
from precompute.__main__ import main
rank, first = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
notes, original = Path(__file__).parent, pipeline.launch_maps
def launch_maps(*arguments):
    (notes / f"teacher-{{rank}}-{{first}}").touch()
    if first and rank == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    while rank == "0" and not (notes / f"teacher-1-{{first}}").exists():
        time.sleep(0.1)
    return original(*arguments)
pipeline.launch_maps = launch_maps
sys.exit(main())
"""
"""The command with shards of two instances. Rank 1 is killed at its first batch, once; rank 0 waits for that."""


def test_two_processes_make_what_one_makes_even_if_one_is_killed(tmp_path, monkeypatch):
    """Rank 1 is killed, torchrun restarts both, and they also write the shard of the dead rank."""
    data = tiny_precompute.write(tmp_path / "data")
    (data / "program.py").write_text(PROGRAM)
    with monkeypatch.context() as patched:
        patched.setattr("cache.format.spec.default_shard_instances", lambda _: 2)
        assert main(tiny_precompute.command(data, tmp_path / "alone.zarr")) == 0
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    command = [str(data / "program.py"), *tiny_precompute.command(data, tmp_path / "team.h5")]
    done = subprocess.run(
        [sys.executable, "-m", *torchrun, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("teacher metrics from the store") == 1
    assert {path.name for path in data.glob("teacher-*-False")} == {"teacher-0-False", "teacher-1-False"}
    assert diff_stores(tmp_path / "alone.zarr", tmp_path / "team.h5")["identical"]
    assert not (tmp_path / "team.h5.partial").exists()


def test_shares_fill_one_store_without_communication_and_a_plain_run_completes_it(tmp_path, monkeypatch, capsys):
    """In any order, beside a process that still writes, and with a share that is never written."""
    monkeypatch.setattr("cache.format.spec.default_shard_instances", lambda _: 2)
    data = tiny_precompute.write(tmp_path / "data")
    written, shard = [], Writer.shard
    monkeypatch.setattr(Writer, "shard", lambda self, number: written.append(number) or shard(self, number))
    assert main(tiny_precompute.command(data, tmp_path / "alone.zarr")) == 0
    assert written == [0, 1, 2, 3, 4, 5]
    path = tmp_path / "shared.zarr"

    def run(*flags):
        written.clear()
        assert main(tiny_precompute.command(data, path, *flags)) == 0
        return capsys.readouterr(), list(written)

    assert run("--share", "1/3")[1] == [1, 4]
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom cache.writing.lock import lock\n"
        "held = lock(Path(sys.argv[1]))\nprint('held', flush=True)\nsys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(staging_path(path))]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        said, numbers = run("--share", "0/3")
        assert numbers == [0, 3]
        assert "share 0/3 is written" in said.err
        other.communicate()
    assert not path.exists()
    assert run("--resume")[1] == [2, 5]
    assert diff_stores(tmp_path / "alone.zarr", path)["identical"]
    assert "complete: nothing to do" in run("--share", "2/3")[0].out


def test_a_share_waits_for_the_process_that_begins_the_store(monkeypatch):
    monkeypatch.setattr("precompute.run.team.POLL_SECONDS", 0.0)
    joined = mock.Mock(path="s.zarr")
    answers = [StoreBusyError("busy"), StoreNotFoundError("no plan"), StoreBusyError("busy"), joined]
    asked = []

    def create(join):
        asked.append(join)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    claimed = []
    monkeypatch.setattr("precompute.run.team.claim", lambda *share: claimed.append(share))
    assert Share(0, 2).begin(create) is joined
    assert claimed == [("s.zarr", 0, 2)]
    assert asked == [False, True, False, True]
    monkeypatch.setattr("precompute.run.team.TIMEOUT_SECONDS", -1.0)
    answers.append(StoreBusyError("PATH: being written by process 7 on host"))
    with pytest.raises(PrecomputeError, match=r"cannot join .* process 7 on host"):
        Share(0, 2).begin(create)


def test_a_share_that_another_process_writes_is_refused_until_that_one_is_dead(tmp_path, monkeypatch, capsys):
    """As when a job array is submitted twice; and when its tasks are killed and queued again."""
    monkeypatch.setattr("cache.format.spec.default_shard_instances", lambda _: 2)
    monkeypatch.setattr("precompute.run.team.TIMEOUT_SECONDS", 0.3)
    data, path = tiny_precompute.write(tmp_path / "data"), tmp_path / "shared.zarr"
    first, share = (tiny_precompute.command(data, path, "--share", f"{index}/2") for index in range(2))
    assert main(first) == 0
    assert main(first) == 0  # nothing is left to do, and the share is free again
    program = (
        "import sys\nfrom pathlib import Path\nfrom cache.writing.shares import claim\n"
        "held = claim(Path(sys.argv[1]), 1, 2)\nprint('held', flush=True)\nsys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        capsys.readouterr()
        assert main(share) == 1
        waiting, said = capsys.readouterr().err.splitlines()
        assert waiting.startswith("waiting up to 0 s: ")
        assert f"{staging_path(path)}/share-1.lock: share 1/2 is being written by process {other.pid} on" in said
        assert "give each process its own share, or stop that process first" in said
        other.kill()
        other.wait()
    assert main(share) == 0
    assert main(tiny_precompute.command(data, path, "--resume")) == 0
    assert verify_store(path) == []
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["data", "shared.zarr"]


def test_shares_of_another_count_are_refused(tmp_path, monkeypatch, capsys):
    """Whether or not the processes of the first count still run: some of them may wait in a queue."""
    monkeypatch.setattr("cache.format.spec.default_shard_instances", lambda _: 2)
    data, path = tiny_precompute.write(tmp_path / "data"), tmp_path / "s.h5"
    assert main(tiny_precompute.command(data, path, "--share", "0/3")) == 0
    capsys.readouterr()
    assert main(tiny_precompute.command(data, path, "--share", "1/4")) == 1
    count = staging_path(path) / "shares.json"
    (said,) = capsys.readouterr().err.splitlines()
    assert f"{count}: --share 1/4 does not match --share K/3" in said
    assert "give every process K/3. If no process with N = 3 will run again, delete this file first" in said
    for content in (b"[]", b"{", b"{}", b'{"count": "4"}'):
        count.write_bytes(content)
        with pytest.raises(StoreError, match=rf"{count}: damaged; delete it and run the command again"):
            claim(path, 1, 4)
    count.unlink()
    for index in (3, 0):
        claim(path, index, 4).close()
    with pytest.raises(StoreError, match="--share 0/3 does not match --share K/4"):
        claim(path, 0, 3)


def test_of_many_first_shares_one_decides_the_count(tmp_path):
    small_store.begin(tmp_path / "s.zarr")
    counts = [2 + i % 3 for i in range(12)]

    def start(index):
        try:
            return claim(tmp_path / "s.zarr", 0 if counts[index] == 2 else 1, counts[index]) or None
        except StoreBusyError:
            return "busy"
        except StoreError:
            return None

    with ThreadPoolExecutor(len(counts)) as pool:
        held = list(pool.map(start, range(len(counts))))
    agreed = {count for count, one in zip(counts, held, strict=True) if one is not None}
    assert len(agreed) == 1
    (file,) = [one for one in held if one not in (None, "busy")]  # the others had the same share
    file.close()


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (("--share", "3/3"), 2, "K from 0 to N - 1"),
        (("--share", "half"), 2, "K from 0 to N - 1"),
        (("--share", "0/3", "--overwrite"), 1, "cannot be combined with --overwrite"),
        (("--share", "0/3", "--check", "4"), 1, "cannot be combined with --check"),
    ],
)
def test_a_share_that_makes_no_sense_is_refused(tmp_path, capsys, flags, code, message):
    try:
        ended = main(tiny_precompute.command(tmp_path, tmp_path / "s.zarr", *flags))
    except SystemExit as left:
        ended = left.code
    assert ended == code
    assert message in capsys.readouterr().err


def test_shares_are_not_for_torchrun(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(tiny_precompute.command(tmp_path, tmp_path / "s.zarr", "--share", "0/3")) == 1
    assert "leave out torchrun" in capsys.readouterr().err


def test_a_run_that_is_being_written_is_left_alone(tmp_path):
    """Two runs with --resume at the same time would write the same shards."""
    writer = small_store.begin(tmp_path / "s.zarr")
    program = (
        "from tests.support.stores import small as small_store; import sys; "
        "small_store.begin(sys.argv[1], resume=True, join=bool(sys.argv[2]))"
    )

    def second(join):
        command = [sys.executable, "-c", program, str(tmp_path / "s.zarr"), join]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    refused = second("")
    assert f"being written by process {os.getpid()} on" in refused.stderr
    assert second("yes").returncode == 0
    del writer
    assert second("").returncode == 0


@pytest.mark.parametrize(
    ("place", "count", "asked", "gpus", "device"),
    [(0, 1, "auto", 2, "auto"), (1, 2, "auto", 2, "cuda:1"), (3, 4, "cuda", 1, "cuda:0"), (1, 2, "cpu", 2, "cpu")],
)
def test_every_process_of_a_host_has_its_own_gpu(monkeypatch, place, count, asked, gpus, device):
    monkeypatch.setenv("LOCAL_RANK", str(place))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(count))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert own_device(asked) == device
    if count > 1:
        with pytest.raises(PrecomputeError, match="on one GPU; leave it out"):
            own_device("cuda:0")


@pytest.mark.parametrize(
    ("processes", "gpus", "cores", "devices", "sharing", "threads"),
    [
        (4, 1, 16, ["cuda:0"] * 4, 4, 4),  # several processes on one GPU, or --gpus-per-task=1: each sees one GPU
        (4, 2, 16, ["cuda:0", "cuda:1"] * 2, 2, 4),
        (3, 2, 64, ["cuda:0", "cuda:1", "cuda:0"], 2, 16),
        (8, 8, 4, [f"cuda:{n}" for n in range(8)], 1, 1),
    ],
)
def test_processes_of_a_host_share_its_gpus_and_cores(monkeypatch, processes, gpus, cores, devices, sharing, threads):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr("precompute.run.team.available_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    found = []
    for place in range(processes):
        monkeypatch.setenv("LOCAL_RANK", str(place))
        found.append(own_device("auto"))
        assert (processes_per_gpu(), own_threads()) == (sharing, threads)
    assert found == devices


@pytest.fixture
def teams(monkeypatch):
    """Two ranks in one process, with short timeouts."""
    monkeypatch.setattr("precompute.run.team.TIMEOUT_SECONDS", 1.0)
    monkeypatch.setattr("precompute.run.team.HEARTBEAT_SECONDS", 0.1)
    server = dist.TCPStore("127.0.0.1", 0, 1, True)
    pair = [Team(dist.TCPStore("127.0.0.1", server.port, 1, False), rank, 2) for rank in range(2)]
    yield pair
    for team in pair:
        team.leave()


class FourShards:
    def pending_shards(self):
        return [3, 5, 8, 9]


def test_every_shard_is_taken_once(teams):
    taken = []
    writers = [team.begin(lambda join: FourShards()) for team in teams]
    streams = [team.shards(writer) for team, writer in zip(teams, writers, strict=True)]
    for turn in (0, 1, 1, 0, 1, 0):
        taken += [shard for shard in [next(streams[turn], None)] if shard is not None]
    assert taken == [3, 5, 8, 9]
    assert [team.advance(10) for team in teams] == [10, 20]


def test_rank_0_publishes_once_all_have_filled_their_shards(teams):
    order = []

    def second():
        time.sleep(0.4)
        order.append("filled")
        teams[1].finish(["skipped a"], lambda skipped: order.append("published twice"))
        order.append("left")

    thread = threading.Thread(target=second)
    thread.start()
    assert teams[0].finish([], lambda skipped: order.append("published") or skipped) == ["skipped a"]
    thread.join()
    assert order == ["filled", "published", "left"]


def test_waiting_for_a_dead_rank_ends_with_an_error(teams):
    teams[1].leave()  # no more heartbeats
    with pytest.raises(PrecomputeError, match="rank 1 has sent no heartbeat"):
        teams[0].finish([], lambda skipped: pytest.fail("published without the shards of rank 1"))


def test_the_error_of_one_rank_stops_all(teams):
    teams[0].fail("the disk is full")
    with pytest.raises(PrecomputeError, match=r"because of an error in rank 0 on .*: the disk is full"):
        teams[1].begin(lambda join: FourShards())
