"""Predicted people as COCO keypoint results, which pycocotools' ``loadRes`` reads."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from train.errors import TrainError
from train.predict.people import People


def coco_results(people: People) -> list[dict[str, Any]]:
    """One entry a person: keypoints are x, y in image pixels and the height of the joint's heatmap."""
    rows = np.concatenate([people.points, people.joint_scores[..., None]], axis=2)
    return [
        {
            "image_id": people.scene.image_id,
            "file_name": people.scene.name,
            "category_id": 1,
            "keypoints": [round(float(value), 3) for value in rows[i].reshape(-1)],
            "score": round(float(people.scores[i]), 6),
            "bbox": [round(float(value), 3) for value in people.boxes[i]],
        }
        for i in range(len(rows))
    ]


def write_results(results: list[dict[str, Any]], path: Path) -> None:
    """Write the list so that the path never holds half of it.

    Raises:
        TrainError: If it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(json.dumps(results, allow_nan=False) + "\n")
        beside.replace(path)
    except OSError as error:
        raise TrainError(f"cannot write {path}: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)
