"""The whole workflow on a few real photographs: an ONNX teacher, a store, a student, an evaluation."""

import json

import pytest

import cache
from precompute.__main__ import main as precompute
from tests.support.shared_data import COCO_REAL, ONNX_TEACHER, SQUEEZENET, needs_coco
from train.__main__ import main as train


@pytest.mark.slow
@needs_coco
@pytest.mark.skipif(not SQUEEZENET.exists(), reason="ImageNet weights (../shared/data) are missing")
def test_a_student_learns_real_people_from_a_store(tmp_path):
    for split, limit in (("train", "240"), ("val", "120")):
        command = ["--data", str(COCO_REAL), "--split", split, "--teacher", f"onnx:{ONNX_TEACHER}", "--limit", limit]
        assert precompute([*command, "--store", str(tmp_path / f"{split}.zarr")]) == 0
    teacher = cache.open_store(tmp_path / "val.zarr").manifest["teacher_metrics"]
    assert teacher["instances"] == 120
    assert teacher["ap"] > 40
    assert teacher["pck@0.1"] > 75
    run = ["distill", "--store", str(tmp_path / "train.zarr"), "--val-store", str(tmp_path / "val.zarr")]
    settings = ["--input-size", "128x96", "--epochs", "5", "--batch-size", "16", "--pretrained", str(SQUEEZENET)]
    assert train([*run, "--out", str(tmp_path / "run"), *settings]) == 0
    history = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert history[-1]["pck@0.1"] > history[0]["pck@0.1"]
