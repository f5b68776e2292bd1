"""An ensemble computes the mean of its members' heatmaps; its digest is made of theirs."""

import hashlib
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.ndimage import map_coordinates

import cache
from kdlib.inputs.annotations import read_keypoint_annotations
from precompute.__main__ import main
from precompute.data.crops import Cropper, stack_crops
from precompute.data.views import ViewPlan, plan_geometry
from precompute.errors import PrecomputeError
from precompute.fetch.download import RemoteFile
from precompute.teacher import loading, zoo
from precompute.teacher.ensemble import ensemble, mean_maps, parse_member, teacher_maps
from precompute.teacher.hrnet import HRNET, build_hrnet
from precompute.teacher.loading import Teacher
from tests.support import tiny_precompute
from tests.support.tiny_precompute import command


def constant_teacher(name, value, input_size=(96, 64), parameters=None):
    """Every map is `value` times the first pixel of the crop."""
    width, height = input_size[0] // 4, input_size[1] // 4

    def network(crops):
        return np.full((len(crops), 17, height, width), value, np.float32) * crops[:, :1, :1, :1]

    return Teacher(
        name, input_size, (width, height), 17, hashlib.sha256(name.encode()).hexdigest(), "fp32", "cpu", network,
        parameters=parameters,
    )  # fmt: skip


def test_the_maps_are_the_mean_of_the_members_maps():
    crops = np.random.default_rng(0).integers(1, 256, (3, 64, 96, 3), np.uint8)
    members = [constant_teacher("a", 0.25), constant_teacher("b", 1.0), constant_teacher("c", -0.5)]
    maps = teacher_maps(ensemble(members), {(96, 64): crops[:, None]}, ViewPlan(1, flip_test=False))[:, 0]
    assert maps.dtype == np.float32
    expected = np.mean([member(crops).astype(np.float64) for member in members], axis=0)
    np.testing.assert_allclose(maps, expected, rtol=1e-6)


def test_the_identity_tells_members_and_order_apart():
    a, b = constant_teacher("a", 1, parameters=10), constant_teacher("b", 2, parameters=5)
    both, other = ensemble([a, b]), ensemble([b, a])
    assert both.weights_sha256 == hashlib.sha256((a.weights_sha256 + b.weights_sha256).encode()).hexdigest()
    assert both.weights_sha256 != other.weights_sha256
    assert both.members == (a, b)
    assert both.parameters == 15
    assert ensemble([a, constant_teacher("c", 1)]).parameters is None


def test_members_of_different_proportions_or_joints_are_refused_with_both():
    with pytest.raises(PrecomputeError, match=r"a and b cannot be averaged: their .*, 64x96 and 96x64 \(height"):
        ensemble([constant_teacher("a", 1), constant_teacher("b", 1, (64, 96))])
    with pytest.raises(PrecomputeError, match=r"a and b cannot be averaged: they differ in joints: 17 and 16"):
        ensemble([constant_teacher("a", 1), replace(constant_teacher("b", 1, (192, 128)), joints=16)])


def test_an_ensemble_is_not_asked_with_crops_of_one_size_alone():
    both = ensemble([constant_teacher("a", 1), constant_teacher("b", 1, (192, 128))])
    assert both.input_sizes == ((96, 64), (192, 128))
    with pytest.raises(ValueError, match="takes crops by input size"):
        both(np.zeros((1, 64, 96, 3), np.uint8))


def sampling_teacher(input_size, stride=4):
    """The heatmaps are the crop's first two channels, sampled where HRNet's convention puts heatmap pixels."""
    grid = (input_size[0] // stride, input_size[1] // stride)

    def network(crops):
        return np.ascontiguousarray(crops[:, ::stride, ::stride, :2].transpose(0, 3, 1, 2), np.float32)

    return Teacher("ramp", input_size, grid, 2, "00" * 32, "fp32", "cpu", network)


@pytest.mark.parametrize(("size", "stride"), [((96, 128), 4), ((72, 96), 4), ((96, 128), 2), ((48, 64), 2)])
def test_members_of_other_input_sizes_and_strides_show_the_same_positions(tmp_path, size, stride):
    """The grey level of the image is its coordinate, so each member's heatmaps hold the position of every pixel."""
    x, y = np.meshgrid(np.arange(256), np.arange(256))
    cv2.imwrite(str(tmp_path / "ramp.png"), np.stack([y, y, x], axis=2).astype(np.uint8))  # BGR
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [20, 10, 190, 230], "area": 9.0, "iscrowd": 0}
    labels = {"num_keypoints": 1, "keypoints": [50, 50, 2, *[0] * 48]}
    (tmp_path / "a.json").write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "ramp.png", "width": 256, "height": 256}],
                "annotations": [annotation | labels],
                "categories": [{"id": 1, "name": "person"}],
            }
        )
    )
    instances = read_keypoint_annotations(tmp_path / "a.json").ground_truth
    first, other, plan = sampling_teacher((48, 64)), sampling_teacher(size, stride), ViewPlan(4, flip_test=False)
    geometry = plan_geometry(instances, first.input_size, plan)
    both = ensemble([first, other])
    (person,) = Cropper(tmp_path, instances, geometry, both.input_sizes, frames=False).prepare([0])
    crops = stack_crops([person])
    alone = teacher_maps(first, crops, plan)
    inside = (alone.min(axis=2, keepdims=True) > 12) & (alone.max(axis=2, keepdims=True) < 243)  # black outside
    inside = np.broadcast_to(inside, alone.shape)
    assert inside.mean(axis=(0, 2, 3, 4)).min() > 0.3  # of each view
    per_pixel = np.abs(np.diff(alone, axis=-1))[inside[..., 1:] & inside[..., :-1]].max()
    assert per_pixel > 15  # grey levels per heatmap pixel: a shift of half a pixel is visible
    apart = np.abs(teacher_maps(both, crops, plan) - alone)[inside]
    assert apart.max() < 0.8  # the mean of two, each rounded to whole levels


def scipys(maps, shape):
    """Maps (..., h, w) at pixels of a grid of another shape, in float64, the last pixel's beyond them."""
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    places = [rows * maps.shape[-2] / shape[0], columns * maps.shape[-1] / shape[1]]
    planes = maps.reshape(-1, *maps.shape[-2:]).astype(np.float64)
    resampled = [map_coordinates(p, places, order=1, mode="nearest") for p in planes]
    return np.stack(resampled).reshape(*maps.shape[:-2], *shape)


@pytest.mark.parametrize(("own", "others"), [((24, 18), (36, 27)), ((36, 27), (24, 18)), ((16, 12), (32, 24))])
def test_maps_of_another_grid_are_resampled_bilinearly(own, others):
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 3, 17, *own)), rng.normal(size=(2, 3, 17, *others))
    found = mean_maps([one.astype(np.float32), other.astype(np.float32)])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, (one + scipys(other, own)) / 2, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "name", "checkpoint"),
    [
        ("hrnet_w48=b.pth", "hrnet_w48", "b.pth"),
        ("onnx:a=b.onnx", "onnx:a=b.onnx", None),
        ("hrnet_w32", "hrnet_w32", None),
    ],
)
def test_a_member_is_named_as_on_the_command_line(text, name, checkpoint):
    found = parse_member(text)
    assert (found[0], found[1] and str(found[1])) == (name, checkpoint)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of tiny data with two teachers, and the exact store of each alone: the crop and its mirror."""
    data = tiny_precompute.write(tmp_path_factory.mktemp("data"))
    torch.manual_seed(1)
    other = build_hrnet("hrnet_w16_sample")
    torch.nn.init.normal_(other.final_layer.weight, std=2e7)
    save_file(other.state_dict(), data / "other.safetensors")
    alone = {}
    for weights in ("teacher", "other"):
        words = command(data, data / f"{weights}.zarr", "--codec", "float32", "--views", "2")
        words[words.index("--checkpoint") + 1] = str(data / f"{weights}.safetensors")
        assert main(words) == 0
        alone[weights] = cache.open_store(data / f"{weights}.zarr")
    return data, alone


def aligned(store):
    """(N, 17, h, w) float64: the mean of the crop's maps and its mirror's, brought back.

    Left and right are exchanged, and column u is the mirror's column w - u: heatmap pixel u lies at input pixel 4 u.
    column 0 takes the nearest that is there.
    """
    maps = store.heatmaps(range(len(store))).astype(np.float64)
    exchanged = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
    columns = np.minimum(maps.shape[-1] - np.arange(maps.shape[-1]), maps.shape[-1] - 1)
    return (maps[:, 0] + maps[:, 1][:, exchanged][..., columns]) / 2


@pytest.mark.parametrize("layout", ["zarr", "h5"])
def test_the_store_of_an_ensemble_is_the_mean_of_its_members_stores_within_the_codec(made, tmp_path, layout):
    data, alone = made
    path = tmp_path / f"both.{layout}"
    member = f"hrnet_w16_sample={data / 'other.safetensors'}"
    assert main(command(data, path, "--flip-test", "--ensemble", member)) == 0
    both = cache.open_store(path)
    one, other = aligned(alone["teacher"]), aligned(alone["other"])
    mean, stored = (one + other) / 2, both.heatmaps(range(len(both)))[:, 0].astype(np.float64)
    assert min(one.max(), other.max()) > 0.5
    assert abs(one - other).max() > 0.5  # neither equals the mean

    floor, levels = both.manifest["spec"]["codec"]["floor"], both.manifest["spec"]["codec"]["levels"]
    peak = mean.max(axis=(2, 3), keepdims=True)
    above = peak > 2 * floor
    np.testing.assert_allclose(stored.max(axis=(2, 3), keepdims=True)[above], peak[above], rtol=1e-4)
    kept, gone = above & (mean > 1.01 * floor), mean < 0.99 * floor  # between them the last bit decides
    step = (np.maximum(peak, 2 * floor) ** 0.25 - floor**0.25) / (levels - 1)
    apart = abs(stored**0.25 - np.maximum(mean, 0) ** 0.25) / step
    assert apart[kept].max() < 1.01  # beside a peak, whose code is its own
    assert np.quantile(apart[kept], 0.99) < 0.51  # elsewhere
    assert (stored[gone] == 0).all()
    assert kept.sum() > 1000

    members = both.manifest["provenance"]["teacher"]["members"]
    weights = [store.manifest["provenance"]["teacher"]["weights_sha256"] for store in alone.values()]
    assert [m["weights_sha256"] for m in members] == weights


def test_the_store_of_members_of_two_sizes_is_the_mean_on_the_first_ones_grid(made, tmp_path, monkeypatch):
    data, _ = made
    large = zoo.Published("hrnet_w16_sample", (192, 256), RemoteFile("http://127.0.0.1:9/none.pth"), 1.0)
    monkeypatch.setattr(loading, "ARCHITECTURES", (replace(HRNET, published=(large,)),))
    other, exact = str(data / "other.safetensors"), ("--flip-test", "--codec", "float32")
    words = {
        "one": command(data, tmp_path / "one.zarr", *exact),
        "other": command(data, tmp_path / "other.zarr", *exact),
        "both": command(data, tmp_path / "both.zarr", *exact, "--ensemble", f"hrnet_w16_sample_256x192={other}"),
    }
    for flag, value in (("--input-size", "256x192"), ("--checkpoint", other)):
        words["other"][words["other"].index(flag) + 1] = value
    for line in words.values():
        assert main(line) == 0
    stores = {name: cache.open_store(tmp_path / f"{name}.zarr") for name in words}
    maps = {name: store.heatmaps(range(len(store))) for name, store in stores.items()}
    assert maps["other"].shape[-2:] == (64, 48)
    expected = (maps["one"] + scipys(maps["other"], (32, 24))) / 2
    assert np.abs(maps["one"] - expected).max() > 0.5
    np.testing.assert_allclose(maps["both"], expected, atol=1e-4 * np.abs(expected).max())
    teacher = stores["both"].manifest["provenance"]["teacher"]
    assert (teacher["input_size"], teacher["heatmap_size"]) == ([96, 128], [24, 32])
    assert [member.get("input_size") for member in teacher["members"]] == [None, [192, 256]]
    assert main([*words["both"], "--check", "5"]) == 0
