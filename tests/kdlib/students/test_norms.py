"""Batch norms for training: they start without changing the network, and they are folded into the finished student."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from cache.errors import StoreFormatError
from kdlib.images import normalise_images
from kdlib.samples.dataset import StoreDataset
from kdlib.students.checkpoint import read
from kdlib.students.loading import load_checkpoint
from kdlib.students.networks import STUDENTS, build_student
from kdlib.students.norms import NormedConv2d, fold_norms, norm_entries, starting_norms
from kdlib.students.pretrained import load_pretrained
from tests.support.stores.people import make_store
from train.errors import TrainError
from train.recipe import Recipe
from train.run.folder import save_checkpoint
from train.run.loop import Trainer, fit
from train.run.settings import Run

TINY = {"input_size": "64x48", "batch_size": 6, "epochs": 2, "precision": "fp32"}
FIRE_CONVOLUTIONS = 3 * 8


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "people.zarr", 18)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """Weights in torchvision's layout, with activations as far from a norm's as those of ImageNet."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "imagenet.pth"
    torch.save({f"features.{k}": 1.3 * v + 0.01 for k, v in plain().features.state_dict().items()}, path)
    return path


def plain(name="squeezenet1_1"):
    return build_student(name, "fused", 17, (96, 128))


def normed(name="squeezenet1_1"):
    student = plain(name)
    student.add_norms()
    return student


def run_of(store, out, **knobs):
    recipe = Recipe(**(TINY | knobs))
    return Run(store, store, out, recipe, distil=True, device=torch.device("cpu"), threads=1, overwrite=True)


@pytest.mark.parametrize("name", STUDENTS)
def test_every_fire_convolution_gets_one_and_keeps_its_name(name):
    student, before = normed(name), plain(name)
    assert sum(isinstance(module, NormedConv2d) for module in student.modules()) == FIRE_CONVOLUTIONS
    norms = norm_entries(student)
    assert student.state_dict().keys() - norms.keys() == before.state_dict().keys()
    assert len(norms) == 5 * FIRE_CONVOLUTIONS


def test_a_folded_state_answers_as_the_norms_at_rest():
    torch.manual_seed(0)
    student = normed().double()
    for name, value in student.state_dict().items():
        if value.is_floating_point() and "norm" in name:
            value.copy_(torch.rand_like(value) + 0.5)
    other = plain().double()
    other.load_state_dict(fold_norms(student.state_dict()))
    pictures = torch.randn(2, 3, 128, 96, dtype=torch.float64)
    expected = student.eval()(pictures)
    assert float(expected.detach().abs().max()) > 1e-3
    torch.testing.assert_close(other.eval()(pictures), expected, rtol=1e-9, atol=1e-12)


def test_a_plain_state_is_left_as_it_is():
    state = plain().state_dict()
    assert {name: value.data_ptr() for name, value in fold_norms(state).items()} == {
        name: value.data_ptr() for name, value in state.items()
    }


def test_norms_that_have_seen_pictures_change_none_of_the_features(imagenet):
    torch.manual_seed(0)
    student, before = normed(), plain()
    for model in (student, before):
        load_pretrained(model, "squeezenet1_1", str(imagenet))
    pictures = 2 * torch.randn(4, 3, 128, 96)
    untouched = student.taps(pictures).stride16
    with torch.no_grad(), starting_norms(student):
        student.taps(pictures)
    expected = before.taps(pictures).stride16
    assert torch.linalg.vector_norm(untouched - expected) > 0.5 * torch.linalg.vector_norm(expected)
    at_rest = student.eval().taps(pictures).stride16
    in_training = student.train().taps(pictures).stride16
    for found in (at_rest, in_training):
        assert torch.linalg.vector_norm(found - expected) < 1e-4 * torch.linalg.vector_norm(expected)


def test_a_backbone_with_norms_of_its_own_gets_no_further_ones():
    student = build_student("torchvision:resnet18", "fused", 17, (96, 128))
    before = list(student.state_dict())
    student.add_norms()
    assert list(student.state_dict()) == before


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_student_file_holds_torchvisions_squeezenet(store, tmp_path, ema):
    fit(run_of(store, tmp_path / "run", pretrained="none", ema=ema))
    content = read(tmp_path / "run" / "best.pt")["model"]
    layers = torchvision.models.squeezenet1_1(weights=None).features
    layers.load_state_dict({k.removeprefix("features."): v for k, v in content.items() if k.startswith("features.")})
    assert any(".norm." in name for name in read(tmp_path / "run" / "last.pt")["model"])
    last, best = (load_checkpoint(tmp_path / "run" / f"{name}.pt").model for name in ("last", "best"))
    assert last.state_dict().keys() == best.state_dict().keys()


def test_the_trainer_starts_from_what_imagenet_weights_say(store, tmp_path, imagenet):
    trainers = {}
    for norm in ("batch", "none"):
        made = Trainer(run_of(store, tmp_path / norm, pretrained=str(imagenet), backbone_norm=norm))
        made.start()
        trainers[norm] = made.state
    dataset = StoreDataset(store, (48, 64), views=None)
    floats = normalise_images(torch.stack([dataset[i]["image"] for i in range(len(dataset))]))
    found, expected = (trainers[norm].model.eval().taps(floats).stride16 for norm in ("batch", "none"))
    similar = nn.functional.cosine_similarity(found.flatten(), expected.flatten(), 0)
    assert float(similar.detach()) > 0.99


@pytest.mark.parametrize(("bad", "begins"), [(range(3), False), (range(18), True)])
def test_damaged_records_are_left_to_the_training(store, tmp_path, imagenet, monkeypatch, bad, begins):
    def damaged(dataset, index):
        if index in bad:
            raise StoreFormatError("view 0 is damaged")
        return whole(dataset, index)

    whole = StoreDataset.__getitem__
    monkeypatch.setattr(StoreDataset, "__getitem__", damaged)
    made = Trainer(run_of(store, tmp_path, pretrained=str(imagenet)))
    made.start()
    state = norm_entries(made.state.model)
    untouched = all((v == 1).all() for k, v in state.items() if k.endswith("running_var"))
    assert untouched == begins


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_run_of_before_there_were_norms_is_one_without(store, tmp_path, norm):
    fit(run_of(store, tmp_path, pretrained="none", backbone_norm="none", epochs=1))
    for name in ("last.pt", "best.pt"):
        content = read(tmp_path / name)
        del content["recipe"]["backbone_norm"]
        save_checkpoint(tmp_path / name, content)
    assert not norm_entries(load_checkpoint(tmp_path / "best.pt").model)
    again = run_of(store, tmp_path, pretrained="none", backbone_norm=norm, epochs=1)
    again = dataclasses.replace(again, overwrite=False, resume=True)
    if norm == "none":
        assert fit(again)["instances"] == 18
        return
    with pytest.raises(TrainError, match=r'recipe\.backbone_norm: "none" -> "batch"'):
        fit(again)


def test_added_norms_are_those_of_torch():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 3, stride=2, padding=1)
    bare = copy.deepcopy(conv)
    x = torch.randn(2, 3, 9, 7)
    made = NormedConv2d(conv)
    y = bare(x).detach().double().numpy()
    mean, variance = y.mean((0, 2, 3), keepdims=True), y.var((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(made(x).detach().numpy(), (y - mean) / np.sqrt(variance + 1e-5), atol=1e-5)
