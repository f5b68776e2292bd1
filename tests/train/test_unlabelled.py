"""Persons with a box and no keypoints: a store holds them, and students learn from the teacher on them."""

import json

import numpy as np
import pytest
import torch

import cache
from kdlib.samples.dataset import StoreDataset
from precompute.__main__ import main as precompute
from tests.support import tiny_precompute
from tests.support.stores.people import make_store
from tests.support.tiny_training import command, results
from train.__main__ import main
from train.recipe import Recipe
from train.run.loop import Trainer
from train.run.settings import Run
from train.supervision import Supervision

BARE = {700, 703, 704, 709}
"""Annotations whose keypoints are removed."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    data = tiny_precompute.write(tmp_path_factory.mktemp("data"))
    path = data / "annotations/person_keypoints_train.json"
    document = json.loads(path.read_text())
    for annotation in document["annotations"]:
        if annotation["id"] in BARE:
            annotation["num_keypoints"] = 0
            del annotation["keypoints"]
    path.write_text(json.dumps(document))
    return data


@pytest.fixture(scope="module")
def stores(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    assert precompute(tiny_precompute.command(data, folder / "train.zarr", "--unlabelled")) == 0
    make_store(folder / "val.h5", 4)
    return folder


def test_persons_without_keypoints_are_stored_where_they_are_asked_for(data, stores, tmp_path):
    assert precompute(tiny_precompute.command(data, tmp_path / "usual.zarr")) == 0
    usual, all_of_them = cache.open_store(tmp_path / "usual.zarr"), cache.open_store(stores / "train.zarr")
    ids = all_of_them.instances["annotation_id"]
    assert set(ids) - set(usual.instances["annotation_id"]) == BARE
    bare = np.isin(ids, sorted(BARE))
    np.testing.assert_array_equal((all_of_them.instances["keypoints"][..., 2] > 0).any(axis=1), ~bare)
    np.testing.assert_array_equal(all_of_them.heatmaps(np.flatnonzero(~bare)), usual.heatmaps(range(len(usual))))
    assert (all_of_them.heatmaps(np.flatnonzero(bare)).max(axis=(-2, -1)) > 0.003).any(axis=(1, 2)).all()


def test_they_add_to_the_teachers_term_and_not_to_the_labels(stores):
    dataset = StoreDataset(cache.open_store(stores / "train.zarr"), (48, 64))
    supervision = Supervision("kl", 1.0, 1.0, 1.0, 0.5, "log", 0.003, "confidence")
    batch = torch.utils.data.default_collate([dataset[i] for i in range(len(dataset))])
    bare = torch.from_numpy(np.isin(dataset.store.instances["annotation_id"], sorted(BARE)))
    maps = torch.randn(batch["heatmaps"].shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    moved = {}
    for name, term in supervision.terms(maps, batch).items():
        (gradient,) = torch.autograd.grad(term, maps, retain_graph=True)
        moved[name] = gradient.abs().flatten(1).amax(dim=1) > 0
    assert moved["kd"].all()
    assert moved["gt"].tolist() == (~bare).tolist()


@pytest.mark.parametrize("flags", [{}, {"gt_weight": 1}])
def test_a_student_trains_on_them(stores, tmp_path, flags):
    assert main(command(stores, tmp_path / "run", epochs=1, **flags)) == 0
    metrics, (line,) = results(tmp_path / "run")
    assert metrics["instances"] == 4
    assert np.isfinite(line["loss"])


def test_a_baseline_draws_labelled_persons_alone_in_as_many_steps(stores, tmp_path, capsys):
    """Persons: 11 in the store, 7 of them labelled. Both runs take 2 steps of 4 persons per epoch."""
    for name, flags, learned in (
        ("baseline", {}, "the labels of 7 of 11 persons"),
        ("distill", {"gt_weight": 1}, "the teacher's heatmaps of 11 persons and the labels of 7 of them"),
        ("distill", {"joints": "labelled"}, "the teacher's heatmaps of 7 of 11 persons, at labelled joints"),
    ):
        out = tmp_path / f"{name}{len(flags)}{len(learned)}"
        assert main(command(stores, out, name, epochs=2, **flags)) == 0
        assert f" learns from {learned}, in 4 steps\n" in capsys.readouterr().err
        assert results(out)[0]["learned_from"] == learned
        drawn = 7 if name == "baseline" or "joints" in flags else 11
        config = json.loads((out / "config.json").read_text())
        assert config["sources"] == {"stored": 11, "drawn": drawn, "labelled": 7, "steps": 4}


def test_the_rows_of_a_baseline_are_those_with_labels(stores, tmp_path):
    drawn = set()

    def record(batch, slots, rows, epoch, true=StoreDataset.fill):
        drawn.update(rows.tolist())
        true(trainer.loader.dataset, batch, slots, rows, epoch)

    arguments = (cache.open_store(stores / "train.zarr"), cache.open_store(stores / "val.h5"), tmp_path / "run")
    recipe = Recipe(batch_size=4, epochs=3, pretrained="none", input_size="64x48")
    trainer = Trainer(Run(*arguments, recipe, distil=False, device=torch.device("cpu"), threads=1))
    trainer.loader.dataset.fill = record
    for epoch in range(3):
        list(trainer.loader.epoch(epoch))
    assert {int(arguments[0].instances["annotation_id"][row]) for row in drawn} == {701, 702, 705, 706, 707, 708, 710}


def test_boxes_of_a_detector_teach_through_the_teacher_and_a_baseline_is_refused(data, stores, tmp_path, capsys):
    boxes = [{"image_id": 50 - i, "category_id": 1, "bbox": [5.0, 5.0, 60.0, 70.0], "score": 0.5} for i in range(6)]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    arguments = tiny_precompute.command(data, tmp_path / "train.zarr", "--boxes", str(tmp_path / "boxes.json"))
    assert precompute(arguments) == 0
    (tmp_path / "val.h5").symlink_to(stores / "val.h5")
    assert main(command(tmp_path, tmp_path / "run", epochs=1)) == 0
    capsys.readouterr()
    of_labels = {"baseline": {}, "distill": {"joints": "labelled"}}
    for name, flags in of_labels.items():
        assert main(command(tmp_path, tmp_path / "labels", name, epochs=1, **flags)) == 1
        assert capsys.readouterr().err == (
            f"error: {tmp_path}/train.zarr holds no labelled joint, but this run uses labelled joints only. To "
            "train on the store's teacher, run python -m train distill without --kd-weight 0 and --joints labelled\n"
        )
        assert not (tmp_path / "labels").exists()
