"""How a student's maps are read: sub-pixel joints, and scores from all joints."""

import numpy as np
import pytest
import torch

import cache
from kdlib.geometry import MAP_STRIDES, transform_points
from kdlib.heatmaps import gaussian_heatmaps
from kdlib.losses import default_sigma
from kdlib.metrics.keypoints import oks
from kdlib.readout import Readout
from kdlib.students.loading import LoadedStudent
from tests.support.stores.people import make_store
from train.evaluate import measure, predict, student_loader


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "val.zarr"
    make_store(path, 8)
    return cache.open_store(path)


def predictions(store, shift, height, stride=4):
    """Predictions that are ``shift`` (N,) input pixels off the labels, from maps with peaks of ``height`` (N,)."""
    loader = student_loader(store, (96, 128), 4, torch.device("cpu"))
    batches = iter([(batch["row"].numpy(), batch["affine"].numpy()) for batch in loader.epoch()])

    class KnowsTheLabels(LoadedStudent):
        input_size, readout = (96, 128), Readout("kl", 1.0)

        def heatmaps(self, crops):
            rows, affines = next(batches)
            truth = np.asarray(store.instances["keypoints"])[rows][..., :2].astype(np.float64)
            points = (transform_points(truth, affines) + shift[rows, None, None]) / stride
            size, sigma = (96 // stride, 128 // stride), default_sigma(128 // stride)
            return gaussian_heatmaps(points, np.ones(truth.shape[:2]), size, sigma) * height[rows, None, None, None]

    return predict(KnowsTheLabels(), loader)


@pytest.mark.parametrize("stride", MAP_STRIDES)
def test_joints_are_found_between_the_pixels_of_small_maps(store, stride):
    said = predictions(store, np.zeros(8), np.full(8, 0.9, np.float32), stride)
    truth = np.asarray(store.instances["keypoints"])[said.rows][..., :2].astype(np.float64)
    affines = np.concatenate([b["affine"] for b in student_loader(store, (96, 128), 4, torch.device("cpu")).epoch()])
    places = transform_points(truth, affines) / stride
    whole = ((places > 1.5) & (places < np.array([96, 128]) / stride - 2.5)).all(axis=-1)  # DARK needs two neighbours
    assert whole.mean() > 0.5
    off = np.linalg.norm(said.points - truth, axis=-1)
    pixel = stride / np.linalg.norm(affines[:, 0, :2], axis=-1)  # a heatmap pixel, in image pixels
    assert np.quantile((off / pixel[:, None])[whole], 0.9) < 0.1


def test_persons_are_ranked_by_heights_that_hrnets_threshold_would_leave_out(store):
    """The wrong predictions come first in the store and have lower peaks; all peaks are below 0.2."""
    wrong = np.arange(8) < 4
    said = predictions(store, np.where(wrong, 30.0, 0.0), np.where(wrong, 0.05, 0.15).astype(np.float32))
    similarity = oks(said.points, np.asarray(store.instances["keypoints"]), np.asarray(store.instances["area"]))
    assert similarity[wrong].max() < 0.5
    assert similarity[~wrong].min() > 0.9
    assert said.scores.max() < 0.2
    # Right ones first: precision 1 up to recall 0.5, which is 51 of COCO's 101 recalls.
    assert measure(store, said)["ap50"] == pytest.approx(100 * 51 / 101, abs=0.1)


def test_only_densities_are_scored_by_every_height():
    density, regressed = Readout("kl", 1.0), Readout("mse", 1.0)
    assert density.joint_threshold("dark") == 0
    assert density.joint_threshold("argmax") == regressed.joint_threshold("argmax") == 0.2
    assert regressed.joint_threshold("dark") == 0.2
