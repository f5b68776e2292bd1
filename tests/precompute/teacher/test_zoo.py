"""Published teachers by name: downloaded once, verified by the digest in their names, and read as any checkpoint."""

import hashlib
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from kdlib.skeletons import COCO, load_skeleton
from precompute.fetch import download
from precompute.fetch.download import DownloadError, RemoteFile
from precompute.teacher import loading
from precompute.teacher.checkpoint import CheckpointError
from precompute.teacher.hrnet import HRNET, HRNETS, build_hrnet
from precompute.teacher.loading import load_teacher
from precompute.teacher.zoo import Published
from tests.support.checkpoint_layouts import mmpose_1
from tests.support.servers.web_server import serve


def test_names_sizes_and_digests_are_those_of_the_published_files():
    by_name = {published.name: published for published in HRNET.published}
    coco = ["hrnet_w32_256x192", "hrnet_w32_384x288", "hrnet_w48_256x192", "hrnet_w48_384x288"]
    assert list(by_name)[:4] == coco
    assert [name for name, published in by_name.items() if published.skeleton == "coco"] == coco
    w48 = by_name["hrnet_w48_384x288"]
    assert w48.network in HRNETS
    assert w48.input_size == (288, 384)
    assert w48.remote.url == (
        "https://download.openmmlab.com/mmpose/v1/body_2d_keypoint/topdown_heatmap/coco/"
        "td-hm_hrnet-w48_8xb32-210e_coco-384x288-c161b7de_20220915.pth"
    )
    assert w48.remote.digest == ("sha256", "c161b7de")
    whole = by_name["hrnet_w48_coco_wholebody_384x288_dark"]
    assert (whole.skeleton, whole.ap, whole.metric) == ("coco_wholebody", 66.1, "AP")
    assert whole.remote.url == (
        "https://download.openmmlab.com/mmpose/top_down/hrnet/hrnet_w48_coco_wholebody_384x288_dark-f5726563_20200918.pth"
    )
    assert len(by_name) == len(HRNET.published)
    for published in HRNET.published:
        assert (published.network in HRNETS, len(published.remote.digest[1])) == (True, 8)
        assert re.search(rf"-{published.remote.digest[1]}_20\d{{6}}\.pth$", published.remote.url)
        assert load_skeleton(published.skeleton).name == published.skeleton


def publish(monkeypatch, url, digest, skeleton="coco"):
    """Make the address the published weights of a small network."""
    published = Published("hrnet_w18_small", (64, 96), RemoteFile(url, digest=("sha256", digest)), 1.0, skeleton)
    monkeypatch.setattr(loading, "ARCHITECTURES", (replace(HRNET, published=(published,)),))


@pytest.fixture
def site(monkeypatch, tmp_path):
    """A site with the weights of a small network in mmpose's layout, with a name like mmpose's."""
    torch.manual_seed(0)
    model = build_hrnet("hrnet_w18_small")
    content = io.BytesIO()
    mmpose_1(model.state_dict(), content)
    digest = hashlib.sha256(content.getvalue()).hexdigest()[:8]
    name = f"td-hm_small_coco-96x64-{digest}_20260101.pth"
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with serve() as site:
        site.files[f"/{name}"] = content.getvalue()
        publish(monkeypatch, f"{site.url}/{name}", digest)
        site.model, site.path, site.digest = model.eval(), f"/{name}", digest
        yield site


def test_a_published_teacher_is_downloaded_once_and_is_that_network(site, tmp_path):
    crops = np.random.default_rng(0).integers(0, 256, (2, 96, 64, 3), np.uint8)
    for name, size in (("hrnet_w18_small_96x64", None), ("hrnet_w18_small", (64, 96))):
        teacher = load_teacher(name, input_size=size, device="cpu", precision="fp32")
        assert teacher.name == "hrnet_w18_small"
        assert teacher.weights_sha256 == hashlib.sha256(site.files[site.path]).hexdigest()
    from kdlib.images import normalise_images

    with torch.inference_mode():
        wanted = site.model(normalise_images(torch.from_numpy(crops))).numpy()
    np.testing.assert_allclose(teacher(crops), wanted, atol=1e-4 * np.abs(wanted).max())
    assert len(site.requests) == 1
    assert [p.name for p in (tmp_path / "torch/hub/checkpoints").iterdir()] == [site.path[1:]]


def test_published_weights_state_their_joints_downloaded_or_given(site, tmp_path, monkeypatch):
    """The 17 joints of animals are not taken for COCO's, although the file does not name them."""
    publish(monkeypatch, f"{site.url}{site.path}", site.digest, "ap10k")
    (tmp_path / "mine.pth").write_bytes(site.files[site.path])
    for checkpoint in (None, tmp_path / "mine.pth"):
        options = {"device": "cpu", "precision": "fp32"}
        with pytest.raises(CheckpointError, match="does not predict the joint 'left_ear' of the data"):
            load_teacher("hrnet_w18_small_ap10k_96x64", checkpoint, **options)
        teacher = load_teacher("hrnet_w18_small_ap10k_96x64", checkpoint, skeleton=load_skeleton("ap10k"), **options)
        assert teacher.taken.own == load_skeleton("ap10k")
    with pytest.raises(CheckpointError, match="hrnet_w18_small needs its weights"):
        load_teacher("hrnet_w18_small", input_size=(64, 96), skeleton=COCO)


def test_weights_with_another_digest_are_refused(site, tmp_path):
    site.files[site.path] = site.files[site.path][:-1] + b"x"
    with pytest.raises(DownloadError, match="its sha256 is"):
        load_teacher("hrnet_w18_small_96x64")
    assert not (tmp_path / "torch/hub/checkpoints" / site.path[1:]).exists()


def test_without_network_the_way_out_is_a_file(site, tmp_path, monkeypatch):
    publish(monkeypatch, f"http://127.0.0.1:9{site.path}", site.digest)
    with pytest.raises(
        DownloadError, match=r"^cannot download http://127.*refused\. If you have .*: --checkpoint FILE$"
    ):
        load_teacher("hrnet_w18_small_96x64")
    assert list((tmp_path / "torch/hub/checkpoints").iterdir()) == []
    (tmp_path / "mine.pth").write_bytes(site.files[site.path])
    assert load_teacher("hrnet_w18_small_96x64", tmp_path / "mine.pth").input_size == (64, 96)


def test_a_size_that_is_not_published_needs_a_file(site):
    with pytest.raises(CheckpointError, match="hrnet_w18_small needs its weights"):
        load_teacher("hrnet_w18_small", input_size=(64, 64))
    with pytest.raises(ValueError, match="has the input size in its name"):
        load_teacher("hrnet_w18_small_96x64", input_size=(64, 64))
    assert site.requests == []
