"""Image, keypoints and heatmaps share one affine; the loader's order and content depend on the seed alone."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch

from kdlib.errors import BadRecordError, KdlibError
from kdlib.geometry import compose_affines, invert_affine, scale_affine, transform_points
from kdlib.heatmaps import decode_dark
from kdlib.resample.maps import warp_heatmaps
from kdlib.samples.dataset import StoreDataset
from kdlib.samples.loader import Loader
from kdlib.samples.views import Augmentation
from kdlib.skeletons.skeleton import COCO
from tests.support.stores.people import INPUT_SIZE, make_store, picture

STRONG = Augmentation(flip=0.5, rotation=40.0, rotation_probability=1.0, scale=0.3, half_body=0.2)


@pytest.fixture(scope="module", params=["zarr", "h5"])
def store(request, tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / f"people.{request.param}")


@pytest.mark.parametrize("input_size", [None, (128, 192)])
@pytest.mark.parametrize("views", ["average", "matching", "first", "replay"])
def test_picture_keypoints_and_heatmaps_agree_in_every_view(store, input_size, views):
    dataset = StoreDataset(store, input_size, STRONG, views=views, seed=3)
    width, height = input_size or INPUT_SIZE
    errors = {True: [], False: []}
    for dataset.epoch in range(6):
        for i in range(len(dataset)):
            sample = dataset[i]
            assert sample["image"].shape == (height, width, 3)
            assert sample["heatmaps"].shape == (17, height // 4, width // 4)
            points, heights = decode_dark(sample["heatmaps"].numpy()[None], kernel=5)
            seen = (sample["labelled"].numpy() > 0) & (heights[0] > 0.5)
            keypoints = sample["keypoints"].numpy()
            inner = ((keypoints > 2) & (keypoints < np.array([width, height]) / 4 - 3)).all(axis=1)
            mirrored = bool(np.linalg.det(sample["affine"][:, :2].numpy()) < 0)
            for k in np.flatnonzero(seen & inner):
                errors[mirrored].append(points[0, k] - keypoints[k])
                x, y = np.round(keypoints[k] * 4).astype(int)
                assert sample["image"][y, x].float().mean() > 150
    for of_kind in errors.values():
        assert len(of_kind) > 50
        assert np.abs(of_kind).max() < 1.0  # a maximum of an enlarged map lies on a pixel of the stored one
        assert np.abs(np.mean(of_kind, axis=0)).max() < 0.12  # a naive mirror would be 0.75 off


def test_the_plain_view_is_the_teachers_own_crop(store):
    dataset = StoreDataset(store, views="first")
    for i in range(len(dataset)):
        np.testing.assert_allclose(dataset[i]["heatmaps"].numpy(), store.heatmap(i, 0), atol=1e-5)


@pytest.mark.parametrize("number", [1e14, -9999999991808.0, 1e300, -1e39])
@pytest.mark.parametrize("place", [(0, 0), (0, 2), (1, 1)])
@pytest.mark.parametrize("of", ["frame_affine", "view_affine"])
def test_affines_that_lead_nowhere_end_before_compiled_code_follows_them(tmp_path, monkeypatch, of, place, number):
    store = make_store(tmp_path / "s.zarr")
    affines = getattr(store, of).copy()
    affines[(3, 0, *place) if affines.ndim == 4 else (3, *place)] = number
    monkeypatch.setattr(type(store), of, property(lambda self: affines))
    dataset = StoreDataset(store)
    assert dataset[2]["image"].float().mean() > 0
    with (
        np.errstate(all="ignore"),
        pytest.raises(BadRecordError, match=r"row 3 .* \(annotation 1003\): .* point far outside any"),
    ):
        dataset[3]


def test_a_store_without_a_skeleton_must_have_cocos_joints(tmp_path):
    store = make_store(tmp_path / "s.zarr")
    store.spec = dataclasses.replace(store.spec, joints=16)
    with pytest.raises(
        KdlibError, match=r"s\.zarr has 16 joints per instance and states no skeleton, which means COCO's, with 17"
    ):
        StoreDataset(store)


def test_a_replayed_view_is_what_the_teacher_saw(tmp_path):
    store = make_store(tmp_path / "s.zarr", turned=True)
    dataset = StoreDataset(store, views="replay", seed=4)
    replayed = set()
    for dataset.epoch in range(6):
        for row in range(len(dataset)):
            sample = dataset[row]
            seen = compose_affines(store.view_affine[row], store.frame_affine[row])
            (view,) = np.flatnonzero(np.abs(seen - sample["affine"].numpy()).max(axis=(1, 2)) < 1e-6)
            np.testing.assert_allclose(sample["heatmaps"].numpy(), store.heatmap(row, view), atol=1e-5)
            replayed.add((row, int(view)))
    assert len(replayed) > 0.85 * 3 * len(store)  # of three views each, a view is missed with probability (2 / 3) ** 6


@pytest.mark.parametrize(("codec", "stride"), [("root4", 4), ("float32", 4), ("float32", 2), ("root4", 8)])
def test_fused_decoding_equals_decoding_then_warping(tmp_path, codec, stride):
    store = make_store(tmp_path / "s.zarr", codec=codec)
    dataset = StoreDataset(store, (72, 112), STRONG, stride=stride, views="matching", seed=2)
    for i in range(len(dataset)):
        sample = dataset[i]
        view = int(np.linalg.det(sample["affine"][:, :2].numpy()) < 0)
        to_maps = compose_affines(
            scale_affine(1 / 4), compose_affines(store.view_affine[i, view], store.frame_affine[i])
        )
        affine = compose_affines(compose_affines(scale_affine(1 / stride), sample["affine"]), invert_affine(to_maps))
        expected = warp_heatmaps(store.heatmap(i, view).transpose(1, 2, 0), affine, (72 // stride, 112 // stride))
        np.testing.assert_allclose(sample["heatmaps"].numpy(), expected.transpose(2, 0, 1), atol=1e-6)


def test_a_doubled_stride_is_every_second_pixel_of_the_same_view(store):
    def sample(stride, i):
        return StoreDataset(store, (72, 112), STRONG, stride=stride, seed=6)[i]

    outside = 0
    for i in range(len(store)):
        for stride in (2, 4):
            fine, coarse = sample(stride, i), sample(2 * stride, i)
            assert torch.equal(fine["image"], coarse["image"])
            np.testing.assert_allclose(fine["heatmaps"][:, ::2, ::2], coarse["heatmaps"], atol=1e-5)
            np.testing.assert_allclose(fine["keypoints"] / 2, coarse["keypoints"], atol=1e-5)
        in_input = coarse["keypoints"].numpy() * 8
        order = COCO.flip_order if np.linalg.det(coarse["affine"][:, :2]) < 0 else range(17)
        known = store.instances["keypoints"][i][list(order)]
        np.testing.assert_allclose(in_input, transform_points(known[:, :2], coarse["affine"].numpy()), atol=1e-3)
        inside = ((in_input >= -4) & (in_input < [72 - 4, 112 - 4])).all(axis=1)  # half a pixel of 8 beyond the first
        np.testing.assert_array_equal(coarse["labelled"], inside & (known[:, 2] > 0))
        outside += (~inside).sum()
    assert outside > 0


def test_a_stride_that_no_student_has_is_refused(store):
    with pytest.raises(KdlibError, match="must be one of 2, 4, 8, got 16"):
        StoreDataset(store, stride=16)


@pytest.mark.parametrize("codec", ["root4", "float32"])
def test_the_average_takes_each_view_where_it_sees_and_changes_left_and_right(tmp_path, codec):
    store = make_store(tmp_path / "s.zarr", codec=codec)
    sample = StoreDataset(store, None, views="average")[1]
    mirror = compose_affines(store.view_affine[1, 0], invert_affine(store.view_affine[1, 1]))
    mirror = compose_affines(scale_affine(1 / 4), compose_affines(mirror, scale_affine(4)))
    turned = warp_heatmaps(store.heatmap(1, 1)[COCO.flip_order].transpose(1, 2, 0), mirror, (24, 32)).transpose(2, 0, 1)
    expected = (store.heatmap(1, 0) + turned) / 2
    np.testing.assert_allclose(sample["heatmaps"].numpy()[:, :, 1:-1], expected[:, :, 1:-1], atol=1e-5)


def test_unlabelled_joints_and_joints_outside_are_not_supervised(store):
    dataset = StoreDataset(store, None, STRONG, views=None, seed=1)
    for i in range(len(dataset)):
        sample = dataset[i]
        outside = (sample["keypoints"] < -0.5).any(1) | (sample["keypoints"] > torch.tensor([23.5, 31.5])).any(1)
        assert not sample["labelled"][outside].any()
        assert "heatmaps" not in sample


def test_a_store_without_frames_reads_the_image_folder(tmp_path):
    bare, whole = make_store(tmp_path / "bare.zarr", frames=False), make_store(tmp_path / "whole.zarr")
    with pytest.raises(KdlibError, match="give the folder of its images"):
        StoreDataset(bare)
    images = tmp_path / "images"
    images.mkdir()
    columns = bare.instances
    for name in set(columns["file_name"]):
        of_image = [i for i, n in enumerate(columns["file_name"]) if n == name]
        points = np.concatenate([columns["keypoints"][i, :, :2] for i in of_image])
        cv2.imwrite(str(images / name), picture(points, (200, 150), scale_affine(1.0)))
    from_folder, from_frames = StoreDataset(bare, images=images), StoreDataset(whole)
    np.testing.assert_array_equal(from_folder[2]["heatmaps"], from_frames[2]["heatmaps"])
    k = int(np.flatnonzero(from_folder[2]["labelled"])[0])
    x, y = (from_folder[2]["keypoints"][k] * 4).round().int().tolist()
    assert from_folder[2]["image"][y, x].float().mean() > 150
    (images / columns["file_name"][0]).unlink()
    with pytest.raises(KdlibError, match=r"row 0 of .*000.jpg is missing; is .*images the folder"):
        from_folder[0]


def test_a_picture_with_too_long_a_side_is_a_bad_record(store, monkeypatch):
    """Its positions do not fit the 32-bit numbers of the loader's resampling."""
    wide = cv2.imencode(".jpg", np.zeros((2, 40_000, 3), np.uint8))[1].tobytes()
    dataset = StoreDataset(store)
    monkeypatch.setattr(store, "frame", lambda row: wide)
    with pytest.raises(KdlibError, match=r"row 1 of .*: its stored frame is 40000x2, more than 32,767 pixels per side"):
        dataset[1]


def as_numbers(batches):
    return [{name: tensor.numpy().copy() for name, tensor in batch.items()} for batch in batches]


def assert_equal_batches(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_batches_do_not_depend_on_threads_and_go_on_where_they_stopped(store):
    def batches(threads, first=0):
        dataset = StoreDataset(store, None, STRONG, seed=5)
        return as_numbers(Loader(dataset, 3, shuffle=True, threads=threads).epoch(2, first))

    assert_equal_batches(batches(1), batches(4))
    assert_equal_batches(batches(4)[1:], batches(2, first=1))


def test_every_epoch_is_another_permutation_and_evaluation_keeps_order_and_rest(store):
    dataset = StoreDataset(store, None, STRONG, views=None)
    loader = Loader(dataset, 4, shuffle=True)
    orders = [np.concatenate([b["row"] for b in loader.epoch(e)]) for e in range(3)]
    assert all(sorted(order.tolist()) == list(range(len(store))) for order in orders)
    assert not np.array_equal(orders[0], orders[1])
    plain = Loader(StoreDataset(store, views=None), 3, shuffle=False)
    assert len(plain) == 3
    assert np.concatenate([b["row"] for b in plain.epoch()]).tolist() == list(range(len(store)))


def test_labelled_rows_alone_fill_epochs_of_the_usual_length_in_passes_with_new_views(store, monkeypatch):
    """Three of eight rows have labels: every pass of three samples holds each of them once, in a view of its own."""
    labelled, keypoints = [1, 4, 6], store.instances["keypoints"].copy()
    keypoints[np.setdiff1d(np.arange(len(store)), labelled), :, 2] = 0
    monkeypatch.setattr(store, "instances", {**store.instances, "keypoints": keypoints})
    dataset = StoreDataset(store, None, STRONG, views=None, seed=5, labelled_only=True)
    assert (len(dataset), dataset.rows.tolist()) == (len(store), labelled)
    indices = np.tile(np.arange(8), 6)
    rows, passes = dataset.locate(indices, np.repeat(np.arange(6), 8))
    assert [sorted(rows[passes == k].tolist()) for k in range(16)] == [labelled] * 16
    loader = Loader(dataset, 4, shuffle=True, threads=2)
    batches = [batch for epoch in range(3) for batch in loader.epoch(epoch)]
    assert len(batches) == 3 * len(loader) == 6
    drawn = np.concatenate([batch["row"] for batch in batches])
    assert np.bincount(drawn, minlength=8)[labelled].tolist() == [8, 8, 8]
    affines = np.concatenate([batch["affine"] for batch in batches])
    assert len(np.unique(affines.reshape(24, 6), axis=0)) == 24
    with pytest.raises(IndexError):
        dataset[8]
    np.testing.assert_array_equal(dataset[-1]["affine"], dataset[7]["affine"])


def test_a_store_without_labels_has_no_labelled_samples(tmp_path):
    bare = make_store(tmp_path / "bare.zarr", 4, labels="images")
    with pytest.raises(KdlibError, match=r"bare\.zarr holds no labelled instance"):
        StoreDataset(bare, labelled_only=True)
