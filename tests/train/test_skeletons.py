"""From data to a report with other joints than COCO's, for the kinds of data sets that people have."""

import contextlib
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
import pycocotools.coco
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from pycocotools.cocoeval import COCOeval
from safetensors.torch import save_file

import cache
from kdlib.metrics.coco import keypoint_ap
from kdlib.samples.dataset import store_skeleton
from kdlib.skeletons.reading import built_in_names, load_skeleton
from kdlib.skeletons.skeleton import DEFAULT_SIGMA, Skeleton
from kdlib.students import load_student
from precompute.__main__ import main as precompute
from precompute.sample.dataset import SMALL, write_sample
from precompute.sample.spec import SampleSpec
from precompute.teacher.hrnet import build_hrnet
from tests.support.tiny_training import FAST
from train.__main__ import main as train

GLOVE = Skeleton("glove", ("left_tip", "right_tip", "thumb", "wrist"), ((0, 1),))


def write_teacher(path, joints):
    """Random heatmaps in [0, 1] of 64x48 crops, H x W."""
    kernel = np.random.default_rng(1).normal(0, 0.1, (joints, 3, 4, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["crop", "kernel"], ["maps"], strides=[4, 4]),
        helper.make_node("Sigmoid", ["maps"], ["heatmaps"]),
    ]
    crop = helper.make_tensor_value_info("crop", TensorProto.FLOAT, ["batch", 3, 64, 48])
    maps = helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, ["batch", joints, 16, 12])
    graph = helper.make_graph(nodes, "toy", [crop], [maps], [numpy_helper.from_array(kernel, "kernel")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def write_gloves(root):
    """A YOLO-pose export of images with one or two gloves each."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 4)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            pixels = cv2.resize(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8), (160 + 8 * number, 120))
            cv2.imwrite(str(root / f"images/{split}/{number}.jpg"), pixels)
            lines = []
            for x in (0.25, 0.75)[: 1 + number % 2]:
                joints = rng.uniform((x - 0.2, 0.3), (x + 0.2, 0.8), (4, 2))
                lines.append(f"0 {x} 0.55 0.42 0.6 " + " ".join(f"{u:.4f} {v:.4f} 2" for u, v in joints))
            (root / f"labels/{split}/{number}.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text(
        "train: images/train\nval: images/val\nkpt_shape: [4, 3]\nflip_idx: [1, 0, 2, 3]\nnames: [glove]\n"
        f"kpt_names: [{', '.join(GLOVE.joints)}]\n"
    )


SIDED = tuple(f"{side}_{part}" for part in "abcdefgh" for side in ("left", "right"))
ANIMAL = Skeleton("animal", (*SIDED, "tail"), tuple((left, left + 1) for left in range(0, 16, 2)))
"""17 joints that are not COCO's."""


def write_annotated(root, skeleton):
    """Images with one or two instances each, and their annotations in COCO's format, for both splits."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    category = {"id": 5, "name": skeleton.name, "keypoints": list(skeleton.joints), "skeleton": [[1, 2]]}
    for split, first, count in (("train", 0, 5), ("val", 5, 4)):
        images, annotations = [], []
        for number in range(first, first + count):
            pixels = cv2.resize(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8), (160, 120))
            cv2.imwrite(str(root / f"images/{number}.png"), pixels)
            images.append({"id": number, "file_name": f"{number}.png", "width": 160, "height": 120})
            for x in (4, 84)[: 1 + number % 2]:
                joints = rng.uniform((x, 20), (x + 70, 110), (len(skeleton), 2)).round(1)
                labels = np.column_stack([joints, np.full(len(skeleton), 2)]).ravel().tolist()
                box = {"bbox": [x, 15, 72, 100], "area": 7200, "iscrowd": 0, "num_keypoints": len(skeleton)}
                known = {"id": 10 * number + x, "image_id": number, "category_id": 5, "keypoints": labels}
                annotations.append(known | box)
        content = {"images": images, "annotations": annotations, "categories": [category]}
        (root / f"{split}.json").write_text(json.dumps(content))


def write_hrnet(path, joints):
    """The checkpoint of a random HRNet."""
    torch.manual_seed(0)
    save_file(build_hrnet("hrnet_w16_sample", joints).state_dict(), path)


@dataclass
class Run:
    """A whole run in a folder."""

    folder: Path
    skeleton: Skeleton
    images: Path
    """The images of the val split, and maybe others."""
    annotations: Path
    """The annotations of the val split in COCO's format."""


@pytest.fixture(scope="module", params=["yolo-pose", "sample", "animal", "mpii", "coco_wholebody"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    if request.param == "yolo-pose":
        write_gloves(folder / "data")
        sources = {split: ["--data", folder / "data/data.yaml", "--split", split] for split in ("train", "val")}
        images, annotations, skeleton = folder / "data/images/val", folder / "val.h5.annotations.json", GLOVE
    elif request.param != "sample":
        skeleton = ANIMAL if request.param == "animal" else load_skeleton(request.param)
        write_annotated(folder / "data", skeleton)
        images, annotations = folder / "data/images", folder / "data/val.json"
        sources = {s: ["--images", images, "--annotations", folder / f"data/{s}.json"] for s in ("train", "val")}
    else:
        write_sample(folder / "data", SampleSpec(seed=3, train=4, val=3))
        images, skeleton = folder / "data/images", SMALL
        paths = {split: folder / f"data/annotations/small_{split}.json" for split in ("train", "val")}
        sources = {split: ["--images", images, "--annotations", path] for split, path in paths.items()}
        annotations = paths["val"]
    flags = {"animal": ["--teacher-skeleton", "data"]}.get(request.param, [])  # 17 joints, and not COCO's
    if request.param == "mpii":
        write_hrnet(folder / "teacher.safetensors", len(skeleton))
        flags = ["--checkpoint", folder / "teacher.safetensors", "--input-size", "64x64", "--teacher-skeleton", "mpii"]
        name = "hrnet_w16_sample"
    else:
        write_teacher(folder / "teacher.onnx", len(skeleton))
        name = f"onnx:{folder / 'teacher.onnx'}"
    for split, store in (("train", "train.zarr"), ("val", "val.h5")):
        teacher = ["--teacher", name, *flags, "--store", folder / store]
        assert precompute([str(word) for word in (*sources[split], *teacher)]) == 0
    stores = ["--store", folder / "train.zarr", "--val-store", folder / "val.h5"]
    fast = [word for flag in (FAST | {"--epochs": "1"}).items() for word in flag]
    command(["distill", *stores, "--out", folder / "student", *fast])
    return Run(folder, skeleton, images, annotations)


def command(words):
    assert train([str(word) for word in words]) == 0


def test_store_checkpoint_and_onnx_file_state_the_joints(run):
    store = cache.open_store(run.folder / "val.h5")
    stated = store_skeleton(store)
    assert stated.joints == run.skeleton.joints
    np.testing.assert_array_equal(stated.flip_order, run.skeleton.flip_order)
    published = run.skeleton.sigmas if run.skeleton.name in built_in_names() else (DEFAULT_SIGMA,) * len(stated)
    assert stated.sigmas == published
    assert store.spec.joints == len(run.skeleton)
    command(["export", "--student", run.folder / "student/best.pt", "--out", run.folder / "student.onnx"])
    for name in ("student/best.pt", "student.onnx"):
        assert load_student(run.folder / name, device="cpu").skeleton == stated


def test_predictions_and_report_are_written(run):
    student = run.folder / "student/best.pt"
    command(["evaluate", "--store", run.folder / "val.h5", "--student", student, "--out", run.folder / "metrics.json"])
    assert 0 <= json.loads((run.folder / "metrics.json").read_text())["ap"] <= 100
    boxes = ["--boxes", run.annotations, "--out", run.folder / "found"]
    command(["predict", run.images, *boxes, "--student", student])
    found = json.loads((run.folder / "found/keypoints.json").read_text())
    assert found
    assert {len(row["keypoints"]) for row in found} == {3 * len(run.skeleton)}
    report = ["--runs", run.folder / "student", "--out", run.folder / "report.html"]
    command(["report", "--store", run.folder / "val.h5", *report])
    page = (run.folder / "report.html").read_text()
    assert run.skeleton.joints[-1].split("_")[-1] in page


def test_ap_is_that_of_pycocotools_on_the_annotations_in_cocos_format(run):
    """Predictions are the labels, moved by up to 9 pixels; the store and the file agree on boxes, areas and ids."""
    store = cache.open_store(run.folder / "val.h5")
    columns, skeleton = store.instances, store_skeleton(store)
    points = columns["keypoints"][:, :, :2] + 3.0 * (np.arange(len(store)) % 4)[:, None, None]
    ours = keypoint_ap(store.ground_truth, columns, points, np.ones(points.shape[:2]), skeleton=skeleton)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = pycocotools.coco.COCO(run.annotations)
        results = [
            {
                "image_id": int(columns["image_id"][row]),
                "category_id": truth.anns[int(columns["annotation_id"][row])]["category_id"],
                "keypoints": np.pad(points[row], ((0, 0), (0, 1)), constant_values=1).ravel().tolist(),
                "score": 1.0,
            }
            for row in range(len(store))
        ]
        theirs = COCOeval(truth, truth.loadRes(results), "keypoints")
        theirs.params.kpt_oks_sigmas = skeleton.spreads
        theirs.params.imgIds = np.unique(store.ground_truth["image_id"]).tolist()
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
    assert ours["ap"] == pytest.approx(100 * theirs.stats[0], abs=1e-6)
    assert 0 < ours["ap"] < 100


def test_the_file_beside_the_store_is_the_one_that_the_manifest_names(run):
    dataset = cache.open_store(run.folder / "val.h5").manifest["provenance"]["dataset"]["annotations"]
    assert dataset["sha256"] == hashlib.sha256(run.annotations.read_bytes()).hexdigest()
    assert ("converted_from" in dataset) == (run.annotations.suffixes[-2:] == [".annotations", ".json"])
