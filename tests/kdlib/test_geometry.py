"""Boxes, regions and affines against HRNet's published outputs, OpenCV, and closed forms."""

import cv2
import numpy as np
import pytest

from kdlib.geometry import (
    box_to_region,
    clip_boxes,
    compose_affines,
    invert_affine,
    parse_size,
    region_affine,
    scale_affine,
    transform_points,
)
from kdlib.heatmaps import decode_argmax
from tests.support.shared_data import PARITY, needs_parity


@needs_parity
def test_regions_and_affines_equal_the_official_hrnet():
    official = np.load(PARITY)
    # the four persons' boxes lie inside their images: clipping takes one pixel off width and height
    boxes = official["bbox"].copy()
    boxes[:, 2:] -= 1
    centers, sizes = box_to_region(boxes, (192, 256))
    np.testing.assert_allclose(centers, official["center"], atol=1e-4)
    np.testing.assert_allclose(sizes / 200, official["scale"], atol=1e-6)
    for center, size, expected in zip(centers, sizes, official["trans"], strict=True):
        np.testing.assert_allclose(region_affine(center, size, (192, 256)), expected, atol=1e-6)


@needs_parity
def test_points_decoded_from_official_maps_land_where_the_official_code_puts_them():
    official = np.load(PARITY)
    for maps, expected, heights in (
        ("heatmap", "preds", "maxvals"),
        ("heatmap_flip_avg", "preds_flip", "maxvals_flip"),
    ):
        points, scores = decode_argmax(official[maps])
        back = invert_affine(compose_affines(scale_affine(0.25), official["trans"]))
        np.testing.assert_allclose(transform_points(points, back), official[expected], atol=1e-3)
        np.testing.assert_array_equal(scores[..., None], official[heights])


@pytest.mark.parametrize(("size", "aspect"), [((192, 256), 0.75), ((288, 192), 1.5)])
def test_a_region_has_the_input_aspect_contains_its_box_and_keeps_its_centre(size, aspect):
    boxes = np.array([[10, 20, 100, 30], [5, 5, 20, 200], [-4, 0, 50, 50]], float)
    centers, sizes = box_to_region(boxes, size, padding=1.0)
    np.testing.assert_allclose(sizes[:, 0] / sizes[:, 1], aspect, rtol=1e-6)
    assert (sizes >= boxes[:, 2:] - 1e-4).all()
    np.testing.assert_allclose(centers, boxes[:, :2] + boxes[:, 2:] / 2)
    np.testing.assert_allclose(box_to_region(boxes, size, padding=1.25)[1], sizes * 1.25, rtol=1e-6)


def test_clipping_ends_on_the_last_pixel_and_empties_boxes_outside():
    boxes = [[-10, -10, 30, 40], [90, 50, 100, 100], [200, 0, 10, 10], [5, 5, 0, 10]]
    clipped = clip_boxes(boxes, [[100, 60]] * 4)
    np.testing.assert_array_equal(clipped[0], [0, 0, 29, 39])
    np.testing.assert_array_equal(clipped[1], [90, 50, 9, 9])
    assert (clipped[2:, 2:] == 0).any(axis=1).all()


@pytest.mark.parametrize("rotation", [0.0, 30.0, -75.0])
def test_a_region_affine_is_the_three_point_affine_of_opencv(rotation):
    center, size, (width, height) = np.array([50.0, 70.0]), np.array([60.0, 80.0]), (48, 64)
    radians = np.deg2rad(rotation)
    up = np.array([np.sin(radians), -np.cos(radians)]) * size[0] / 2
    right = np.array([np.cos(radians), np.sin(radians)]) * size[0] / 2
    source = np.float32([center, center + up, center + right])
    target = np.float32([[24, 32], [24, 32 - 24], [24 + 24, 32]])
    expected = cv2.getAffineTransform(source, target)
    np.testing.assert_allclose(region_affine(center, size, (width, height), rotation), expected, atol=1e-4)


def test_a_mirrored_region_shows_column_x_at_width_minus_one_minus_x():
    plain = region_affine((40, 30), (60, 80), (48, 64), 20.0)
    mirrored = region_affine((40, 30), (60, 80), (48, 64), 20.0, flip=True)
    points = np.random.default_rng(0).uniform(0, 60, (9, 2))
    expected = transform_points(points, plain)
    expected[:, 0] = 47 - expected[:, 0]
    np.testing.assert_allclose(transform_points(points, mirrored), expected, atol=1e-9)
    mirror = region_affine((24, 32), (48, 64), (48, 64), flip=True)
    np.testing.assert_allclose(compose_affines(mirror, mirror), scale_affine(1.0), atol=0)


def test_composition_and_inverse_act_on_points_as_they_say_and_broadcast():
    rng = np.random.default_rng(1)
    outer, inner = rng.normal(size=(5, 2, 3)), rng.normal(size=(2, 3))
    points = rng.normal(size=(5, 7, 2))
    both = transform_points(points, compose_affines(outer, inner))
    np.testing.assert_allclose(both, transform_points(transform_points(points, inner), outer), atol=1e-9)
    np.testing.assert_allclose(transform_points(both, invert_affine(compose_affines(outer, inner))), points, atol=1e-6)


def test_sizes_are_written_height_by_width_and_returned_width_first():
    assert parse_size("256x192") == (192, 256)
    for wrong in ("256", "256x", "0x5", "axb", "1x2x3"):
        with pytest.raises(ValueError, match="looks like 256x192"):
            parse_size(wrong)
