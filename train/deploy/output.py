"""Predicted people as COCO keypoint results, which pycocotools' ``loadRes`` reads."""

import json
import os
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from train.deploy.people import People
from train.errors import TrainError
from train.show.drawing import draw_persons


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


JPEG_QUALITY: Final = 92


def drawings_folder(out: Path) -> Path:
    """Where the drawings of an output folder lie."""
    return out / "pictures"


def _drawn(people: People, least: float) -> NDArray[np.uint8]:
    return draw_persons(people.scene.pixels, people.boxes, people.points, people.joint_scores, least)


def save_drawing(people: People, out: Path, least: float) -> None:
    """Write a scene's drawing.

    Args:
        people: Who is there.
        out: The output folder.
        least: Joints with lower heatmaps are left out.

    Raises:
        TrainError: If OpenCV has no writer for the picture's format or size, or the file cannot be written.
    """
    target = drawings_folder(out) / people.scene.name
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if target.suffix.lower() in (".jpg", ".jpeg") else []
    drawn = _drawn(people, least)
    try:
        encoded, content = cv2.imencode(target.suffix, drawn, quality)
        if not encoded:
            raise cv2.error
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.tobytes())
    except cv2.error as error:
        raise TrainError(f"this OpenCV cannot write {target}; --no-pictures leaves the drawings out") from error
    except OSError as error:
        raise TrainError(f"cannot write {target}: {error.strerror}") from error


CODEC: Final = "mp4v"
"""MPEG-4 part 2: every build of OpenCV writes it."""


class VideoWriter:
    """Writes frames beside ``path`` and gives the file its name at the end of the ``with`` block."""

    def __init__(self, path: Path, rate: float, least: float) -> None:
        """Frames a second, and the height from which joints are drawn."""
        self.path, self.rate, self.least = path, rate, least
        self._beside = path.with_name(f".partial.{path.name}")
        self._writer: Any = None

    def __enter__(self) -> "VideoWriter":
        return self

    def write(self, people: People) -> None:
        """Append a frame."""
        if self._writer is None:
            height, width = people.scene.pixels.shape[:2]
            fourcc = cv2.VideoWriter.fourcc(*CODEC)
            self._writer = cv2.VideoWriter(str(self._beside), fourcc, self.rate, (width, height))
            if not self._writer.isOpened():
                raise TrainError(f"this OpenCV cannot write {self.path} ({CODEC}); --no-pictures leaves it out")
        self._writer.write(_drawn(people, self.least))

    def __exit__(self, kind: object, *_: object) -> None:
        if self._writer is not None:
            self._writer.release()
        if self._beside.exists():
            if kind is None:
                self._beside.replace(self.path)
            else:
                self._beside.unlink()


class Undrawn:
    """Counts them.

    Args:
        least: The height from which joints are drawn.
    """

    def __init__(self, least: float) -> None:
        self.least = least
        self.pictures, self.bare, self._highest = 0, 0, float("-inf")

    def look(self, people: People) -> None:
        """Count a picture that was drawn."""
        self.pictures += 1
        if people.joint_scores.size and people.joint_scores.max() < self.least:
            self.bare += 1
            self._highest = max(self._highest, float(people.joint_scores.max()))

    def line(self, unit: str) -> str | None:
        """What to tell about them and what to give, in one line; None if there are none."""
        if not self.bare:
            return None
        found = f"{self.bare} of {self.pictures} {unit} show no joint: the highest there is {self._highest:.2g}"
        return f"{found}, below --draw-above {self.least:g}; give --draw-above {self._highest / 2:.1g} to see more"
