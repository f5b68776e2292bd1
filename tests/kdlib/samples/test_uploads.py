"""Batches for a GPU: none is refilled before its copy is complete, and each is copied one batch ahead of its use."""

import collections
from concurrent.futures import Future

import numpy as np
import pytest
import torch

from kdlib.samples import loader as loaders
from kdlib.samples.dataset import StoreDataset
from kdlib.samples.loader import Loader
from kdlib.samples.uploads import CudaUploads
from kdlib.samples.views import Augmentation
from tests.support.fake_cuda import CUDA, fake_cuda
from tests.support.stores.people import make_store

AUGMENTATION = Augmentation(rotation_probability=1.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "people.zarr", 23)


class LateUploads:
    """A device that copies as late as it may: when the host waits for a copy, or at the end."""

    def __init__(self):
        self.waiting = collections.deque()
        self.started = 0
        self.allocated = []

    def allocate(self, like):
        self.allocated.append(torch.empty_like(like))
        return self.allocated[-1]

    def start(self, batch):
        self.started += 1
        self.waiting.append(LateUpload(self, batch))
        return self.waiting[-1]


class LateUpload:
    def __init__(self, device, batch):
        self.device, self.source = device, batch
        self.target = {name: torch.full_like(tensor, 77) for name, tensor in batch.items()}

    def wait(self):
        while self in self.device.waiting:
            done = self.device.waiting.popleft()
            for name, tensor in done.source.items():
                done.target[name].copy_(tensor)

    def take(self):
        return self.target


class AtOnce:
    """Stands for `ThreadPoolExecutor`: what is submitted is done at once."""

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, function, *arguments):
        future = Future()
        future.set_result(function(*arguments))
        return future


def made(store, batch_size=2, device=None, **options):
    """A loader of augmented samples; with a device, its batches go through that device's memory."""
    dataset = StoreDataset(store, (48, 64), AUGMENTATION, views="average", seed=4)
    loader = Loader(dataset, batch_size, **({"shuffle": True, "threads": 2} | options))
    loader._uploads = device
    return loader


@pytest.mark.parametrize("options", [{}, {"shuffle": False, "batch_size": 5}, {"part": (0, 2), "batch_size": 3}])
def test_no_batch_is_refilled_before_its_copy_is_complete(store, options):
    device = LateUploads()
    plain, copied = made(store, **options), made(store, device=device, **options)
    for epoch in range(2):
        expected, found = list(plain.epoch(epoch)), list(copied.epoch(epoch))
        assert len(found) == len(expected) > 2
        for one, other in zip(expected, found, strict=True):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[name], other[name]) for name in one)
    assert len(device.allocated) == (copied.ahead + 3) * len(expected[0])  # once for all epochs


def test_a_copy_is_complete_before_an_unfinished_epoch_is_left(store):
    device = LateUploads()
    loader = made(store, device=device)
    source = loader.epoch()
    next(source)
    source.close()
    assert device.started
    assert not device.waiting
    again = list(loader.epoch())
    assert [batch["row"].tolist() for batch in again] == [batch["row"].tolist() for batch in made(store).epoch()]


def test_the_next_batch_is_copied_before_this_one_is_used(store, monkeypatch):
    monkeypatch.setattr(loaders, "ThreadPoolExecutor", AtOnce)
    device = LateUploads()
    loader = made(store, device=device)
    started = [device.started for _ in loader.epoch()]
    assert started == [*range(2, len(loader) + 1), len(loader)]


@pytest.mark.parametrize(
    ("size", "threads"), [(16, 8), (32, 8), (33, 8), (64, 2), (100, 2), (100, 8), (3, 1), (16, 64)]
)
def test_threads_fill_whole_small_batches_and_all_threads_have_work(store, size, threads, monkeypatch):
    """A group has 32 samples at most per step, and no batch has more groups than it needs."""
    monkeypatch.setattr(loaders, "ThreadPoolExecutor", AtOnce)
    loader = made(store, threads=threads)
    loader.dataset.rows, loader.batch_size, filled = np.repeat(loader.dataset.rows, 400), size, []
    loader.dataset.instances = len(loader.dataset.rows)
    monkeypatch.setattr(loader.dataset, "fill", lambda batch, slots, rows, epoch: filled.append(len(slots)))
    next(loader.epoch())
    batches, rest = divmod(sum(filled), size)
    groups = loader.groups(size)
    assert rest == 0
    assert max(filled) <= 32
    assert groups == min(threads, -(-size // 32))
    assert batches * groups > threads  # while one batch is in use
    if size <= 32:
        assert set(filled) == {size}


def test_copies_to_a_gpu_do_not_let_the_host_wait():
    with fake_cuda() as device:
        batch = {
            "image": torch.zeros(2, 64, 48, 3, dtype=torch.uint8),
            "heatmaps": torch.zeros(2, 16, 12, 17),
            "row": torch.zeros(2, dtype=torch.int64),
            "affine": torch.zeros(2, 2, 3, dtype=torch.float64),
        }
        uploads = CudaUploads(CUDA)
        assert uploads.allocate(batch["image"]).shape == batch["image"].shape
        with device.recording():
            upload = uploads.start(batch)
            tensors = upload.take()
            upload.wait()
        assert len(device.uploads) == 2
        assert device.synchronisations == []
        assert {name: tensor.device.type for name, tensor in tensors.items()} == {
            "image": "cuda",
            "heatmaps": "cuda",
            "row": "cpu",
            "affine": "cpu",
        }
        assert tensors["row"] is not batch["row"]  # the memory of the batch is used again
        assert all(tensor.shape == batch[name].shape for name, tensor in tensors.items())
