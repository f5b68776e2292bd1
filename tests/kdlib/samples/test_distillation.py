"""The plain dataset for other training loops: its samples, and that it works in worker processes."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch

import cache
from kdlib.heatmaps import decode_dark
from kdlib.images import normalise_images
from kdlib.losses import TRANSFORMS, spatial_kl
from kdlib.samples.dataset import StoreDataset
from kdlib.samples.distillation import DistillationDataset
from kdlib.samples.views import Augmentation
from tests.support.stores.people import make_store

SIZE = (72, 112)
CHANGED = Augmentation(rotation=30.0, scale=0.2)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "train.zarr").path


def test_a_sample_is_image_truth_logits_and_weights_on_one_grid(path):
    dataset = DistillationDataset(path, (72, 112), Augmentation(rotation=30.0))
    torch.manual_seed(0)
    sample = dataset[3]
    assert sample["image"].shape == (3, 112, 72)
    assert sample["target"].shape == sample["logits"].shape == (17, 28, 18)
    assert sample["weight"].shape == sample["confidence"].shape == (17,)
    seen = (sample["weight"] > 0) & (sample["confidence"] > 0.7)
    teacher, _ = decode_dark(sample["logits"].exp()[None].numpy(), kernel=5)
    truth, _ = decode_dark(sample["target"][None].numpy(), kernel=5)
    assert seen.sum() > 3
    assert abs(teacher - truth)[0][seen.numpy()].max() < 1
    assert sample["target"].amax(dim=(1, 2))[seen].min() >= math.exp(-0.25) - 1e-6  # half a pixel off, along x and y
    assert torch.isneginf(sample["logits"]).any()
    torch.testing.assert_close(sample["logits"].amax(dim=(1, 2)).exp()[seen], sample["confidence"][seen].clamp(0, 1))


def test_another_stride_is_another_raster_over_the_same_picture(path):
    fine, coarse = (DistillationDataset(path, (72, 112), stride=stride)[3] for stride in (2, 4))
    assert fine["target"].shape == fine["logits"].shape == (17, 56, 36)
    assert torch.equal(fine["image"], coarse["image"])
    # The labels' Gaussians have a 32nd of the rows as deviation, but at least a pixel: 56 / 32, and 1 for 28 rows.
    torch.testing.assert_close(fine["target"][:, ::2, ::2] ** ((56 / 32) ** 2 / 4), coarse["target"], atol=1e-4, rtol=0)
    torch.testing.assert_close(fine["logits"][:, ::2, ::2], coarse["logits"])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_give_what_one_process_gives(path, method):
    dataset = pickle.loads(pickle.dumps(DistillationDataset(path)))
    plain, workers = (
        list(torch.utils.data.DataLoader(dataset, 3, num_workers=n, multiprocessing_context=method if n else None))
        for n in (0, 2)
    )
    assert len(plain) == len(workers) == 3
    for alone, ours in zip(plain, workers, strict=True):
        for name in alone:
            torch.testing.assert_close(ours[name], alone[name], rtol=0, atol=0)


def test_views_are_new_at_every_access_and_follow_torchs_seed(path):
    dataset = DistillationDataset(path, augmentation=Augmentation(rotation=30.0))
    torch.manual_seed(1)
    first, second = dataset[0]["image"], dataset[0]["image"]
    torch.manual_seed(1)
    assert torch.equal(dataset[0]["image"], first)
    assert not torch.equal(first, second)


def assert_same(samples, others):
    assert len(samples) == len(others)
    for one, other in zip(samples, others, strict=True):
        assert list(one) == list(other)
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("augmentation", [None, CHANGED])
@pytest.mark.parametrize("normalise", [True, False])
def test_a_batch_has_the_samples_of_single_accesses(path, augmentation, normalise):
    """Any order, repeated and negative indices, and more samples than are taken through a step together."""
    dataset = DistillationDataset(path, SIZE, augmentation, normalise=normalise)
    indices = [4, 0, 0, -1, 5, *np.random.default_rng(0).integers(len(dataset), size=40).tolist()]
    torch.manual_seed(7)
    together, after = dataset.__getitems__(indices), torch.rand(3)
    torch.manual_seed(7)
    assert_same(together, [dataset[index] for index in indices])
    assert torch.equal(torch.rand(3), after)
    assert [int(sample["index"]) for sample in together] == indices


@pytest.mark.parametrize("logits", ["log", "raw"])
def test_samples_are_those_of_the_trainers_dataset_in_an_epoch_that_torch_draws(path, logits):
    dataset, plain = (
        DistillationDataset(path, SIZE, CHANGED, logits=logits),
        StoreDataset(cache.open_store(path), SIZE, CHANGED),
    )
    torch.manual_seed(5)
    batch = dataset.__getitems__([3, 1, 3])
    torch.manual_seed(5)
    for index, sample in zip([3, 1, 3], batch, strict=True):
        plain.epoch = int(torch.randint(2**31, ()))
        expected = plain[index]
        assert torch.equal(sample["image"], normalise_images(expected["image"][None])[0])
        assert torch.equal(sample["weight"], expected["labelled"])
        floor = plain.store.manifest["provenance"]["logits"]["floor"]
        assert torch.equal(sample["logits"], TRANSFORMS[logits](expected["heatmaps"], floor))
        assert torch.equal(sample["confidence"], expected["heatmaps"].amax(dim=(1, 2)).clamp(0, 1))
        points = expected["keypoints"].double().numpy()[:, :, None, None]
        rows, columns = np.mgrid[:28, :18]
        gaussian = np.exp(-((columns - points[:, 0]) ** 2 + (rows - points[:, 1]) ** 2) / 2)  # sigma 1 for 28 rows
        np.testing.assert_allclose(sample["target"], gaussian, rtol=1e-6, atol=1.3e-38)
    assert batch[0]["image"].shape == (3, 112, 72)
    assert not torch.equal(batch[0]["image"], batch[2]["image"])


def test_no_value_of_a_target_is_subnormal(path):
    """Processors take a hundred times as long for numbers below 1.2e-38, which no loss depends on."""
    target = torch.stack([sample["target"] for sample in DistillationDataset(path, SIZE).__getitems__(range(8))])
    assert (target == 0).any()
    assert target[target > 0].min() >= torch.finfo(torch.float32).tiny


def test_images_may_stay_bytes(path):
    plain, left = DistillationDataset(path, SIZE), DistillationDataset(path, SIZE, normalise=False)
    image = left[2]["image"]
    assert (image.shape, image.dtype) == ((112, 72, 3), torch.uint8)
    batches = (next(iter(torch.utils.data.DataLoader(dataset, 4))) for dataset in (plain, left))
    expected, found = batches
    assert torch.equal(normalise_images(found.pop("image")), expected.pop("image"))
    assert_same([found], [expected])


def test_default_collation_returns_the_batch_itself(path):
    dataset = DistillationDataset(path, SIZE)
    samples = dataset.__getitems__([1, 0, 2])
    batch = torch.utils.data.default_collate(samples)
    assert type(batch) is dict
    assert batch["image"].data_ptr() == samples[0]["image"].data_ptr()
    assert_same([batch], [{name: torch.stack([dataset[i][name] for i in (1, 0, 2)]) for name in batch}])


def replace_image(samples):
    samples[1]["image"] = samples[1]["image"] * 2


def add_entry(samples):
    for sample in samples:
        sample["extra"] = torch.ones(2)


def drop_entry(samples):
    for sample in samples:
        del sample["target"]


@pytest.mark.parametrize(
    "change",
    [replace_image, add_entry, drop_entry, list.reverse, list.pop, lambda samples: samples.append(samples[0])],
)
def test_changed_samples_are_collated_as_they_are(path, change):
    samples = DistillationDataset(path, SIZE).__getitems__([1, 0, 2])
    change(samples)
    batch = torch.utils.data.default_collate(samples)
    assert_same([batch], [torch.utils.data.default_collate([dict(sample) for sample in samples])])


def test_a_copied_sample_is_a_plain_dict(path):
    sample = DistillationDataset(path, SIZE).__getitems__([1, 0])[1]
    for other in (copy.copy(sample), copy.deepcopy(sample), pickle.loads(pickle.dumps(sample))):
        assert type(other) is dict
        assert_same([other], [sample])


def test_a_subset_gets_batches_too(path):
    dataset = DistillationDataset(path, SIZE)
    (batch,) = torch.utils.data.DataLoader(torch.utils.data.Subset(dataset, [5, 2, 3]), 3)
    assert batch["index"].tolist() == [5, 2, 3]
    assert torch.equal(batch["logits"][1], dataset[2]["logits"])


class Brighter(DistillationDataset):
    def __getitem__(self, index):
        sample = super().__getitem__(index)
        sample["image"] = sample["image"] + 1
        return sample


def test_a_subclass_that_changes_samples_changes_those_of_batches(path):
    plain, brighter = (
        next(iter(torch.utils.data.DataLoader(kind(path), 4))) for kind in (DistillationDataset, Brighter)
    )
    assert torch.equal(brighter["image"], plain["image"] + 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_augmented_batches_follow_torchs_seed(path, workers):
    dataset = DistillationDataset(path, SIZE, CHANGED)
    epochs = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        epochs.append(list(torch.utils.data.DataLoader(dataset, 4, shuffle=True, num_workers=workers)))
    assert_same(epochs[0], epochs[1])
    assert not torch.equal(epochs[0][0]["image"], epochs[2][0]["image"])


@pytest.mark.parametrize("index", [8, -9])
def test_an_index_out_of_range_is_an_index_error(path, index):
    dataset = DistillationDataset(path)
    assert len(dataset) == 8
    with pytest.raises(IndexError):
        dataset.__getitems__([0, index])


def test_a_batch_teaches(path):
    """A loss over a batch and its gradient are finite, also through the logarithm of the target."""
    (batch,) = torch.utils.data.DataLoader(DistillationDataset(path, SIZE, CHANGED), 8)
    maps = torch.zeros_like(batch["logits"], requires_grad=True)
    loss = spatial_kl(maps, batch["logits"], batch["confidence"], temperature=0.5)
    (loss + spatial_kl(maps, batch["target"].log(), batch["weight"])).backward()
    assert torch.isfinite(maps.grad).all()
    assert maps.grad.any()
