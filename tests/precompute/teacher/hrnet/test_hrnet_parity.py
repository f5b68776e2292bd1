"""Our teacher reproduces the official HRNet code on real photographs, from the crop to the decoded point.

The reference values, their made-up weights and the photographs are beside the repository (../shared) and optional.
"""

import json
import zlib

import cv2
import numpy as np
import pytest
import torch

from kdlib.geometry import box_to_region, clip_boxes, invert_affine, region_affine, scale_affine, transform_points
from kdlib.heatmaps import decode_argmax, flip_average
from kdlib.resample.exact import crop_image
from kdlib.skeletons.skeleton import COCO
from precompute.teacher.joints import JointFlags
from precompute.teacher.loading import load_teacher, mirror
from tests.support.checkpoint_layouts import LAYOUTS, mmpose_0, mmpose_1, official_flat
from tests.support.shared_data import COCO_REAL, PARITY, needs_coco, needs_parity

SIZE = (192, 256)

pytestmark = needs_parity


def made_up(key, shape):
    """The reference's weight with that name (parity/README.md)."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    if key.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if key.endswith("running_var"):
        values = rng.uniform(0.8, 1.2, shape)
    elif key.endswith("running_mean"):
        values = 0.1 * rng.standard_normal(shape)
    elif len(shape) == 4:
        gain = 0.3 if key.startswith("final_layer") else 1.0
        values = gain * rng.standard_normal(shape) * np.sqrt(1 / np.prod(shape[1:]))
    elif key.endswith("weight"):
        values = rng.uniform(0.4, 0.8, shape)
    else:
        values = 0.05 * rng.standard_normal(shape)
    return torch.from_numpy(values.astype(np.float32))


@pytest.fixture(scope="module")
def weights():
    keys = json.loads((PARITY.parent / "hrnet_w32_keys.json").read_text())
    return {key: made_up(key, shape) for key, shape in keys.items()}


@pytest.fixture(scope="module")
def reference():
    return dict(np.load(PARITY))


@pytest.fixture(scope="module")
def teacher(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "pose_hrnet_w32_256x192.pth"
    official_flat(weights, path)
    return load_teacher("hrnet_w32", path, input_size=SIZE, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def maps(teacher, reference):
    return teacher(reference["crop_rgb"])


def difference(maps, expected):
    """Largest difference, relative to the largest value."""
    return np.abs(maps - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("write", LAYOUTS)
def test_maps_are_the_official_ones_from_every_layout(write, weights, reference, tmp_path):
    write(weights, tmp_path / "weights")
    teacher = load_teacher("hrnet_w32", tmp_path / "weights", input_size=SIZE, device="cpu", precision="fp32")
    assert difference(teacher(reference["crop_rgb"][:1]), reference["heatmap"][:1]) < 1e-4


def test_the_flip_average_is_the_official_one(teacher, maps, reference):
    assert difference(maps, reference["heatmap"]) < 1e-4
    average = flip_average(maps, teacher(mirror(reference["crop_rgb"])), COCO.flip_order)
    assert difference(average, reference["heatmap_flip_avg"]) < 1e-4


@pytest.mark.parametrize("write", [official_flat, mmpose_0, mmpose_1])
def test_joints_cut_from_a_whole_body_are_the_official_ones(write, weights, reference, tmp_path):
    """133 heatmaps, of which COCO's 17 have the reference's weights; the flip test swaps all 133."""
    body, rest = dict(weights), np.random.default_rng(1)
    for name in ("final_layer.weight", "final_layer.bias"):
        extra = rest.standard_normal((133 - 17, *weights[name].shape[1:])).astype(np.float32)
        body[name] = torch.cat([weights[name], torch.from_numpy(extra)])
    write(body, tmp_path / "weights")
    flags = JointFlags("coco_wholebody", ("data",))
    options = {"input_size": SIZE, "device": "cpu", "precision": "fp32", "joints": flags}
    teacher = load_teacher("hrnet_w32", tmp_path / "weights", **options)
    maps = teacher.launch(reference["crop_rgb"][:2, None], flip_test=True)()[:, 0]
    assert difference(maps, reference["heatmap_flip_avg"][:2]) < 1e-4


def in_image(points, affine):
    """Points (K, 2) in heatmap pixels, taken back to the image."""
    return transform_points(transform_points(points, scale_affine(4)), invert_affine(affine))


def test_decoded_points_are_the_official_ones(maps, reference):
    points, scores = decode_argmax(maps)
    found = np.stack([in_image(*pair) for pair in zip(points, reference["trans"], strict=True)])
    np.testing.assert_allclose(found, reference["preds"], atol=1e-3)
    np.testing.assert_allclose(scores[..., None], reference["maxvals"], rtol=1e-4)


@pytest.fixture(scope="module")
def crops_and_affines(reference):
    """Our crops of the photographs, RGB, and their affines from image to crop pixels."""
    crops, affines = [], []
    for name, box in zip(reference["file_name"], reference["bbox"], strict=True):
        image = cv2.imread(str(COCO_REAL / "images" / str(name)), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        centers, sizes = box_to_region(clip_boxes(box[None], [image.shape[1::-1]]), SIZE)
        affines.append(region_affine(centers[0], sizes[0], SIZE))
        crops.append(crop_image(image[:, :, ::-1], affines[-1], SIZE))
    return np.stack(crops), np.stack(affines)


@needs_coco
def test_crops_are_the_official_ones(crops_and_affines, reference):
    """Up to single grey levels, by which builds of OpenCV differ."""
    crops, affines = crops_and_affines
    np.testing.assert_allclose(affines, reference["trans"], rtol=1e-9, atol=1e-9)
    differences = np.abs(crops.astype(int) - reference["crop_rgb"])
    assert differences.max() <= 1
    assert (differences > 0).mean() < 1e-3


@needs_coco
def test_from_the_photograph_to_the_point_everything_is_official(crops_and_affines, teacher, reference):
    crops, affines = crops_and_affines
    maps = teacher(crops)
    assert difference(maps, reference["heatmap"]) < 1e-4
    average = flip_average(maps, teacher(mirror(crops)), COCO.flip_order)
    points, scores = decode_argmax(average)
    found = np.stack([in_image(*pair) for pair in zip(points, affines, strict=True)])
    np.testing.assert_allclose(found, reference["preds_flip"], atol=1e-3)
    np.testing.assert_allclose(scores[..., None], reference["maxvals_flip"], rtol=1e-4)
