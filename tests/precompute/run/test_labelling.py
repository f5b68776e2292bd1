"""`precompute.label`: the run as a function, compared with the command, and its errors."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import cache
import precompute
from kdlib.heatmaps import gaussian_heatmaps
from kdlib.skeletons.skeleton import COCO, Skeleton
from precompute.__main__ import main
from precompute.errors import PrecomputeError
from precompute.teacher.loading import load_teacher
from tests.support import tiny_precompute
from tests.support.tiny_precompute import command

INPUT, GRID = (96, 128), (24, 32)
"""(width, height) of the crops and of the heatmaps."""
HASH = "ab" * 32


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_precompute.write(tmp_path_factory.mktemp("data"))


def bright(crops):
    """Maps whose one peak is high where the crop is bright: cheap, and different for each crop."""
    assert crops.dtype == np.uint8
    assert crops.shape[1:] == (128, 96, 3)
    height = crops.mean(axis=(1, 2, 3)) / 255
    centre = np.tile([GRID[0] / 2, GRID[1] / 3], (17, 1))
    return height[:, None, None, None] * gaussian_heatmaps(centre, np.ones(17), GRID, 2.0)[None]


def label(folder, store, teacher=bright, **options):
    given = {"input_size": INPUT, "name": "bright", "version_hash": HASH, "data": folder, "codec": "float32"} | options
    return precompute.label(store=store, teacher=teacher, **given)


def test_the_store_is_that_of_the_command(data, tmp_path):
    assert main(command(data, tmp_path / "command.zarr", "--limit", "7")) == 0
    network = load_teacher("hrnet_w16_sample", data / "teacher.safetensors", input_size=INPUT, precision="fp32")
    written = precompute.label(
        store=tmp_path / "function.zarr",
        images=data / "images",
        annotations=data / "annotations/person_keypoints_train.json",
        teacher=lambda crops: torch.from_numpy(network(crops)).double(),
        input_size=INPUT,
        name="mine",
        version_hash=HASH,
        batch_size=4,
        limit=7,
        any_values=True,  # those of random weights
    )
    one, other = (cache.open_store(tmp_path / f"{name}.zarr").manifest for name in ("command", "function"))
    assert one["content_sha256"] == other["content_sha256"]
    assert (written.path, written.metrics) == (tmp_path / "function.zarr", one["teacher_metrics"])
    stated = other["provenance"]["teacher"]
    assert (stated["name"], stated["weights_sha256"], stated["flip_test"]) == ("mine", HASH, True)
    assert (stated["normalisation"], stated["precision"]) == (None, "unknown")
    assert other["provenance"]["software"]["device"] == "unknown"
    assert {**one["provenance"], "teacher": 0, "software": 0, "created": 0} == {
        **other["provenance"], "teacher": 0, "software": 0, "created": 0
    }  # fmt: skip


def test_an_interrupted_run_is_resumed_and_a_changed_one_refused(data, tmp_path, monkeypatch):
    monkeypatch.setattr("cache.format.spec.default_shard_instances", lambda _: 3)
    calls = []

    def stops(crops):
        calls.append(len(crops))
        if len(calls) == 7:
            raise ZeroDivisionError("of the function")
        return bright(crops)

    label(data, tmp_path / "whole.zarr", threads=1)
    with pytest.raises(ZeroDivisionError, match="of the function"):
        label(data, tmp_path / "cut.h5", stops, threads=1)
    assert not (tmp_path / "cut.h5").exists()
    with pytest.raises(cache.StoreError, match="an unfinished run"):
        label(data, tmp_path / "cut.h5")
    with pytest.raises(cache.StoreError, match="resuming would mix the two"):
        label(data, tmp_path / "cut.h5", resume=True, version_hash="cd" * 32)
    calls.clear()
    assert label(data, tmp_path / "cut.h5", lambda crops: calls.append(1) or bright(crops), resume=True).is_new
    whole, cut = cache.open_store(tmp_path / "whole.zarr"), cache.open_store(tmp_path / "cut.h5")
    assert whole.manifest["content_sha256"] == cut.manifest["content_sha256"]
    assert len(calls) < 2 + 2 * 4  # the black crop, the check of values, then each shard and its mirror image
    again = label(data, tmp_path / "cut.h5", resume=True)
    assert not again.is_new
    assert again.metrics == whole.manifest["teacher_metrics"]
    with pytest.raises(PrecomputeError, match="this command would write a different store"):
        label(data, tmp_path / "cut.h5", resume=True, views=2)
    label(data, tmp_path / "cut.h5", overwrite=True, views=2, frames=False)
    changed = cache.open_store(tmp_path / "cut.h5")
    assert (changed.spec.views, changed.has_frames, changed.view_flip.tolist()) == (2, False, [0, 1])


def test_a_function_of_more_joints_is_cut_by_name(data, tmp_path):
    """19 heatmaps: two others, then COCO's from the last to the first."""
    wide = Skeleton("wide", ("tail", "snout", *COCO.joints[::-1]), tuple((18 - a, 18 - b) for a, b in COCO.flip_pairs))

    def teacher(crops):
        maps = bright(crops)
        return np.concatenate([maps[:, :2] + 9, maps * (np.arange(17, 0, -1) / 17).reshape(17, 1, 1)], axis=1)

    with pytest.raises(PrecomputeError, match="bright computes 19 heatmaps per instance without names of joints"):
        label(data, tmp_path / "a.zarr", teacher)
    with pytest.raises(PrecomputeError, match=r"bright predicts 19 joints \(wide\), and the data have 17 of them"):
        label(data, tmp_path / "a.zarr", teacher, teacher_skeleton=wide)
    cut = {"teacher_skeleton": wide, "joints_from_teacher": ["data"]}
    store = cache.open_store(label(data, tmp_path / "a.zarr", teacher, **cut, flip_test=False).path)
    heights = store.heatmaps([0])[0, 0].max(axis=(-2, -1))
    np.testing.assert_allclose(heights / heights[16], np.arange(1, 18) / 17, rtol=1e-6)
    assert store.manifest["provenance"]["teacher"]["joints"]["taken"] == list(COCO.joints)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (lambda n: np.zeros((n, 17, 32)), r"returned \(1, 17, 32\) for crops \(1, 128, 96, 3\)"),
        (lambda n: np.zeros((n, 17, 32, 32)), "the same stride on both axes"),
        (lambda n: np.zeros((n, 17, 32, 24), int), "returned int64; heatmaps are floating-point"),
        (lambda n: np.zeros((n, 4, 32, 24)), "computes 4 heatmaps per instance"),
        (lambda n: np.zeros((n if n == 1 else n + 1, 17, 32, 24)), r"returned \(5, .*expected \(4, 17, 32, 24\)"),
        (lambda n: np.full((n, 17, 32, 24), -9.0), "the values of bright are not those of heatmaps.*any_values=True"),
        (lambda n: np.full((n, 17, 32, 24), np.nan), "annotation 7.*the heatmaps of bright cannot be stored"),
    ],
)
def test_what_is_not_a_batch_of_heatmaps_is_refused(data, tmp_path, maps, message):
    with pytest.raises(PrecomputeError, match=message):
        label(data, tmp_path / "a.zarr", lambda crops: maps(len(crops)), batch_size=4)
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version_hash": "v1"}, "version_hash must be a SHA-256 of 64 hexadecimal digits, got 'v1'"),
        ({"name": ""}, "name must be printable text"),
        ({"input_size": (96,)}, r"input_size must be \(width, height\) in pixels"),
        ({"limit": 0}, "limit must be a whole number of at least 1, got 0"),
        ({"exif": "maybe"}, "exif must be one of auto, apply, ignore or None"),
        ({"images": "photos"}, "give the data either with"),
        ({"skeleton": "glove"}, "unknown skeleton 'glove'"),
        ({"data": "nowhere"}, "has no keypoint annotations of the split 'train'"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(data, tmp_path, options, message):
    with pytest.raises(PrecomputeError, match=message):
        label(data, tmp_path / "a.zarr", **options)


def test_the_package_is_imported_without_torch():
    program = "import precompute, sys; assert 'torch' not in sys.modules; assert 'label' in precompute.__all__"
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'lable'"):
        precompute.lable  # noqa: B018
