"""Networks of transformers as teachers, compared with transformers itself."""

import json
import re
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import cache
from kdlib.geometry import clip_boxes
from kdlib.images import normalise_images
from kdlib.inputs.annotations import read_keypoint_annotations
from kdlib.skeletons.skeleton import COCO, Skeleton
from precompute.__main__ import main
from precompute.data.crops import Cropper
from precompute.data.views import ViewPlan, plan_geometry
from precompute.fetch.download import DownloadError
from precompute.teacher import hf
from precompute.teacher.hf import choose_expert
from precompute.teacher.loading import load_teacher
from precompute.teacher.weights_file import CheckpointError
from tests.support import tiny_precompute

INPUT = (96, 128)
"""(width, height) of the crops."""
NAMES = [joint.replace("left", "L").replace("right", "R").title() for joint in COCO.joints]
"""COCO's joints in the spelling of the published ViTPose: Nose, L_Eye, ..."""
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers", reason="needs the extra [teacher-hf]")


@pytest.fixture(scope="module")
def saved(transformers, tmp_path_factory):
    """Folders of `save_pretrained` with small random networks: vitpose, plus (six experts), and sapiens."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": [128, 96]}
    named = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
    for name, experts in (("vitpose", {}), ("plus", {"num_experts": 6, "part_features": 8})):
        backbone = transformers.VitPoseBackboneConfig(**shape, **experts, out_indices=[2])
        config = transformers.VitPoseConfig(backbone_config=backbone, use_simple_decoder=bool(experts), **named)
        network = transformers.VitPoseForPoseEstimation(config)
        torch.nn.init.normal_(network.head.conv.weight, std=1.0)
        network.save_pretrained(root / name)
    transformers.VitPoseImageProcessor(size={"height": 128, "width": 96}).save_pretrained(root / "vitpose")
    if hasattr(transformers, "Sapiens2ForPoseEstimation"):  # since transformers 5
        heads = {"upsample_out_channels": [8, 8], "conv_out_channels": [8]}
        config = transformers.Sapiens2Config(
            **shape,
            intermediate_size=32,
            head_config=heads,
            flip_pairs=[list(pair) for pair in COCO.flip_pairs],
            **named,
        )
        transformers.Sapiens2ForPoseEstimation(config).save_pretrained(root / "sapiens")
    return root


def theirs(transformers, folder, kind="VitPoseForPoseEstimation"):
    return getattr(transformers, kind).from_pretrained(folder).eval()


def crops(count=3):
    return np.random.default_rng(0).integers(0, 256, (count, INPUT[1], INPUT[0], 3), dtype=np.uint8)


def flip_tested(network, pixels, **extra):
    """The flip test as transformers' users write it."""
    with torch.no_grad():
        plain = network(pixels, **extra).heatmaps
        mirrored = network(pixels.flip(-1), flip_pairs=torch.tensor(COCO.flip_pairs), **extra).heatmaps
    return ((plain + mirrored) * 0.5).numpy()


def altered(saved, tmp_path, name="vitpose", **entries):
    """A copy of a network's folder with other entries in its config.json."""
    folder = tmp_path / "altered"
    shutil.copytree(saved / name, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **entries}))
    return folder


def test_the_maps_are_those_of_transformers_with_and_without_the_flip_test(transformers, saved):
    network = theirs(transformers, saved / "vitpose")
    teacher = load_teacher(f"hf:{saved}/vitpose", device="cpu", precision="fp32")
    pixels = normalise_images(torch.from_numpy(crops()))
    with torch.no_grad():
        expected = network(pixels).heatmaps.numpy()
    assert expected.std() > 0.1
    assert (teacher.input_size, teacher.heatmap_size) == (INPUT, (24, 32))
    np.testing.assert_allclose(teacher(crops()), expected, atol=1e-5 * np.abs(expected).max())
    averaged = teacher.launch(crops()[:, None], flip_test=True)()[:, 0]
    np.testing.assert_allclose(averaged, flip_tested(network, pixels), atol=1e-5 * np.abs(expected).max())
    on_device = teacher.network.compute(torch.from_numpy(crops()[:, None]), flip_test=True).numpy()
    np.testing.assert_allclose(on_device, averaged, atol=1e-5)
    assert teacher.parameters == sum(p.numel() for p in network.parameters())
    assert teacher.multiply_adds > 10 * teacher.parameters


def test_crops_and_maps_are_those_of_the_image_processor(transformers, saved, tmp_path):
    pytest.importorskip("scipy")
    tiny_precompute.write(tmp_path)
    instances = read_keypoint_annotations(tmp_path / "annotations/person_keypoints_train.json").instances
    teacher = load_teacher(f"hf:{saved}/vitpose", device="cpu", precision="fp32")
    geometry = plan_geometry(instances, INPUT, ViewPlan(1, flip_test=True), udp_grid=teacher.heatmap_size)
    cropper = Cropper(tmp_path / "images", instances, geometry, teacher.input_sizes, frames=False)
    processor = transformers.VitPoseImageProcessor.from_pretrained(saved / "vitpose")
    network = theirs(transformers, saved / "vitpose")
    boxes = clip_boxes(instances.bbox, instances.image_size)
    inside = 0
    for row in range(len(instances)):
        image = cv2.imread(str(tmp_path / "images" / instances.file_name[row]))[:, :, ::-1].copy()
        pixels = processor(image, boxes=[boxes[row : row + 1].tolist()], return_tensors="pt")["pixel_values"]
        (prepared,) = cropper.prepare([row])
        crop = prepared.crops[teacher.input_sizes[0]]
        ours = normalise_images(torch.from_numpy(crop))
        apart = (ours - pixels).abs() * 255 * 0.224  # grey levels
        if crop.any(axis=-1).all():  # all of the region is in the image
            inside += 1
            assert apart.max() < 1.2
            with torch.no_grad():
                expected = network(pixels.float()).heatmaps.numpy()
            assert np.abs(teacher(crop) - expected).max() < 0.01 * expected.std()
        else:  # transformers cuts the image at its last pixel, where our crops fade to black within a pixel
            assert (apart > 1.2).float().mean() < 0.02
    assert inside > 1


def test_an_expert_computes_all_maps_and_is_recorded(transformers, saved):
    network = theirs(transformers, saved / "plus")
    pixels = normalise_images(torch.from_numpy(crops()))
    found = []
    for given, number in ((None, 0), ("mpii", 2), ("5", 5)):
        teacher = load_teacher(f"hf:{saved}/plus", device="cpu", precision="fp32", expert=given)
        expected = flip_tested(network, pixels, dataset_index=torch.full((3,), number))
        found.append(teacher.launch(crops()[:, None], flip_test=True)()[:, 0])
        np.testing.assert_allclose(found[-1], expected, atol=1e-5 * np.abs(expected).max())
        assert teacher.origin["expert"] == {"index": number, "name": {0: "coco", 2: "mpii", 5: "wholebody"}[number]}
    assert np.abs(found[0] - found[1]).max() > 1e-3
    with pytest.raises(ValueError, match=r"hf:plus has no expert 'crowdpose'; choose one of coco, aic, .*, 0 to 5"):
        load_teacher(f"hf:{saved}/plus", device="cpu", expert="crowdpose")
    with pytest.raises(ValueError, match="hf:vitpose has no experts; leave out --expert coco"):
        load_teacher(f"hf:{saved}/vitpose", device="cpu", expert="coco")


@pytest.mark.parametrize(
    ("given", "skeleton", "expected"),
    [
        (None, "coco", 0), (None, "coco_wholebody", 5), (None, "coco-wholebody", 5), (None, "ap10k", 3),
        (None, "AP-10K", 3), ("APT-36K", "ap10k", 4), ("1", "coco", 1), (None, "aic", 1), (None, "mpii", 2),
    ],
)  # fmt: skip
def test_the_joints_choose_the_expert_unless_one_is_given(given, skeleton, expected):
    assert choose_expert(given, 6, Skeleton(skeleton, ("a",)), "hf:x") == expected


@pytest.mark.parametrize(("given", "skeleton", "experts"), [("6", "coco", 6), (None, "glove", 6), (None, "coco", 4)])
def test_experts_that_are_not_determined_are_refused(given, skeleton, experts):
    with pytest.raises(ValueError, match="expert"):
        choose_expert(given, experts, Skeleton(skeleton, ("a",)), "hf:x")


def test_sapiens_2_is_a_teacher_too(transformers, saved):
    if not (saved / "sapiens").exists():
        pytest.skip(f"transformers {transformers.__version__} has no Sapiens2ForPoseEstimation")
    teacher = load_teacher(f"hf:{saved}/sapiens", device="cpu", precision="fp32")
    network = theirs(transformers, saved / "sapiens", "Sapiens2ForPoseEstimation")
    expected = flip_tested(network, normalise_images(torch.from_numpy(crops())))
    found = teacher.launch(crops()[:, None], flip_test=True)()[:, 0]
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_flip_pairs_of_a_repository_are_those_of_its_joints(saved, tmp_path):
    if not (saved / "sapiens").exists():
        pytest.skip("transformers has no Sapiens2ForPoseEstimation")
    folder = altered(saved, tmp_path, "sapiens", flip_pairs=[[1, 2], [3, 5]])
    with pytest.raises(
        CheckpointError, match=r"the flip_pairs of hf:\S+ are not those of its joints \(coco\): left_ear"
    ):
        load_teacher(f"hf:{folder}", device="cpu")


def test_in_bf16_the_last_convolution_computes_in_float32(saved):
    exact, maps = (
        load_teacher(f"hf:{saved}/vitpose", device="cpu", precision=precision)(crops(1))
        for precision in ("fp32", "bf16")
    )
    assert 0 < np.abs(maps - exact).mean() < 0.05 * exact.std()
    assert np.abs(maps - torch.from_numpy(maps).bfloat16().float().numpy()).max() > 0


def test_the_command_makes_a_store_that_states_the_teacher(saved, tmp_path, capsys):
    data = tiny_precompute.write(tmp_path / "data")
    common = ["--data", str(data), "--teacher", f"hf:{saved}/plus", "--precision", "fp32", "--store"]
    assert main([*common, str(tmp_path / "hf.zarr"), "--codec", "float32"]) == 0
    store = cache.open_store(tmp_path / "hf.zarr")
    stated = store.manifest["provenance"]["teacher"]
    assert (stated["name"], stated["udp"], stated["expert"]) == ("hf:plus", True, {"index": 0, "name": "coco"})
    assert "revision" not in stated
    assert stated["weights_sha256"] == hf.file_sha256(saved / "plus/model.safetensors")
    assert str(saved) not in json.dumps(store.manifest["provenance"])
    assert store.view_flip.tolist() == [0]
    assert main([*common, str(tmp_path / "hf.zarr"), "--check", "4"]) == 0
    assert "same heatmaps" in capsys.readouterr().out
    assert main([*common, str(tmp_path / "hf.zarr"), "--resume", "--codec", "float32", "--expert", "aic"]) == 1
    assert re.search(r"teacher\.expert\.index: 0 -> 1", capsys.readouterr().err)


@pytest.fixture
def hub(saved, tmp_path, monkeypatch):
    """The Hub with the repository lab/vitpose, replaced by a function that links files as its cache does."""
    import huggingface_hub

    requests = []

    def snapshot_download(repository, *, revision, allow_patterns):
        requests.append((repository, revision, tuple(allow_patterns)))
        folder = tmp_path / "hub" / repository.replace("/", "--") / "snapshots" / COMMIT
        folder.mkdir(parents=True, exist_ok=True)
        for pattern in allow_patterns:
            for file in (saved / "vitpose").glob(pattern):
                shutil.copy(file, folder)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return requests


def test_a_repository_is_downloaded_at_one_commit_which_is_recorded(saved, hub):
    teacher = load_teacher("hf:lab/vitpose@main", device="cpu", precision="fp32")
    local = load_teacher(f"hf:{saved}/vitpose", device="cpu", precision="fp32")
    assert (teacher.name, teacher.origin) == ("hf:lab/vitpose", {"revision": COMMIT})
    assert teacher.weights_sha256 == local.weights_sha256
    np.testing.assert_array_equal(teacher(crops()), local(crops()))
    assert hub == [
        ("lab/vitpose", "main", ("config.json",)),
        ("lab/vitpose", COMMIT, ("*.json", "model*.safetensors")),
    ]


def test_weights_are_not_downloaded_for_a_model_without_heatmaps(saved, hub, monkeypatch):
    monkeypatch.setattr(hf, "_read_json", lambda *_: {"architectures": ["ViTForImageClassification"]})
    with pytest.raises(CheckpointError, match="is ViTForImageClassification, not a pose network"):
        load_teacher("hf:lab/vitpose", device="cpu")
    assert len(hub) == 1


def test_a_hub_that_cannot_be_reached_gives_one_line(monkeypatch):
    pytest.importorskip("huggingface_hub", reason="needs the extra [teacher-hf]")
    from huggingface_hub import errors

    def fail(*_, **__):
        raise errors.LocalEntryNotFoundError("Cannot find an appropriate cached snapshot folder\nmore advice")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(DownloadError) as caught:
        load_teacher("hf:lab/vitpose", device="cpu")
    assert "\n" not in str(caught.value)
    assert "check the connection, or give a folder" in str(caught.value)


def test_a_missing_transformers_is_named_before_the_weights_are_downloaded(saved, monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["VitPoseForPoseEstimation"]}))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(CheckpointError, match=r"needs transformers: pip install transformers"):
        load_teacher(f"hf:{tmp_path}", device="cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:./nowhere", "there is no folder ./nowhere, and it is not the name of a model, hf:ORG/NAME"),
        ("hf:a/b/c", "there is no folder a/b/c"),
    ],
)
def test_a_name_that_is_neither_folder_nor_repository_is_refused(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        load_teacher(name, device="cpu")


def rewrite_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})


def first_is_nan(weights):
    key = next(name for name, tensor in weights.items() if tensor.is_floating_point())
    return {**weights, key: torch.full_like(weights[key], torch.nan)}


DAMAGE = {
    "a file without config.json": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "a config that is no JSON": (
        lambda folder: (folder / "config.json").write_text("{"),
        "config.json of .* cannot be read",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
    "a truncated file": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000]),
        "transformers cannot load",
    ),
    "a weight that is missing": (
        lambda folder: rewrite_weights(folder, lambda weights: dict(list(weights.items())[1:])),
        "1 weight missing, e.g. ",
    ),
    "a weight that is not the network's": (
        lambda folder: rewrite_weights(folder, lambda weights: {**weights, "extra": torch.zeros(1)}),
        "1 weight unexpected, e.g. extra",
    ),
    "a weight that is not finite": (
        lambda folder: rewrite_weights(folder, first_is_nan),
        "weights that are not finite",
    ),
    "another normalisation": (
        lambda folder: (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5]}'),
        r"has the image_mean \[0.5, 0.5, 0.5\]",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_folder_that_cannot_be_used_gives_one_line(saved, tmp_path, damage):
    folder = altered(saved, tmp_path)
    change, message = DAMAGE[damage]
    change(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_teacher(f"hf:{folder}", device="cpu")
    assert "\n" not in str(caught.value)


def test_other_joints_checkpoints_and_sizes_are_refused(saved, tmp_path):
    name = f"hf:{saved}/vitpose"
    with pytest.raises(ValueError, match=r"takes crops of 128x96 \(height x width\)"):
        load_teacher(name, device="cpu", input_size=(192, 256))
    with pytest.raises(ValueError, match="contains its weights; leave out the checkpoint"):
        load_teacher(name, Path("weights.pth"), device="cpu")
    with pytest.raises(CheckpointError):
        load_teacher(name, device="cpu", skeleton=Skeleton("glove", ("wrist", "tip")))
