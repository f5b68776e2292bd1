"""The affines of a sample agree: a point has one position, whichever pixel grids it passes through."""

import numpy as np
import pytest

from kdlib.geometry import transform_points
from kdlib.samples.dataset import StoreDataset
from kdlib.samples.views import Augmentation
from tests.support.stores.people import make_store

AUGMENTATION = Augmentation(flip=0.5, rotation=40.0, rotation_probability=1.0, scale=0.3, half_body=0.2)
POINTS = np.random.default_rng(0).uniform(0, 200, (8, 30, 2))
ROWS = np.array([6, 0, 3, 3, 1, 7, 2, 5])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "people.zarr", turned=True)


def placed(store, views, **options):
    return StoreDataset(store, (72, 112), AUGMENTATION, views=views, seed=3, **options).placer.place(ROWS, 2)


@pytest.mark.parametrize("views", ["average", "matching", "first", "replay"])
@pytest.mark.parametrize("stride", [2, 4, 8])
def test_pixels_and_maps_of_a_sample_lie_where_its_keypoints_lie(store, views, stride):
    placement = placed(store, views, stride=stride)
    in_frame = transform_points(POINTS, store.frame_affine[ROWS])
    in_input = transform_points(POINTS, placement.image_to_input)
    np.testing.assert_allclose(transform_points(in_input, placement.input_to_source), in_frame, atol=1e-9)
    in_heatmap = transform_points(POINTS, placement.image_to_heatmap)
    np.testing.assert_allclose(in_heatmap * stride, in_input, atol=1e-9)
    for view in range(3):
        in_maps = transform_points(in_frame, store.view_affine[ROWS, view]) / 4
        found = transform_points(in_heatmap, placement.heatmap_to_maps[:, view])
        np.testing.assert_allclose(found, in_maps, atol=1e-9)


def test_the_pixels_of_images_lie_in_the_image(store, tmp_path):
    placement = placed(store, "average", images=tmp_path)
    there = transform_points(POINTS, placement.image_to_input)
    np.testing.assert_allclose(transform_points(there, placement.input_to_source), POINTS, atol=1e-9)


def test_the_stored_views_are_those_that_the_policy_names(store):
    assert placed(store, "average").stored_views == [[0, 1, 2]] * 8
    assert placed(store, "first").stored_views == [[0]] * 8
    matching = placed(store, "matching")
    assert matching.stored_views == [[int(flip)] for flip in matching.flips]
    assert 0 < matching.flips.sum() < 8
    assert {len(views) for views in placed(store, "replay").stored_views} == {1}


def test_a_sample_without_heatmaps_has_no_affines_of_stored_views(store):
    placement = placed(store, None)
    assert placement.heatmap_to_maps.shape == (8, 0, 2, 3)
    assert placement.stored_views == [[]] * 8
    np.testing.assert_array_equal(placement.input_to_source, placed(store, "first").input_to_source)


@pytest.mark.parametrize("views", ["average", "replay"])
def test_mirrored_samples_have_affines_that_mirror(store, views):
    placement = placed(store, views)
    assert (np.linalg.det(placement.image_to_input[..., :2]) < 0).tolist() == placement.flips.tolist()
