"""The smallest precompute run: a few images and instances, a random HRNet, and the command's arguments."""

import json

import cv2
import numpy as np
import torch
from safetensors.torch import save_file

from precompute.teacher.hrnet import build_hrnet


def write(root):
    """Write six images of odd sizes (one greyscale, one PNG) with eleven instances, and the teacher's checkpoint."""
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(6):
        width, height = int(rng.integers(120, 240)), int(rng.integers(90, 200))
        name = f"{i:03d}.png" if i == 1 else f"{i:03d}.jpg"
        pixels = cv2.resize(rng.integers(0, 256, (9, 12) if i == 2 else (9, 12, 3), dtype=np.uint8), (width, height))
        cv2.imwrite(str(root / "images" / name), pixels)
        images.append({"id": 50 - i, "file_name": name, "width": width, "height": height})
        for _ in range(2 if i else 1):
            box = [float(rng.uniform(-5, 30)), float(rng.uniform(-5, 30)), 60.0, 70.0]
            keypoints = np.zeros((17, 3), int)
            keypoints[:12] = np.column_stack([rng.integers(5, 80, (12, 2)), np.full(12, 2)])
            annotations.append(
                {
                    "id": 700 + len(annotations),
                    "image_id": 50 - i,
                    "category_id": 1,
                    "bbox": box,
                    "area": 2000.0,
                    "iscrowd": 0,
                    "num_keypoints": 12,
                    "keypoints": keypoints.ravel().tolist(),
                }
            )
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    (root / "annotations/person_keypoints_train.json").write_text(json.dumps(document))
    torch.manual_seed(0)
    model = build_hrnet("hrnet_w16_sample")
    torch.nn.init.normal_(model.final_layer.weight, std=2e7)  # features are tiny; with this, heatmaps reach about 1
    save_file(model.state_dict(), root / "teacher.safetensors")
    return root


def command(data, store, *extra):
    """Arguments of `python -m precompute` for a store of these instances."""
    return [
        *("--data", str(data), "--teacher", "hrnet_w16_sample", "--input-size", "128x96", "--precision", "fp32"),
        *("--checkpoint", str(data / "teacher.safetensors"), "--store", str(store), "--batch-size", "4", *extra),
    ]
