"""Augmented views: HRNet's distributions and half bodies; a view depends on seed, epoch and row alone."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from kdlib.geometry import PADDING, region_affine
from kdlib.samples.views import HALF_BODY_JOINTS, NO_AUGMENTATION, Augmentation, draw_choices, draw_views
from kdlib.skeletons.skeleton import COCO

INPUT_SIZE = (96, 128)
COUNT = 20_000


def people(count, labelled=17, seed=0):
    """Random regions and their keypoints, of which the first ``labelled`` are labelled."""
    rng = np.random.default_rng(seed)
    centers, widths = rng.uniform(50, 400, (count, 2)).astype(np.float32), rng.uniform(30, 200, count)
    sizes = np.stack([widths, widths * INPUT_SIZE[1] / INPUT_SIZE[0]], axis=1).astype(np.float32)
    keypoints = np.zeros((count, 17, 3), np.float32)
    keypoints[..., :2] = centers[:, None] + (rng.random((count, 17, 2)) - 0.5) * sizes[:, None] / PADDING
    keypoints[:, :labelled, 2] = 2
    return (centers, sizes), keypoints


def seen(views, regions):
    """Relative width, rotation in degrees and mirror of each view, computed from its affine."""
    linear = views.image_to_input[..., :2]
    mirrored = np.linalg.det(linear) < 0
    scale = np.sqrt(abs(np.linalg.det(linear)))
    rotation = np.degrees(np.arctan2(-linear[:, 1, 0], linear[:, 1, 1]))
    return INPUT_SIZE[0] / scale / regions[1][:, 0], rotation, mirrored


@pytest.fixture(scope="module")
def drawn():
    regions, keypoints = people(COUNT)
    views = draw_views(
        3, 1, np.arange(COUNT), Augmentation(half_body=0.0), regions, keypoints, COCO.is_upper, INPUT_SIZE
    )
    return views, regions


def test_sizes_are_normal_and_cut_at_one_deviation(drawn):
    size, _, _ = seen(*drawn)
    assert size.min() == pytest.approx(0.65)
    assert size.max() == pytest.approx(1.35)
    inner = size[(size > 0.6501) & (size < 1.3499)]
    assert len(inner) / COUNT == pytest.approx(0.6827, abs=0.012)
    assert stats.kstest(inner, stats.truncnorm(-1, 1, 1, 0.35).cdf).pvalue > 1e-3


def test_rotations_are_normal_cut_at_two_deviations_and_absent_in_two_of_five(drawn):
    _, rotation, _ = seen(*drawn)
    turned = rotation[abs(rotation) > 1e-9]
    assert len(turned) / COUNT == pytest.approx(0.6, abs=0.015)
    assert abs(turned).max() == pytest.approx(90)
    inner = turned[abs(turned) < 89.99]
    assert len(inner) / len(turned) == pytest.approx(0.9545, abs=0.01)
    assert stats.kstest(inner, stats.truncnorm(-2, 2, 0, 45).cdf).pvalue > 1e-3


def test_mirrors_sizes_and_rotations_have_nothing_to_do_with_each_other(drawn):
    size, rotation, mirrored = seen(*drawn)
    assert (mirrored == drawn[0].flips).all()
    assert mirrored.mean() == pytest.approx(0.5, abs=0.015)
    found = np.corrcoef(
        [size, rotation, abs(size - 1), abs(rotation), mirrored, np.roll(size, 1), np.roll(rotation, 1)]
    )
    assert abs(found - np.eye(len(found))).max() < 0.03


def test_an_affine_is_that_of_its_region(drawn):
    views, (centers, sizes) = drawn
    for i in range(50):
        size, rotation, _ = (values[i] for values in seen(views, (centers, sizes)))
        expected = region_affine(centers[i], sizes[i] * size, INPUT_SIZE, rotation, flip=bool(views.flips[i]))
        np.testing.assert_allclose(views.image_to_input[i], expected, atol=1e-9)


def test_a_view_depends_on_seed_epoch_and_row_alone():
    regions, keypoints = people(40)
    rows = np.arange(100, 140)

    def draw(seed=5, epoch=2, some=slice(None), which=rows):
        few = tuple(column[some] for column in regions)
        return draw_views(
            seed, epoch, which[some], Augmentation(), few, keypoints[some], COCO.is_upper, INPUT_SIZE
        ).image_to_input

    whole = draw()
    np.testing.assert_array_equal(draw(some=slice(None, None, -3)), whole[::-3])
    np.testing.assert_array_equal(draw(some=[7]), whole[[7]])
    own = np.array([2, -1, 2**40, 2])  # an epoch for each row
    each = [draw(epoch=int(epoch), some=[row]) for row, epoch in enumerate(own)]
    np.testing.assert_array_equal(draw(epoch=own, some=[0, 1, 2, 3]), np.concatenate(each))
    for other in (draw(seed=6), draw(epoch=3), draw(which=rows + 1), draw(seed=-5), draw(seed=2, epoch=5)):
        assert not (other == whole).all(axis=(1, 2)).any()


def test_without_augmentation_the_plain_crop_is_shown():
    (centers, sizes), keypoints = people(9)
    views = draw_views(0, 0, np.arange(9), NO_AUGMENTATION, (centers, sizes), keypoints, COCO.is_upper, INPUT_SIZE)
    assert not views.flips.any()
    for i in range(9):
        np.testing.assert_allclose(views.image_to_input[i], region_affine(centers[i], sizes[i], INPUT_SIZE), atol=1e-9)


def half_body(keypoints, region_width, upper_first):
    """Centre and width of HRNet's half-body region (``half_body_transform``); None if there is none."""
    labelled = [k for k in range(17) if keypoints[k, 2] > 0]
    if len(labelled) <= HALF_BODY_JOINTS:
        return None
    halves = [[k for k in labelled if COCO.is_upper[k] == upper] for upper in (upper_first, not upper_first)]
    chosen = halves[0] if len(halves[0]) > 2 else halves[1]
    if len(chosen) < 2:
        return None
    points = keypoints[chosen, :2].astype(np.float64)
    width, height = points.max(axis=0) - points.min(axis=0)
    width = max(width, height * INPUT_SIZE[0] / INPUT_SIZE[1]) * 1.5
    return *points.mean(axis=0), max(width, region_width / (4 * PADDING))


@pytest.mark.parametrize(("joints", "least"), [(6, 4), (14, 8), (16, 9), (133, 9)])
def test_half_bodies_of_other_skeletons_need_more_than_half_of_the_joints_or_nine(joints, least):
    upper = np.arange(joints) % 2 == 0
    always = dataclasses.replace(NO_AUGMENTATION, half_body=1.0)
    rng = np.random.default_rng(joints)
    centers, sizes = np.full((2, 2), 100.0), np.tile([[120.0, 160.0]], (2, 1))
    keypoints = np.concatenate([rng.uniform(60, 140, (2, joints, 2)), np.zeros((2, joints, 1))], axis=2)
    keypoints[0, : least - 1, 2], keypoints[1, :least, 2] = 2, 2
    plain = draw_views(0, 0, np.arange(2), NO_AUGMENTATION, (centers, sizes), keypoints, upper, INPUT_SIZE)
    found = draw_views(0, 0, np.arange(2), always, (centers, sizes), keypoints, upper, INPUT_SIZE)
    same = (found.image_to_input == plain.image_to_input).all(axis=(1, 2))
    assert same.tolist() == [True, False]


@pytest.mark.parametrize("labelled", [8, 11, 12, 13, 15, 17])
def test_half_bodies_are_those_of_hrnet(labelled):
    """Of 11 labelled joints all belong to the upper body; of 12 and 13 too few belong to the lower one."""
    (centers, sizes), keypoints = people(200, labelled)
    always = dataclasses.replace(NO_AUGMENTATION, half_body=1.0)
    views = draw_views(1, 0, np.arange(200), always, (centers, sizes), keypoints, COCO.is_upper, INPUT_SIZE)
    upper = 0
    for i in range(200):
        one, other = (half_body(keypoints[i], float(sizes[i, 0]), first) for first in (True, False))
        regions = [found or (*centers[i], sizes[i, 0]) for found in (one, other)]
        affines = [region_affine((x, y), (width, 0), INPUT_SIZE) for x, y, width in regions]
        fits = [np.allclose(views.image_to_input[i], affine, atol=1e-6) for affine in affines]
        assert any(fits)
        upper += fits[0]
    assert upper == 200 if labelled < 14 else 60 < upper < 140


def test_choices_are_equally_likely_and_know_nothing_of_the_view(drawn):
    chosen = draw_choices(3, 1, np.arange(COUNT), 5)
    assert np.bincount(chosen) / COUNT == pytest.approx(np.full(5, 0.2), abs=0.012)
    size, rotation, mirrored = seen(*drawn)
    assert abs(np.corrcoef([chosen, size, rotation, mirrored])[0, 1:]).max() < 0.03
