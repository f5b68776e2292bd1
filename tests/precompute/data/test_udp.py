"""Teachers that were trained with UDP: their crops, the positions of their heatmaps, and their flip test."""

import cv2
import numpy as np
import pytest

from kdlib.geometry import box_to_region, clip_boxes, compose_affines, invert_affine, scale_affine, transform_points
from kdlib.heatmaps import decode_dark, flip_average, gaussian_heatmaps
from kdlib.inputs.annotations import Instances
from kdlib.skeletons.skeleton import Skeleton
from precompute.data.crops import Cropper, UdpInput, stack_crops
from precompute.data.views import ViewPlan, plan_geometry, udp_scale
from precompute.teacher.ensemble import ensemble, teacher_maps
from precompute.teacher.loading import Teacher

INPUT, GRID = (48, 64), (12, 16)
"""(width, height) of the crops and of the heatmaps."""
PAIR = Skeleton("pair", ("left_end", "right_end"), ((0, 1),))


@pytest.fixture
def ramp(tmp_path):
    """Two boxes in an image whose red and green are the column and the row."""
    x, y = np.meshgrid(np.arange(256), np.arange(256))
    cv2.imwrite(str(tmp_path / "ramp.png"), np.stack([y, y, x], axis=2).astype(np.uint8))  # BGR
    boxes = np.array([[20.0, 10.0, 190.0, 230.0], [60.5, 90.25, 140.0, 31.0]])
    return Instances(
        annotation_id=np.array([1, 2]),
        image_id=np.array([1, 1]),
        file_name=["ramp.png", "ramp.png"],
        image_size=np.array([[256, 256]] * 2, np.int32),
        bbox=boxes,
        area=np.ones(2),
        iscrowd=np.zeros(2, np.uint8),
        keypoints=np.zeros((2, 2, 3), np.float32),
        score=np.ones(2),
    )


def sampling_teacher(*, udp):
    """Its heatmaps are the red and green of the crop at their pixels, bilinearly between the crop's pixels."""
    steps = [(side - 1) / (cells - 1) if udp else side / cells for side, cells in zip(INPUT, GRID, strict=True)]

    def network(crops):
        axes = [np.arange(cells) * step for cells, step in zip(GRID, steps, strict=True)]
        places = [grid.astype(np.float32) for grid in np.meshgrid(*axes)]
        sampled = [cv2.remap(crop.astype(np.float32), *places, cv2.INTER_LINEAR) for crop in crops]
        return np.stack(sampled)[..., :2].transpose(0, 3, 1, 2).copy()

    return Teacher("ramp", INPUT, GRID, 2, "00" * 32, "fp32", "cpu", network, skeleton=PAIR, udp=udp)


def crops_of(teacher, instances, plan, folder):
    grid = GRID if teacher.udp else None
    geometry = plan_geometry(instances, INPUT, plan, udp_grid=grid)
    cropper = Cropper(folder, instances, geometry, teacher.input_sizes, frames=False)
    return geometry, stack_crops(cropper.prepare([0, 1]))


def test_the_crop_of_view_0_is_udps(ramp):
    """The matrix is that of mmpose's get_warp_matrix: the region's edges are the first and the last pixel."""
    geometry = plan_geometry(ramp, INPUT, ViewPlan(1, flip_test=True), udp_grid=GRID)
    centers, sizes = box_to_region(clip_boxes(ramp.bbox, ramp.image_size), INPUT)
    for row, (center, size) in enumerate(zip(centers, sizes, strict=True)):
        to_crop = geometry.image_to_view(row, 0) * np.array(udp_scale(INPUT, GRID))[:, None]
        scale = (np.array(INPUT) - 1) / size
        np.testing.assert_allclose(to_crop[:, :2], np.diag(scale), rtol=1e-6)
        np.testing.assert_allclose(to_crop[:, 2], scale * (size / 2 - center), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("udp", [False, True])
def test_heatmap_pixel_u_of_a_store_lies_at_input_pixel_u_times_the_stride(ramp, tmp_path, udp):
    teacher, plan = sampling_teacher(udp=udp), ViewPlan(4, flip_test=False)
    geometry, crops = crops_of(teacher, ramp, plan, tmp_path)
    maps = teacher_maps(teacher, crops, plan)
    columns, rows = np.meshgrid(np.arange(GRID[0]), np.arange(GRID[1]))
    pixels = np.stack([columns, rows], axis=-1).reshape(-1, 2)
    for row in range(2):
        for view in range(4):
            heatmap_to_image = compose_affines(invert_affine(geometry.image_to_view(row, view)), scale_affine(4))
            places = transform_points(pixels, heatmap_to_image)
            inside = ((places > 6) & (places < 249)).all(axis=1)  # black outside the image
            assert inside.mean() > 0.5
            found = maps[row, view].reshape(2, -1).T
            assert np.abs(found - places)[inside].max() < 1.1  # crops have whole grey levels


def test_an_ensemble_may_mix_teachers_with_and_without_udp(ramp, tmp_path):
    plan = ViewPlan(1, flip_test=False)
    for first in (True, False):
        both = ensemble([sampling_teacher(udp=first), sampling_teacher(udp=not first)])
        assert {type(kind) for kind in both.input_sizes} == {tuple, UdpInput}
        _, crops = crops_of(both, ramp, plan, tmp_path)
        alone = teacher_maps(both.members[0], crops, plan)
        inside = np.broadcast_to(((alone > 12) & (alone < 243)).all(axis=2, keepdims=True), alone.shape)
        assert np.abs(np.diff(alone, axis=-1))[inside[..., 1:] & inside[..., :-1]].max() > 3  # grey levels per pixel
        assert np.abs(teacher_maps(both, crops, plan) - alone)[inside].max() < 0.8


@pytest.mark.parametrize("udp", [False, True])
def test_the_flip_test_puts_both_heatmaps_at_one_place(udp):
    """The place of a point in the crop and in its mirror image, by the definition of each kind of heatmap."""
    point = np.array([[17.25, 30.5], [33.0, 12.75]])
    step = [(side - 1) / (cells - 1) if udp else side / cells for side, cells in zip(INPUT, GRID, strict=True)]
    mirrored_point = np.array([INPUT[0] - 1, 0]) + point * [-1, 1]
    plain, mirrored = (
        gaussian_heatmaps(places / step, np.ones(2), GRID, 1.5)[None] for places in (point, mirrored_point[::-1])
    )
    average = flip_average(plain, mirrored, PAIR.flip_order, shift=not udp)
    apart = 1e-6 if udp else 0.25  # without UDP, mirrored pixels fall between pixels
    found = decode_dark(average[0])[0] - point / step
    assert np.abs(found[:, 0]).max() <= apart / 2 + 0.02
    assert (average.max(axis=(-2, -1)) > (0.999 if udp else 0.9) * plain.max(axis=(-2, -1))).all()
