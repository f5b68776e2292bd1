"""The loss of a run, against float64 numpy: its terms, their weights, and the schedule."""

import ast
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

from kdlib.losses import LOSSES
from kdlib.students.checkpoint import RECIPE_SETTINGS
from train.errors import TrainError
from train.recipe import Recipe
from train.supervision import Supervision

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (3, 5, 8, 6)
FLOOR, SIGMA = 0.003, 1.5
PLAIN = Supervision("kl", SIGMA, 1.0, 1.0, 1.0, "log", FLOOR, "confidence")


@pytest.fixture
def batch():
    """Heatmaps with one below the floor, one below zero and one above 1; a third of the joints unlabelled."""
    rng = np.random.default_rng(0)
    heatmaps = rng.uniform(0, 1, SHAPE) ** 4
    heatmaps[0, 1] = FLOOR / 2
    heatmaps[1, 2] = -0.1
    heatmaps[2, 0] *= 1.3 / heatmaps[2, 0].max()
    return {
        "heatmaps": torch.from_numpy(heatmaps.astype(np.float32)),
        "keypoints": torch.from_numpy(rng.uniform(0, 6, (*SHAPE[:2], 2)).astype(np.float32)),
        "labelled": torch.from_numpy((rng.random(SHAPE[:2]) > 0.3).astype(np.float32)),
    }


@pytest.fixture
def maps():
    return torch.from_numpy(np.random.default_rng(1).normal(size=SHAPE).astype(np.float32))


def density(maps):
    """softmax(maps) at the height of a Gaussian, in float64."""
    return softmax(np.asarray(maps, np.float64), axis=(-2, -1)) * 2 * math.pi * SIGMA**2


def distance(supervision, maps, p, target, weight, temperature):
    """The loss of maps; the target is given as probabilities at that temperature, and as heatmaps."""
    squares = ((maps if supervision.loss == "mse" else density(maps)) - target) ** 2
    mse = (squares.mean((-2, -1)) * weight).sum() / weight.sum()
    if supervision.loss == "mse":
        return mse
    q = softmax(maps / temperature, axis=(-2, -1))
    divergence = (rel_entr(p, q).sum((-2, -1)) * weight).sum() / weight.sum()
    return temperature**2 * divergence + supervision.mse_weight * mse


def shares(maps):
    """Each pixel's share of the sum of its map; 0 if the sum is 0."""
    return maps / np.maximum(maps.sum((-2, -1), keepdims=True), 1e-300)


def numpy_terms(supervision, maps, batch):
    """Both terms and their weights in float64, without torch."""
    maps, teacher, keypoints, labelled = (
        np.asarray(tensor, np.float64) for tensor in (maps, batch["heatmaps"], batch["keypoints"], batch["labelled"])
    )
    rows, columns = np.mgrid[: SHAPE[2], : SHAPE[3]]
    x, y = np.moveaxis(keypoints, -1, 0)[..., None, None]
    truth = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * SIGMA**2))
    peaks = teacher.max((-2, -1))
    weight = {"labelled": labelled, "all": np.ones_like(labelled), "confidence": peaks.clip(0, 1)}[supervision.joints]
    if supervision.loss == "kl" and supervision.logits == "log":
        weight = weight * (peaks >= FLOOR)
    temperature = supervision.temperature
    if supervision.logits == "raw":
        probabilities = softmax(teacher / temperature, axis=(-2, -1))
    else:
        probabilities = shares(np.where(teacher >= FLOOR, teacher, 0) ** (1 / temperature))
    return {
        "gt": supervision.gt_weight * distance(supervision, maps, shares(truth), truth, labelled, 1.0),
        "kd": supervision.kd_weight * distance(supervision, maps, probabilities, teacher, weight, temperature),
    }, {"gt": labelled.sum(), "kd": weight.sum()}


@pytest.mark.parametrize("joints", ["labelled", "all", "confidence"])
@pytest.mark.parametrize("logits", ["log", "raw"])
@pytest.mark.parametrize(
    "loss", [{"loss": "mse"}, {"temperature": 0.5}, {"temperature": 4.0}, {"temperature": 0.5, "mse_weight": 70.0}]
)
def test_terms_and_weights_equal_a_float64_computation(maps, batch, loss, logits, joints):
    supervision = dataclasses.replace(PLAIN, gt_weight=0.7, kd_weight=1.3, logits=logits, joints=joints, **loss)
    terms, weights = numpy_terms(supervision, maps, batch)
    for name, value in supervision.terms(maps, batch).items():
        assert value.item() == pytest.approx(terms[name], rel=1e-4)
    for name, value in supervision.weights(batch).items():
        assert value.item() == pytest.approx(weights[name], rel=1e-6)


def test_the_teachers_weight_falls_to_nothing_and_the_labels_stay(maps, batch):
    falling = dataclasses.replace(PLAIN, kd_schedule="linear")
    start, middle, end = (falling.terms(maps, batch, progress) for progress in (0.0, 0.25, 1.0))
    assert start["kd"] == PLAIN.terms(maps, batch, 0.9)["kd"]
    assert middle["kd"].item() == pytest.approx(0.75 * start["kd"].item())
    assert end["kd"].item() == 0
    assert start["gt"] == end["gt"]


def test_a_schedule_that_would_end_with_nothing_is_refused():
    with pytest.raises(TrainError, match=r"--kd-schedule linear lets the only loss fall to 0: .* --gt-weight 1"):
        dataclasses.replace(PLAIN, kd_schedule="linear", gt_weight=0.0)


@pytest.mark.parametrize("joints", ["labelled", "all", "confidence"])
def test_what_the_teacher_says_nothing_of_does_not_count(maps, batch, joints):
    """A map without a value above the floor neither contributes to the term nor to its weight."""
    supervision = dataclasses.replace(PLAIN, joints=joints, mse_weight=10.0)
    before = supervision.terms(maps, batch)["kd"]
    changed = maps.clone()
    changed[0, 1], changed[1, 2] = 50 * torch.rand(2, *SHAPE[2:], generator=torch.Generator().manual_seed(0))
    assert supervision.terms(changed, batch)["kd"] == before
    labelled = batch["labelled"].numpy()
    peaks = batch["heatmaps"].numpy().max((-2, -1))
    weight = {"labelled": labelled, "all": np.ones_like(labelled), "confidence": peaks.clip(0, 1)}[joints]
    assert supervision.weights(batch)["kd"].item() == pytest.approx((weight * (peaks >= FLOOR)).sum(), rel=1e-6)


def test_raw_maps_have_no_floor_and_all_have_a_say(batch):
    raw = dataclasses.replace(PLAIN, logits="raw", joints="all")
    assert raw.weights(batch)["kd"].item() == SHAPE[0] * SHAPE[1]


@pytest.mark.parametrize(
    ("terms", "read_at"),
    [({}, 0.5), ({"gt_weight": 1.0}, 1.0), ({"logits": "raw"}, 1.0), ({"mse_weight": 7.0}, 1.0)],
)
def test_maps_that_the_teacher_alone_shaped_are_read_at_its_temperature(maps, terms, read_at):
    supervision = dataclasses.replace(PLAIN, **{"gt_weight": 0.0, "temperature": 0.5, **terms})
    expected = density(maps / read_at) * read_at
    np.testing.assert_allclose(supervision.readout.heatmaps(maps).numpy(), expected, rtol=1e-5)


def test_the_recipe_offers_the_losses_of_the_library_and_nothing_else_compares_their_names():
    fields = {field.name: field for field in dataclasses.fields(Recipe)}
    assert fields["loss"].metadata["options"]["choices"] == list(LOSSES)
    assert fields.keys() == RECIPE_SETTINGS
    texts = {path: ast.parse(path.read_text()) for room in ("kdlib", "train") for path in (ROOT / room).rglob("*.py")}
    users = {
        path.relative_to(ROOT).as_posix()
        for path, tree in texts.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in LOSSES
    }
    assert users == {"kdlib/losses.py", "train/recipe.py"}
