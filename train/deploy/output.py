"""Writes predictions: COCO keypoint results, which pycocotools' ``loadRes`` reads, and drawings."""

import contextlib
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from kdcli.files import replacing
from kdlib.inputs.videos import writable_rate
from train.deploy.people import People
from train.errors import TrainError
from train.show.drawing import draw_persons

JPEG_QUALITY: Final = 92
WRITABLE: Final = (".jpg", ".png", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
"""Suffixes of drawings; every build of OpenCV can write these formats."""
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


def write_json(content: Any, path: Path) -> None:
    """Write results or a category as JSON; a file at the path is always complete.

    Raises:
        TrainError: If the file cannot be written.
    """
    try:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8", newline="\n")
    except OSError as error:
        raise TrainError(f"cannot write {path}: {error.strerror}") from error


# --- drawings ---------------------------------------------------------------------------------------------------------


def drawings_folder(out: Path) -> Path:
    """The folder of the drawings in an output folder."""
    return out / "pictures"


def _draw(people: People, threshold: float) -> NDArray[np.uint8]:
    drawn = (people.scene.pixels, people.boxes, people.points, people.joint_scores)
    return draw_persons(*drawn, threshold, people.skeleton)


def drawing_names(names: Iterable[str]) -> dict[str, str]:
    """Names of the drawings of images, by the images' names.

    A drawing has the name of its image if the suffix is one of `WRITABLE`. Otherwise ``.jpg`` is appended, or ``.png``
    and so on if another image has that name.
    """
    taken, named = set(names), dict[str, str]()
    for name in sorted(taken):
        suffix = Path(name).suffix.lower()
        if suffix in WRITABLE:
            named[name] = name
            continue
        candidates = (f"{name}{'.drawing' * i}{end}" for i in itertools.count() for end in WRITABLE)
        named[name] = next(candidate for candidate in candidates if candidate not in taken)
        taken.add(named[name])
    return named


def save_drawing(people: People, out: Path, threshold: float, name: str | None = None) -> None:
    """Write the drawing of a scene.

    Args:
        people: The persons of the scene.
        out: The output folder.
        threshold: Joints with lower heatmaps are not drawn.
        name: Name of the drawing, see `drawing_names`; default: that of the scene.

    Raises:
        TrainError: If OpenCV cannot write the image's format or size, or the file cannot be written.
    """
    target = drawings_folder(out) / (name or people.scene.name)
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if target.suffix.lower() in (".jpg", ".jpeg") else []
    try:
        encoded, content = cv2.imencode(target.suffix, _draw(people, threshold), quality)
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

    The video has the size of its first frame; drawings of frames of another size are resized to it.

    Args:
        path: The video.
        rate: Frames per second; it is rounded, see `writable_rate`.
        threshold: Joints with lower heatmaps are not drawn.

    Attributes:
        failure: Why no video is written; None as long as nothing failed. The other frames are then not drawn.
    """

    def __init__(self, path: Path, rate: float, threshold: float) -> None:
        self.path, self.rate, self.threshold = path, writable_rate(rate), threshold
        self.failure: str | None = None
        self._stack = contextlib.ExitStack()
        self._writer: Any = None
        self._size = (0, 0)

    def __enter__(self) -> "VideoWriter":
        return self

    def write(self, people: People) -> None:
        """Append a frame. Where that is impossible, `failure` says why."""
        if self.failure is not None:
            return
        try:
            drawn = _draw(people, self.threshold)
            if self._writer is None:
                self._size = (drawn.shape[1], drawn.shape[0])
                self._writer = self._open()
            if drawn.shape[1::-1] != self._size:
                drawn = np.asarray(cv2.resize(drawn, self._size, interpolation=cv2.INTER_AREA), np.uint8)
            self._writer.write(drawn)
        except (cv2.error, OSError, TrainError) as error:
            self._fail(error)

    def _open(self) -> Any:
        temporary = self._stack.enter_context(replacing(self.path))
        writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*CODEC), self.rate, self._size)
        if not writer.isOpened():
            raise TrainError(f"this OpenCV cannot write {self.path} ({CODEC}); give --no-pictures to skip the video")
        self._stack.callback(writer.release)
        return writer

    def _fail(self, error: Exception) -> None:
        """Give up the video and remove what is written of it."""
        self.failure = str(error) if isinstance(error, TrainError) else f"cannot write {self.path}: {error}"
        with contextlib.suppress(type(error)):
            self._stack.__exit__(type(error), error, error.__traceback__)

    def __exit__(self, *error: Any) -> None:
        try:
            self._stack.__exit__(*error)
        except OSError as problem:
            self.failure = f"cannot write {self.path}: {problem.strerror}"


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
