"""The plain dataset for other training loops: its samples, and that it works in worker processes."""

import math
import pickle

import pytest
import torch

from kdlib.heatmaps import decode_dark
from kdlib.samples.distillation import DistillationDataset
from kdlib.samples.views import Augmentation
from tests.support.stores.people import make_store


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
