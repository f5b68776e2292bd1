"""A store in device memory gives the samples of the loader: labels and affines exactly, pixels within one level."""

import numpy as np
import pytest
import torch

from cache.errors import StoreFormatError
from kdlib.errors import BadRecordError, KdlibError
from kdlib.samples import resident
from kdlib.samples.dataset import StoreDataset
from kdlib.samples.loader import Loader
from kdlib.samples.resident import ResidentDataset, code_values, resident_bytes, why_not_resident
from kdlib.samples.uploads import CudaUploads
from kdlib.samples.views import Augmentation
from tests.support.fake_cuda import CUDA, fake_cuda
from tests.support.stores.people import make_store

CPU = torch.device("cpu")
STRONG = Augmentation(flip=0.5, rotation=40.0, rotation_probability=1.0, scale=0.3, half_body=0.2)
VIEWS = ["average", "matching", "first", "replay", None]


@pytest.fixture(scope="module", params=["root4", "float32", "float16"])
def store(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "people.zarr"
    return make_store(path, 9, codec=request.param, turned=True)


def dataset(store, views="average", **options):
    return StoreDataset(store, (88, 72), STRONG, views=views, seed=3, **options)


def batches(samples, epoch=1, **options):
    return list(Loader(samples, 4, **({"shuffle": True, "threads": 2} | options)).epoch(epoch))


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("stride", [4, 2])
def test_batches_are_those_of_the_loader(store, views, stride):
    plain = dataset(store, views, stride=stride)
    moved = ResidentDataset(plain, CPU)
    for epoch in (0, 1):
        for one, other in zip(batches(plain, epoch), batches(moved, epoch), strict=True):
            assert one.keys() == other.keys()
            for name, tensor in one.items():
                assert (other[name].shape, other[name].dtype) == (tensor.shape, tensor.dtype), name
                if name == "image":
                    assert (other[name].int() - tensor.int()).abs().max() <= 1
                elif name == "heatmaps":
                    torch.testing.assert_close(other[name], tensor, rtol=0, atol=1e-5)
                    assert tensor.amax() > 0.5
                else:
                    assert torch.equal(other[name], tensor), name


def test_ranks_and_a_resumed_epoch_get_their_part(store):
    moved = ResidentDataset(dataset(store), CPU)
    whole = batches(moved)
    parts = [batches(moved, part=(rank, 2)) for rank in (0, 1)]
    for batch, *of_ranks in zip(whole, *parts, strict=True):
        for name, tensor in batch.items():
            assert torch.equal(torch.cat([part[name] for part in of_ranks]), tensor)
    rest = list(Loader(moved, 4, shuffle=True, threads=1).epoch(1, first=1))
    assert all(torch.equal(one[name], other[name]) for one, other in zip(whole[1:], rest, strict=True) for name in one)


def test_single_samples_are_those_of_the_store(store):
    plain = dataset(store)
    one, other = plain[5], ResidentDataset(plain, CPU)[5]
    torch.testing.assert_close(other["heatmaps"], one["heatmaps"], rtol=0, atol=1e-5)
    assert torch.equal(other["keypoints"], one["keypoints"])


def test_of_a_store_with_few_labels_only_labelled_persons_take_memory(tmp_path, monkeypatch):
    source = make_store(tmp_path / "people.zarr", 9)
    keypoints = source.instances["keypoints"].copy()
    keypoints[[0, 1, 3, 4, 5, 7, 8]] = 0
    monkeypatch.setattr(source, "instances", {**source.instances, "keypoints": keypoints})
    plain = dataset(source, labelled_only=True)
    moved = ResidentDataset(plain, CPU)
    tensors = (moved._frames, moved._codes, moved._peaks)
    assert resident_bytes(plain) == sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    plain.epoch = moved.epoch = 1
    for index in (0, 8, -1):
        one, other = plain[index], moved[index]
        assert all(torch.equal(other[name], one[name]) for name in ("keypoints", "affine", "row"))
        assert int(one["row"]) in (2, 6)
    for one, other in zip(batches(plain), batches(moved), strict=True):
        assert torch.equal(other["affine"], one["affine"])
        torch.testing.assert_close(other["heatmaps"], one["heatmaps"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("levels", [3, 127, 255])
def test_the_values_of_codes_are_those_of_the_codec(levels):
    codec = resident.RootCodec(levels=levels)
    peaks = np.array([[0.9, 0.0031, 1.2], [0.003, -0.5, 0.0]], np.float32)
    np.testing.assert_array_equal(code_values(torch.from_numpy(peaks), codec).numpy(), codec.tables(peaks))


def test_memory_is_computed_beforehand_and_a_store_that_does_not_fit_is_refused(store, monkeypatch):
    plain = dataset(store)
    moved = ResidentDataset(plain, CPU)
    tensors = (moved._frames, moved._codes, moved._peaks)
    needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert resident_bytes(plain) == needed
    for free, fits in ((needed * 4 // 3 + 4, True), (needed, False), (None, True)):
        monkeypatch.setattr(resident, "free_memory", lambda _, free=free: free)
        problem = why_not_resident(plain, CPU)
        assert (problem is None) == fits
        if problem is not None:
            assert f"needs {needed / 1e9:.1f} GB" in problem
            assert "\n" not in problem
    assert "float64" in why_not_resident(plain, torch.device("mps"))


def test_a_store_without_frames_is_refused(tmp_path):
    frameless = StoreDataset(make_store(tmp_path / "frameless.zarr", 3, frames=False), images=tmp_path)
    assert "holds no frames" in why_not_resident(frameless, CPU)


def test_bad_records_are_replaced_as_by_the_loader(tmp_path, monkeypatch):
    plain = StoreDataset(make_store(tmp_path / "people.zarr", 9), (48, 64), STRONG)
    frame = type(plain.store).frame

    def damaged(self, row):
        if row in (3, 4):
            raise StoreFormatError(f"row {row} is damaged")
        return frame(self, row)

    monkeypatch.setattr(type(plain.store), "frame", damaged)
    with pytest.raises(StoreFormatError, match=r"row [34] is damaged"):
        ResidentDataset(plain, CPU)
    loaders = [
        Loader(samples, 4, shuffle=True, skip_bad=True, threads=1)
        for samples in (plain, ResidentDataset(plain, CPU, skip_bad=True))
    ]
    rows = [[batch["row"].tolist() for batch in loader.epoch()] for loader in loaders]
    assert rows[0] == rows[1]
    assert loaders[0].bad == loaders[1].bad
    assert loaders[0].bad


def test_a_frame_of_another_size_is_refused(tmp_path, monkeypatch):
    plain = StoreDataset(make_store(tmp_path / "people.zarr", 5), (48, 64))
    pixels = resident.frame_pixels
    monkeypatch.setattr(resident, "frame_pixels", lambda store, row, frame: pixels(store, row, frame)[: 99 - row])
    with pytest.raises(BadRecordError, match="frames of one size"):
        ResidentDataset(plain, CPU)


def test_a_store_without_a_usable_frame_is_refused(tmp_path, monkeypatch):
    plain = StoreDataset(make_store(tmp_path / "people.zarr", 2), (48, 64))
    monkeypatch.setattr(plain, "rows", plain.rows[:0])
    with pytest.raises(KdlibError, match="no usable instance"):
        resident_bytes(plain)


def test_on_a_gpu_only_places_labels_and_affines_are_copied_and_nothing_waits(tmp_path):
    plain = StoreDataset(make_store(tmp_path / "people.zarr", 6, turned=True), (48, 64), STRONG)
    real = ResidentDataset(plain, CPU)
    arrays = real.empty_batch(4)
    with fake_cuda() as device:
        moved = ResidentDataset.__new__(ResidentDataset)
        moved.__dict__.update(real.__dict__)
        for name in ("_frames", "_codes", "_peaks", "_order"):
            tensor = getattr(real, name)
            setattr(moved, name, torch.empty(tensor.shape, dtype=tensor.dtype, device=CUDA))
        host = {name: torch.zeros(array.shape, dtype=DTYPES[array.dtype.name]) for name, array in arrays.items()}
        with device.recording():
            batch = moved.complete(CudaUploads(CUDA).start(host).take())
        assert device.synchronisations == []
        assert len(device.uploads) == len(host) - 2
        assert all(line.startswith("uploads.py") for line in device.uploads)
        copied = sum(tensor.numel() * tensor.element_size() for tensor in host.values())
        assert copied < 1200 * 4  # bytes per sample
        assert device.operators <= KERNELS
        assert {name: tensor.device.type for name, tensor in batch.items() if tensor.device.type == "cpu"} == {
            "row": "cpu",
            "affine": "cpu",
        }
        assert batch["image"].shape == (4, 64, 48, 3)
        assert batch["heatmaps"].shape == (4, 17, 16, 12)


DTYPES = {"float32": torch.float32, "float64": torch.float64, "int64": torch.int64}
KERNELS = 324
"""Operators that make one batch of three averaged views on a GPU."""
