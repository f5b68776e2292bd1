"""Resampling against scipy's exact interpolation and the official HRNet's crops."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from kdlib.geometry import invert_affine, region_affine, scale_affine
from kdlib.resample.exact import _resample, crop_image, pack_pixels, warp_image
from kdlib.resample.maps import bordered_shape, interior, mean_heatmaps, warp_heatmaps
from kdlib.resample.packed import warp_packed
from tests.support.shared_data import COCO_REAL, PARITY, needs_coco, needs_parity

ROOT = Path(__file__).resolve().parents[3]

AFFINE = region_affine((33.3, 21.7), (50, 66), (30, 40), 25.0, flip=True)


def exact(plane, affine, size):
    """Bilinear interpolation in float64 of a plane that is zero outside."""
    inverse = invert_affine(affine)
    rows, columns = np.mgrid[: size[1], : size[0]]
    x = inverse[0, 0] * columns + inverse[0, 1] * rows + inverse[0, 2]
    y = inverse[1, 0] * columns + inverse[1, 1] * rows + inverse[1, 2]
    padded = np.pad(plane.astype(np.float64), 1)
    return map_coordinates(padded, [y + 1, x + 1], order=1, mode="grid-constant")


@needs_parity
@needs_coco
def test_crops_equal_the_official_ones():
    official = np.load(PARITY)
    names = {
        image["file_name"]
        for image in json.loads((COCO_REAL / "annotations/person_keypoints_val.json").read_text())["images"]
    }
    for name, affine, expected in zip(official["file_name"], official["trans"], official["crop_rgb"], strict=True):
        assert name in names
        image = cv2.imread(str(COCO_REAL / "images" / name), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        difference = np.abs(crop_image(image[:, :, ::-1], affine, (192, 256)).astype(int) - expected)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 1e-3


def test_a_crop_is_exact_bilinear_interpolation_with_a_black_outside():
    image = np.random.default_rng(0).integers(0, 256, (44, 71, 3), dtype=np.uint8)
    crop = crop_image(image, AFFINE, (30, 40))
    reference = np.stack([exact(image[:, :, c], AFFINE, (30, 40)) for c in range(3)], axis=2)
    assert crop.shape == (40, 30, 3)
    assert np.abs(crop - reference).max() <= 0.51


def in_single_precision(image, affine, size):
    """The formula of a crop in numpy, with the rounding of every step: stores hold its bits."""
    inverse, (height, width) = invert_affine(affine), image.shape[:2]
    v, u = np.mgrid[: size[1], : size[0]].astype(np.float64)
    x, y = (((row[0] * u + row[1] * v) + row[2]).astype(np.float32) for row in inverse)
    x, y = np.clip(x, np.float32(-1), np.float32(width)), np.clip(y, np.float32(-1), np.float32(height))
    column, row = np.floor(x).astype(int), np.floor(y).astype(int)
    right, down = (x - np.floor(x))[..., None], (y - np.floor(y))[..., None]
    padded = np.pad(image, ((1, 2), (1, 2), (0, 0))).astype(np.float32)
    p, q = padded[row + 1, column + 1], padded[row + 1, column + 2]
    r, s = padded[row + 2, column + 1], padded[row + 2, column + 2]
    left, up = np.float32(1) - right, np.float32(1) - down
    value = (up * left * p + up * right * q) + (down * left * r + down * right * s)
    return (value + np.float32(0.5)).astype(np.uint8)


@pytest.mark.parametrize("seed", range(40))
def test_a_crop_has_the_bits_of_the_formula(seed):
    """Pixels inside an image, at its border and outside are computed by different code."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*rng.integers(1, 300, 2), 3), dtype=np.uint8)
    size = tuple(int(side) for side in rng.integers(1, 120, 2))
    center, region = rng.uniform(-50, 350, 2), rng.uniform(1, 400, 2)
    affine = region_affine(center, region, size, float(rng.choice([0, 90, rng.normal(0, 60)])), flip=bool(seed % 2))
    if seed % 5 == 0:  # whole pixels
        affine = np.array([[1.0, 0.0, rng.integers(-9, 9)], [0.0, 1.0, rng.integers(-9, 9)]])
    crop = crop_image(image, affine, size)
    np.testing.assert_array_equal(crop, in_single_precision(image, affine, size))
    np.testing.assert_array_equal(crop, crop_image(pack_pixels(image), affine, size))


@pytest.mark.parametrize("scale", [1e14, 1e17, 1e20, 1e30])
def test_no_pixel_outside_the_image_is_read_however_large_the_numbers_are(scale):
    """Where the sums of coordinates lose whole pixels, a row's range says nothing about its coordinates.

    The image is the middle of a larger array, so that a wrong index reads a value that the image does not have.
    """
    rng = np.random.default_rng(0)
    for _ in range(50):
        larger = np.full((3 * 97 * 131, 4), 255, np.uint8)
        image = larger[97 * 131 : 2 * 97 * 131].reshape(97, 131, 4)
        image[:] = rng.integers(0, 100, image.shape, dtype=np.uint8)
        angle, size = rng.uniform(0, 2 * np.pi), (64, 48)
        inverse = np.zeros((2, 3))
        inverse[:, :2] = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        inverse[:, 2] = rng.uniform(0, 97, 2) - inverse[:, :2] @ rng.integers(0, 48, 2)
        fast = np.empty((48, 64, 3), np.uint8)
        warp_packed(image, inverse, fast)
        assert fast.max() <= 100
        exact_one = np.empty_like(fast)
        _resample(image.view(np.uint32)[..., 0], inverse, exact_one)
        assert exact_one.max() <= 100
        assert crop_image(image, invert_affine(inverse), size).max() <= 100


def test_heatmaps_are_interpolated_joint_by_joint():
    maps = np.random.default_rng(1).normal(size=(44, 71, 5)).astype(np.float32)
    warped = warp_heatmaps(maps, AFFINE, (30, 40))
    reference = np.stack([exact(maps[:, :, k], AFFINE, (30, 40)) for k in range(5)], axis=2)
    np.testing.assert_allclose(warped, reference, atol=1e-4)


def packed(image, affine, size):
    """The loader's resampling of an image with three channels."""
    out = np.full((size[1], size[0], 3), 77, np.uint8)
    warp_packed(np.concatenate([image, np.full_like(image[..., :1], 255)], axis=2), invert_affine(affine), out)
    return out


@pytest.mark.parametrize("warp", [crop_image, warp_image, packed])
def test_the_identity_changes_nothing_and_far_away_is_black(warp):
    image = np.random.default_rng(2).integers(1, 256, (20, 31, 3), dtype=np.uint8)
    np.testing.assert_array_equal(warp(image, scale_affine(1.0), (31, 20)), image)
    away = scale_affine(1.0)
    away[0, 2] = 1e6
    assert not warp(image, away, (31, 20)).any()


@pytest.mark.parametrize("warp", [crop_image, warp_image, packed])
@pytest.mark.parametrize("side", [32_766, 32_767, 40_000])
def test_a_crop_of_a_huge_image_is_that_of_its_part(warp, side):
    """OpenCV refuses images from 32,767 pixels per side; rotated crops anywhere in one are those of a small image."""
    rng = np.random.default_rng(side)
    part = rng.integers(0, 256, (70, 110, 3), dtype=np.uint8)
    for tall in (False, True):
        huge = np.zeros((side, 110, 3) if tall else (70, side, 3), np.uint8)
        for start in (0, side // 3, side - (70 if tall else 110)):
            huge[:] = 0
            corner = np.array([0, start]) if tall else np.array([start, 0])
            huge[corner[1] : corner[1] + 70, corner[0] : corner[0] + 110] = part
            affine = region_affine(rng.uniform(30, 60, 2), rng.uniform(20, 90, 2), (30, 40), rng.uniform(-180, 180))
            moved = affine.copy()
            moved[:, 2] -= affine[:, :2] @ corner
            around = np.pad(part, ((90, 90), (90, 90), (0, 0)))  # black beside the part, as in the huge image
            padded = affine.copy()
            padded[:, 2] -= affine[:, :2] @ [90, 90]
            difference = np.abs(warp(huge, moved, (30, 40)).astype(int) - warp(around, padded, (30, 40)))
            assert difference.max() <= (2 if warp is packed else 1)  # positions are rounded to 1/256 pixel


@pytest.mark.parametrize("warp", [crop_image, warp_image, packed])
def test_a_crop_can_show_the_whole_of_a_huge_image(warp):
    huge = np.zeros((9, 40_000, 3), np.uint8)
    huge[:, 20_000:] = 200
    affine = np.array([[0.001, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(warp(huge, affine, (40, 9))[4, :, 1], [0] * 20 + [200] * 20)


def test_opencvs_warp_differs_from_the_exact_one_by_few_grey_levels():
    image = cv2.GaussianBlur(np.random.default_rng(3).integers(0, 256, (60, 90, 3), dtype=np.uint8), (5, 5), 0)
    difference = np.abs(warp_image(image, AFFINE, (30, 40)).astype(int) - crop_image(image, AFFINE, (30, 40)))
    assert difference.max() <= 8


@pytest.mark.parametrize("angle", [0.0, 25.0, 90.0, 133.0, 180.0])
@pytest.mark.parametrize("region", [(50, 66), (8, 11), (200, 260)])
def test_the_loaders_warp_is_within_two_grey_levels_of_exact_interpolation(angle, region):
    image = np.random.default_rng(3).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    affine = region_affine((33.3, 21.7), region, (30, 40), angle, flip=True)
    exact_planes = np.stack([exact(image[:, :, c], affine, (30, 40)) for c in range(3)], axis=2)
    difference = np.abs(packed(image, affine, (30, 40)) - exact_planes)
    assert difference.max() <= 2.5  # noise: neighbours differ by up to 255, of which 1/256 pixel is one
    assert difference.mean() < 0.6


@pytest.mark.parametrize("center", [(-30, 30), (120, 30), (45, -40), (45, 100), (5, 55), (45, 30)])
@pytest.mark.parametrize("angle", [0.0, 90.0, 33.0])
def test_what_lies_outside_the_picture_is_black_and_its_border_fades(center, angle):
    image = np.full((60, 90, 3), 200, np.uint8)
    affine = region_affine(center, (60, 80), (30, 40), angle)
    reference = exact(image[:, :, 0], affine, (30, 40))
    warped = packed(image, affine, (30, 40))
    assert np.abs(warped - reference[:, :, None]).max() <= 2
    assert not warped[reference == 0].any()
    assert (warped[reference == 200] == 200).all()


def mean_of(maps, affines, size):
    views = np.zeros((len(maps), *bordered_shape((maps.shape[3], *maps.shape[1:3]))), np.float32)
    for view, of_view in zip(views, maps, strict=True):
        interior(view)[...] = of_view
    out = np.full((size[1], size[0], maps.shape[3]), np.nan, np.float32)
    mean_heatmaps(views, np.stack([invert_affine(affine) for affine in affines]), maps.shape[2:0:-1], out)
    return out


def test_views_are_averaged_over_those_that_see_a_pixel():
    rng = np.random.default_rng(5)
    maps = rng.random((3, 44, 36, 4), np.float32)
    affines = [region_affine((18 + 9 * v, 22 - 6 * v), (36, 48), (30, 40), 20.0 * v, flip=v == 1) for v in range(3)]
    mean = mean_of(maps, affines, (30, 40))
    total = sum(np.stack([exact(maps[v, :, :, k], affines[v], (30, 40)) for k in range(4)], 2) for v in range(3))
    coverage = sum(exact(np.ones((44, 36)), affine, (30, 40)) for affine in affines)
    assert {1, 2, 3} <= set(np.round(coverage, 6).ravel().tolist())
    np.testing.assert_allclose(mean, total / np.maximum(coverage, 1)[:, :, None], atol=1e-5)


@pytest.mark.parametrize("joints", [1, 8, 17, 31])
def test_every_joint_is_interpolated_however_many_there_are(joints):
    """The previous content of the result must not matter."""
    maps = np.random.default_rng(7).random((2, 21, 34, joints), np.float32)
    mean = mean_of(maps, [AFFINE, AFFINE], (30, 40))
    total = np.stack([exact(maps[:, :, :, k].sum(axis=0), AFFINE, (30, 40)) for k in range(joints)], axis=2)
    coverage = 2 * exact(np.ones((21, 34)), AFFINE, (30, 40))
    np.testing.assert_allclose(mean, total / np.maximum(coverage, 1)[:, :, None], atol=1e-5)


RESAMPLE = """
import sys
import numpy as np
from kdlib.geometry import invert_affine, region_affine
from kdlib.resample.exact import crop_image
from kdlib.resample.maps import bordered_shape, interior, mean_heatmaps
rng = np.random.default_rng(0)
affines = [region_affine((11.3, 15.7), (20, 27), (24, 32), 25.0, flip=flip) for flip in (False, True)]
views = np.zeros((2, *bordered_shape((17, 31, 22))), np.float32)
interior(views)[...] = rng.random((2, 31, 22, 17), np.float32)
maps = np.empty((32, 24, 17), np.float32)
mean_heatmaps(views, np.stack([invert_affine(affine) for affine in affines]), (22, 31), maps)
image = crop_image(rng.integers(0, 256, (66, 50, 3), np.uint8), affines[0], (24, 32))
sys.stdout.buffer.write(maps.tobytes() + image.tobytes())
"""


def test_a_kernel_compiled_here_gives_the_bits_of_one_compiled_before(tmp_path):
    """Fresh machine code can differ from that in numba's cache, so the compiler must not choose how to round."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    cold, cached = (
        subprocess.run([sys.executable, "-c", RESAMPLE], cwd=ROOT, env=environment, capture_output=True, check=True)
        for _ in range(2)
    )
    assert list(tmp_path.rglob("*.nbc"))
    assert len(cold.stdout) == 24 * 32 * (17 * 4 + 3)
    assert cold.stdout == cached.stdout
