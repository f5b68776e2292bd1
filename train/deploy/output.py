"""Writes predictions: COCO keypoint results, which pycocotools' ``loadRes`` reads, and drawings."""

import contextlib
import json
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from kdcli.files import replacing
from train.deploy.people import People
from train.errors import TrainError
from train.show.drawing import draw_persons

JPEG_QUALITY: Final = 92
CODEC: Final = "mp4v"
"""MPEG-4 part 2, which every build of OpenCV can write."""


# --- results ----------------------------------------------------------------------------------------------------------


def coco_results(people: People) -> list[dict[str, Any]]:
    """Convert the persons of a scene to COCO results.

    Returns:
        One entry per person. Its keypoints are x, y in image pixels and the height of the joint's heatmap.
    """
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
    """Write results as JSON; a file at the path is always complete.

    Raises:
        TrainError: If the file cannot be written.
    """
    try:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(results, allow_nan=False) + "\n")
    except OSError as error:
        raise TrainError(f"cannot write {path}: {error.strerror}") from error


# --- drawings ---------------------------------------------------------------------------------------------------------


def drawings_folder(out: Path) -> Path:
    """The folder of the drawings in an output folder."""
    return out / "pictures"


def _draw(people: People, threshold: float) -> NDArray[np.uint8]:
    return draw_persons(people.scene.pixels, people.boxes, people.points, people.joint_scores, threshold)


def save_drawing(people: People, out: Path, threshold: float) -> None:
    """Write the drawing of a scene.

    Args:
        people: The persons of the scene.
        out: The output folder.
        threshold: Joints with lower heatmaps are not drawn.

    Raises:
        TrainError: If OpenCV cannot write the image's format or size, or the file cannot be written.
    """
    target = drawings_folder(out) / people.scene.name
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if target.suffix.lower() in (".jpg", ".jpeg") else []
    drawn = _draw(people, threshold)
    try:
        encoded, content = cv2.imencode(target.suffix, drawn, quality)
        if not encoded:
            raise cv2.error
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.tobytes())
    except cv2.error as error:
        raise TrainError(f"this OpenCV cannot write {target}; give --no-pictures to skip the drawings") from error
    except OSError as error:
        raise TrainError(f"cannot write {target}: {error.strerror}") from error


class VideoWriter:
    """Writes drawings of frames as a video; the file appears at the end of the ``with`` block.

    Args:
        path: The video.
        rate: Frames per second.
        threshold: Joints with lower heatmaps are not drawn.
    """

    def __init__(self, path: Path, rate: float, threshold: float) -> None:
        self.path, self.rate, self.threshold = path, rate, threshold
        self._stack = contextlib.ExitStack()
        self._writer: Any = None

    def __enter__(self) -> "VideoWriter":
        return self

    def write(self, people: People) -> None:
        """Append a frame.

        Raises:
            TrainError: If OpenCV cannot write the video.
        """
        if self._writer is None:
            self._writer = self._open(people.scene.pixels)
        self._writer.write(_draw(people, self.threshold))

    def _open(self, frame: NDArray[np.uint8]) -> Any:
        height, width = frame.shape[:2]
        temporary = self._stack.enter_context(replacing(self.path))
        writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*CODEC), self.rate, (width, height))
        if not writer.isOpened():
            raise TrainError(f"this OpenCV cannot write {self.path} ({CODEC}); give --no-pictures to skip the video")
        self._stack.callback(writer.release)
        return writer

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


class BlankDrawings:
    """Counts drawings without any joint.

    Args:
        threshold: Joints with lower heatmaps are not drawn.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._drawings, self._blank, self._highest = 0, 0, float("-inf")

    def add(self, people: People) -> None:
        """Count the drawing of a scene."""
        self._drawings += 1
        if people.joint_scores.size and people.joint_scores.max() < self.threshold:
            self._blank += 1
            self._highest = max(self._highest, float(people.joint_scores.max()))

    def message(self, unit: str) -> str | None:
        """One line with the number of such drawings and a lower threshold; None if all drawings have joints."""
        if not self._blank:
            return None
        found = f"{self._blank} of {self._drawings} {unit} show no joint: the highest heatmap is {self._highest:.2g}"
        return f"{found}, below --draw-above {self.threshold:g}; give --draw-above {self._highest / 2:.1g} to see more"
