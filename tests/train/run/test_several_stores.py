"""Runs on several training stores: from the command line to the checkpoint, the report and the card."""

import json
import os
import signal

import pytest

import cache
from kdlib.students.checkpoint import read
from tests.support.stores.people import make_store
from tests.support.tiny_training import command, history, results, same_weights
from train.__main__ import main
from train.commands.fit import image_folders
from train.errors import TrainError
from train.run.loop import Trainer
from train.show.card.facts import read_run
from train.show.card.text import Card, ListedFile
from train.show.report.comparison import Pair, _check_fair
from train.show.report.evidence import Trained
from train.show.report.facts import training_command, training_stores


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """``a.zarr`` with labels, ``b.h5`` without, of another codec and other stored views; and two validation stores."""
    folder = tmp_path_factory.mktemp("stores")
    make_store(folder / "a.zarr", 9)
    make_store(folder / "b.h5", 6, codec="float32", turned=True, labels="nothing", shift=1.0)
    make_store(folder / "val.h5", 4)
    return folder


def run(stores, out, name="distill", *, weight="2", **flags):
    return command(stores, out, name, **{"store": [stores / "a.zarr", f"{stores / 'b.h5'}:{weight}"], **flags})


@pytest.fixture(scope="module")
def whole(stores, tmp_path_factory):
    """An uninterrupted run of two epochs of five steps: 9 + 2 * 6 samples, 4 per step."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(run(stores, out, gt_weight=1)) == 0
    return out


def test_the_run_records_all_stores(stores, whole):
    config, opened = (
        json.loads((whole / "config.json").read_text()),
        [cache.open_store(stores / name) for name in ("a.zarr", "b.h5")],
    )
    assert config["store"] == [
        {"name": of.path.name, "content_sha256": of.manifest["content_sha256"], "weight": weight, "instances": len(of)}
        for of, weight in zip(opened, (1.0, 2.0), strict=True)
    ]
    assert config["manifests"]["store"] == [dict(of.manifest) for of in opened]
    assert config["val_store"]["name"] == "val.h5"
    assert read(whole / "last.pt")["progress"]["step"] == 10
    assert all({"gt", "kd"} <= line.keys() for line in history(whole))


def test_a_run_that_is_stopped_within_an_epoch_ends_as_an_uninterrupted_one(
    stores, whole, tmp_path, monkeypatch, capsys
):
    step = Trainer.train_step

    def signalled(self, batch):
        if self.progress.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "train_step", signalled)
        assert main(run(stores, tmp_path / "run", gt_weight=1)) == 1
    assert (
        "training on 15 persons, 21 samples per epoch: 9 of a.zarr, 6 of b.h5 with weight 2" in capsys.readouterr().err
    )
    assert read(tmp_path / "run/last.pt")["progress"]["step"] == 8
    assert main(run(stores, tmp_path / "run", gt_weight=1, resume=True)) == 0
    assert results(tmp_path / "run") == results(whole)
    assert same_weights(tmp_path / "run/last.pt", whole / "last.pt")


def test_a_run_goes_on_only_with_its_stores_and_weights(stores, whole, capsys):
    def refusal(*places, **flags):
        assert (
            main(run(stores, whole, gt_weight=1, resume=True, **({"store": list(places)} if places else {}), **flags))
            == 1
        )
        return capsys.readouterr().err

    assert "resuming would change store[1].weight: 2.0 -> 3.0: give the flags" in refusal(weight="3")
    a, b = stores / "a.zarr", f"{stores / 'b.h5'}:2"
    assert "resuming would change store[0].content_sha256: " in refusal(b, a)
    assert "resuming would change store[1].content_sha256: " in refusal(a)
    assert "resuming would change store[0].weight: 1.0 -> 0.5: give the flags" in refusal(f"{a}:0.5", b)


def test_unlabelled_persons_teach_nothing_in_a_baseline(stores, tmp_path, capsys):
    assert main(run(stores, tmp_path / "run", "baseline", epochs=1)) == 0
    assert f"{stores / 'b.h5'} holds no labelled joint: its persons teach nothing" in capsys.readouterr().err
    assert main(command(stores, tmp_path / "none", "baseline", store=f"{stores / 'b.h5'}:2")) == 1
    assert f"error: {stores / 'b.h5'} holds no labelled joint, but this run uses" in capsys.readouterr().err


def test_a_path_given_twice_is_a_usage_error_unless_it_may_be_repeated(stores, tmp_path, capsys):
    for flag in ("--val-store", "--out", "--val-images"):
        with pytest.raises(SystemExit) as stopped:
            main([*run(stores, tmp_path / "run"), flag, "x", flag, "y"])
        assert stopped.value.code == 2
        line = f"error: python -m train distill: {flag} is given twice, but only one of the two could be used\n"
        assert capsys.readouterr().err == line


def test_image_folders_are_those_of_stores_without_frames(tmp_path):
    whole, one, two = (make_store(tmp_path / f"{n}.zarr", 2, frames=n == "whole") for n in ("whole", "one", "two"))
    a, b = tmp_path / "a", tmp_path / "b"
    assert image_folders([whole], []) == [None]
    assert image_folders([whole], [a]) == [a]
    assert image_folders([one, whole, two], [a]) == [a, None, a]
    assert image_folders([one, whole, two], [a, b]) == [a, None, b]
    assert image_folders([one, whole], []) == [None, None]  # the dataset names the store that needs a folder
    with pytest.raises(TrainError, match=r"--images .*a is not used: every --store holds frames"):
        image_folders([whole, whole], [a])
    with pytest.raises(TrainError, match="--images is given 3 times, but 2 of the stores hold no frames"):
        image_folders([one, two, whole], [a, b, a])


def test_report_and_card_show_all_stores(stores, whole):
    config = json.loads((whole / "config.json").read_text())
    assert "--store a.zarr --store b.h5:2 --val-store val.h5" in training_command(config, "run", distilled=True)
    student = trained(config)
    page = training_stores([student])
    assert all(str(store["content_sha256"]) in page for store in config["store"])
    assert page.count("gaussians") == 2
    assert training_stores([trained(config | {"manifests": {}})]) is not None
    alone = {name: config["store"][0][name] for name in ("name", "content_sha256")}
    assert training_stores([trained(config | {"store": alone})]) is None
    one, other = (
        trained(config),
        trained(config | {"store": [config["store"][0], config["store"][1] | {"weight": 3.0}]}),
    )
    assert _check_fair(Pair(one, trained(config))).passed
    assert "differ in more than the teacher: store" in _check_fair(Pair(one, other)).text

    facts = read_run(whole, [cache.open_store(stores / "b.h5")])
    assert (facts.teachers, list(facts.manifests)) == (["gaussians"], ["store_1", "store_2", "val_store"])
    text = Card(facts, [ListedFile("best.pt", 1, "checkpoint", "checkpoint")], None).text()
    for name, times in (("a.zarr", "9 persons were used, each once"), ("b.h5", "6 persons were used, each 2 times")):
        assert f"### Training store `{name}`\n\nOf this store, {times} per epoch." in text
        assert f"- Teacher of `{name}`: " in text


def trained(config):
    """A student of a report, without measurements."""
    return Trained("student", {}, None, None, {}, None, config, [], {}, None)
