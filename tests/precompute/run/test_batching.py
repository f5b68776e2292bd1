"""The batch size `auto`: what is measured with which result, what is recorded, and who decides."""

import json
import threading

import numpy as np
import pytest
import torch
import torch.distributed as dist

import cache
from kdlib.skeletons.skeleton import COCO
from precompute.__main__ import main
from precompute.data.views import ViewPlan
from precompute.run import batching, job, provenance, store
from precompute.run.batching import DEFAULT_BATCHING, Batching, Measurement, best_size, choose_batching
from precompute.run.provenance import software
from precompute.run.store import fill
from precompute.run.team import SingleProcess, Team
from precompute.teacher.loading import Teacher
from precompute.teacher.passes import DeviceNetwork
from tests.support import tiny_precompute

SIZE, PLAN = (48, 64), ViewPlan(1, flip_test=True, seed=0)
GB = 10**9


class Gpu(DeviceNetwork):
    """A network on the CPU that takes the time and the memory of one on a GPU, in instances with flip test.

    A batch takes `launching` seconds, or `each` seconds per instance if that is more; with a graph, launching takes
    a microsecond.
    """

    can_capture = True
    device = "cuda:0"

    def __init__(self, launching=0.0, each=0.0, memory=0, total=100 * GB, graph_fails=None):
        super().__init__(COCO)
        self.launching, self.each, self.memory, self.total = launching, each, memory, total
        self.now, self.used, self.sizes, self.graph_fails, self.graph_of = 0.0, 0, [], graph_fails, None

    def run(self, images):
        raise AssertionError("launch is replaced")

    def launch(self, crops, *, flip_test):
        size = len(crops)
        assert crops.shape == (size, 1, SIZE[1], SIZE[0], 3)
        assert flip_test
        self.sizes.append(size)
        self.used = max(self.used, self.memory * size)
        if self.used > self.total:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.now += max(1e-6 if self.graph_of == size else self.launching, self.each * size)
        return lambda: np.zeros((size, 1, 17, 16, 12), np.float32)

    def capture(self, shape, *, flip_test):
        if self.graph_fails:
            raise self.graph_fails
        self.graph_of = shape[0]

    def discard_capture(self):
        self.graph_of = None

    @property
    def is_captured(self):
        return self.graph_of is not None

    @property
    def teacher(self):
        return Teacher("t", SIZE, (12, 16), 17, "", "bf16", self.device, self)

    def measurement(self, processes=1):
        return Measurement(self.teacher, PLAN, lambda: self.total - self.used, processes, clock=lambda: self.now)


@pytest.fixture(autouse=True)
def memory_is_not_pinned(monkeypatch):
    def crops(teacher, plan, size):
        return {(w, h): np.zeros((size, plan.count, h, w, 3), np.uint8) for w, h in teacher.input_sizes}

    monkeypatch.setattr(batching, "_random_crops", crops)


def choose(gpu, wanted=None, most=1024, recorded=None, **options):
    return choose_batching(wanted, most=most, recorded=recorded, measurement=gpu.measurement(**options))


def test_the_smallest_size_of_the_best_rate_is_chosen():
    assert best_size({16: 50.0, 32: 98.0, 64: 100.0, 128: 99.0}) == 32
    gpu = Gpu(launching=0.032, each=0.0005)  # from 64 instances on, launching takes no longer than computing
    assert choose(gpu) == Batching(64)
    assert max(gpu.sizes) == 256  # two sizes in a row brought nothing: 512 is not tried


def test_a_graph_is_used_where_it_is_faster_and_only_there():
    gpu = Gpu(launching=0.05, each=0.00001)  # launching dominates at every size
    assert choose(gpu) == Batching(512, graph=True)
    assert gpu.graph_of == 512
    gpu = Gpu(launching=0.001, each=0.001)
    assert choose(gpu).graph is False
    assert gpu.graph_of is None


@pytest.mark.parametrize(
    ("memory", "processes", "size"),
    [(GB, 1, 32), (GB // 4, 1, 128), (GB // 4, 4, 32), (GB // 1000, 1, 512), (10 * GB, 1, 4)],
)
def test_a_batch_leaves_more_than_half_of_the_memory_free_and_shares_it(memory, processes, size):
    """45 % of 100 GB, per process."""
    gpu = Gpu(launching=0.05, memory=memory)
    assert choose(gpu, processes=processes).size == size
    assert size * memory <= 45 * GB / processes < 2 * size * memory or size in (4, 512)


def test_no_memory_at_all_is_no_error_of_the_measurement():
    gpu = Gpu(launching=0.05, memory=200 * GB)
    assert choose(gpu) == Batching(1)
    assert choose(gpu, wanted=64) == Batching(64)


@pytest.mark.parametrize("error", [RuntimeError("no graphs\nhere"), torch.OutOfMemoryError("no memory")])
def test_a_graph_that_cannot_be_recorded_is_one_line(capsys, error):
    gpu = Gpu(launching=0.05, graph_fails=error)
    assert choose(gpu, wanted=64) == Batching(64)
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot record a batch of 64 instances as a graph" in line
    assert str(error).splitlines()[0] in line


def test_no_size_is_larger_than_a_shard():
    gpu = Gpu(launching=0.05)
    assert choose(gpu, most=64).size == 64
    assert max(gpu.sizes) == 64
    assert choose(Gpu(launching=0.05), most=5).size == 4
    assert choose(gpu, wanted=6000, most=64).size == 64
    assert max(gpu.sizes) == 64


def test_what_was_recorded_is_not_measured_again():
    gpu, recorded = Gpu(launching=0.05), Batching(128, graph=True)
    assert choose(gpu, recorded=recorded) == choose(gpu, wanted=128, recorded=recorded) == recorded
    assert gpu.sizes == []
    assert choose(gpu, wanted=16, recorded=recorded).size == 16
    assert choose_batching(None, most=9, recorded=recorded) == recorded


def test_a_cpu_takes_the_size_that_stores_were_always_made_with():
    assert choose_batching(None, most=5) == DEFAULT_BATCHING == Batching(32)
    assert choose_batching(7, most=5) == Batching(7)


@pytest.mark.parametrize(
    "software", [None, {}, {"batch_size": "64"}, {"batch_size": 0, "cuda_graph": True}, {"batch_size": 64}]
)
def test_a_store_that_records_nothing_usable_decides_nothing(software):
    assert Batching.from_provenance(None if software is None else {"software": software}) is None


def test_what_is_recorded_is_read_back():
    made = Batching(256, graph=True)
    assert Batching.from_provenance({"software": {"torch": "2.6", **made.to_json()}}) == made
    assert Batching.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_all_ranks_take_the_choice_of_rank_0():
    server = dist.TCPStore("127.0.0.1", 0, 1, True)
    teams = [Team(dist.TCPStore("127.0.0.1", server.port, 1, False), rank, 2) for rank in range(2)]
    found = {}

    def second():
        found["second"] = teams[1].agree(lambda: pytest.fail("rank 1 measured too"))

    thread = threading.Thread(target=second)
    thread.start()
    found["first"] = teams[0].agree(lambda: Batching(256, graph=True).to_json())
    thread.join()
    assert found["first"] == found["second"] == {"batch_size": 256, "cuda_graph": True}
    assert SingleProcess().agree(lambda: {"batch_size": 3}) == {"batch_size": 3}
    for team in teams:
        team.leave()


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Runs on the CPU that take their teacher for one on a GPU; returns the sizes that were measured, by run."""
    measured = []

    def measure(self, sizes):
        measured.append(list(sizes))
        return Batching(sizes[-1], graph=len(sizes) > 1)

    for module in (job, batching):
        monkeypatch.setattr(module, "gpu_of", lambda teacher: "cuda:0")
    monkeypatch.setattr(batching.Measurement, "choose", measure)
    monkeypatch.setattr(provenance, "_device", lambda name: "a GPU")
    monkeypatch.setattr(job, "capture", lambda *_: True)
    return measured


def run(data, store, *flags):
    command = tiny_precompute.command(data, store, *flags)
    at = command.index("--batch-size")
    return main(command[:at] + command[at + 2 :])


def test_a_store_of_a_gpu_records_its_batches_and_a_run_that_continues_takes_them(tmp_path, on_a_gpu):
    data, path = tiny_precompute.write(tmp_path / "data"), tmp_path / "s.zarr"
    assert run(data, path) == 0
    assert on_a_gpu == [[1, 4]]  # 11 instances
    software = cache.open_store(path).manifest["provenance"]["software"]
    assert (software["batch_size"], software["cuda_graph"]) == (4, True)
    assert run(data, path, "--resume") == 0
    assert run(data, path, "--check", "4") == 0
    assert on_a_gpu == [[1, 4]]


def test_processes_that_do_not_communicate_do_not_measure_a_size(tmp_path, on_a_gpu):
    data, path = tiny_precompute.write(tmp_path / "data"), tmp_path / "s.zarr"
    assert run(data, path, "--share", "0/2") == 0
    assert on_a_gpu == []
    assert run(data, path, "--resume") == 0
    assert on_a_gpu == []
    assert cache.open_store(path).manifest["provenance"]["software"]["batch_size"] == 32


def test_an_interrupted_run_continues_with_the_batches_of_its_plan(tmp_path, on_a_gpu, monkeypatch):
    data, path, sizes = tiny_precompute.write(tmp_path / "data"), tmp_path / "s.zarr", []
    with monkeypatch.context() as patched:
        patched.setattr(store, "fill", lambda *_, **__: (_ for _ in ()).throw(OSError("interrupted")))
        assert run(data, path, "--batch-size", "5") == 1
    monkeypatch.setattr(
        store, "fill", lambda job, *rest, **how: sizes.append(job.batch_size) or fill(job, *rest, **how)
    )
    assert run(data, path, "--resume") == 0
    assert (sizes, on_a_gpu) == ([5], [[5]])


def test_a_store_of_a_gpu_continues_and_is_checked_on_the_cpu(tmp_path, monkeypatch):
    """Its graph is not needed there."""
    data, path = tiny_precompute.write(tmp_path / "data"), tmp_path / "s.zarr"
    with monkeypatch.context() as patched:
        patched.setattr(provenance, "software", lambda: {**software(), **Batching(4, graph=True).to_json()})
        assert run(data, path) == 0
    assert run(data, path, "--resume") == 0
    assert run(data, path, "--check", "3") == 0


def test_a_store_of_the_cpu_records_no_batches(tmp_path):
    data, path = tiny_precompute.write(tmp_path / "data"), tmp_path / "s.zarr"
    assert run(data, path) == 0
    assert not {"batch_size", "cuda_graph"} & set(cache.open_store(path).manifest["provenance"]["software"])
