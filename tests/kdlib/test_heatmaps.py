"""Encoding and decoding of heatmaps against brute force and closed forms."""

import numpy as np
import pytest

from kdlib.heatmaps import dark_kernel, decode_argmax, decode_dark, flip_average, flip_back, gaussian_heatmaps
from kdlib.skeletons.skeleton import COCO

POINTS = np.array([[[10.3, 20.6], [30.0, 5.5], [15.75, 40.2]]], np.float32)


def test_a_gaussian_is_its_formula_at_every_pixel_and_zero_where_unlabelled():
    maps = gaussian_heatmaps(POINTS, np.array([[2, 1, 0]]), (40, 52), 1.7)
    rows, columns = np.mgrid[:52, :40]
    for k in range(2):
        x, y = POINTS[0, k]
        np.testing.assert_allclose(
            maps[0, k], np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 1.7**2)), atol=1e-6
        )
    assert not maps[0, 2].any()


def test_argmax_is_within_a_quarter_pixel_and_dark_is_exact_on_gaussians():
    maps = gaussian_heatmaps(POINTS, np.ones((1, 3)), (40, 52), 2.0)
    before = maps.copy()
    points, scores = decode_argmax(maps)
    assert np.abs(points - POINTS).max() <= 0.2501 + 1e-6
    refined, heights = decode_dark(maps)
    np.testing.assert_allclose(refined, POINTS, atol=0.01)
    np.testing.assert_array_equal(scores, heights)
    np.testing.assert_array_equal(maps, before)


def test_the_kernel_of_dark_is_the_published_one_at_the_published_sizes_and_odd_at_any():
    assert (dark_kernel(64), dark_kernel(96)) == (11, 17)
    widths = [dark_kernel(rows) for rows in range(8, 130)]
    assert widths == sorted(widths)
    assert all(width >= 3 and width % 2 for width in widths)


@pytest.mark.parametrize("rows", [32, 48, 64, 96])
def test_dark_places_hrnets_gaussians_among_noise_better_than_argmax_at_every_size(rows):
    rng = np.random.default_rng(rows)
    size = (3 * rows // 4, rows)
    points = rng.uniform(4, [size[0] - 5, rows - 5], (40, 1, 2)).astype(np.float32)
    maps = gaussian_heatmaps(points, np.ones((40, 1)), size, rows / 32)
    maps += rng.normal(0, 0.02, maps.shape).astype(np.float32)
    off = [np.linalg.norm(decode(maps)[0] - points, axis=-1).mean() for decode in (decode_dark, decode_argmax)]
    assert off[0] < 0.7 * off[1]


def test_argmax_moves_a_quarter_towards_the_higher_neighbour_and_not_at_the_border():
    maps = np.zeros((1, 4, 9, 7), np.float32)
    maps[0, 0, 4, 3], maps[0, 0, 4, 4], maps[0, 0, 3, 3] = 1.0, 0.5, 0.2  # right and up
    maps[0, 1, 0, 3], maps[0, 1, 0, 4] = 1.0, 0.5  # top border: no offset at all
    maps[0, 2] = -1.0  # nothing positive
    maps[0, 3, 4, 1], maps[0, 3, 4, 2] = 1.0, 0.5  # column 1: HRNet asks for 1 < x
    points, scores = decode_argmax(maps)
    np.testing.assert_array_equal(points[0], [[3.25, 3.75], [3, 0], [0, 0], [1, 4]])
    np.testing.assert_array_equal(scores[0], [1, 1, -1, 1])


@pytest.mark.parametrize("fill", [0.0, -1.0, 5.0, 1e6])
def test_decoders_give_finite_points_inside_the_map_for_flat_maps(fill):
    maps = np.full((2, 3, 8, 6), fill, np.float32)
    for decode in (decode_argmax, decode_dark):
        points, _ = decode(maps)
        assert np.isfinite(points).all()
        assert (points >= 0).all()
        assert (points < [6, 8]).all()


def test_an_even_or_tiny_kernel_is_refused():
    for kernel in (4, 1):
        with pytest.raises(ValueError, match="odd kernel"):
            decode_dark(np.zeros((1, 1, 8, 6), np.float32), kernel)


def test_flipping_back_mirrors_swaps_sides_and_shifts_by_one():
    maps = np.random.default_rng(0).normal(size=(2, 17, 8, 6)).astype(np.float32)
    back = flip_back(maps, COCO.flip_order)
    left, right = COCO.flip_pairs[2]
    np.testing.assert_array_equal(back[:, left, :, 1:], maps[:, right, :, ::-1][:, :, :-1])
    np.testing.assert_array_equal(back[:, left, :, 0], maps[:, right, :, -1])
    np.testing.assert_array_equal(flip_average(maps, maps, COCO.flip_order), (maps + back) * np.float32(0.5))


def test_the_skeleton_mirrors_names_onto_names_and_joins_every_joint():
    swapped = [name.replace("left", "LEFT").replace("right", "left").replace("LEFT", "right") for name in COCO.joints]
    assert [COCO.joints[i] for i in COCO.flip_order] == swapped
    np.testing.assert_array_equal(COCO.flip_order[COCO.flip_order], np.arange(17))
    assert {joint for limb in COCO.limbs for joint in limb} == set(range(17))
    np.testing.assert_array_equal(COCO.spreads, COCO.spreads[COCO.flip_order])
