"""The drawn pictures: ``OUT/pictures`` holds them under the names and in the formats of their sources.

No two pictures can meet there: a.jpg and a.png are two drawings, as they are two pictures.
"""

from pathlib import Path
from typing import Final

import cv2

from train.errors import TrainError
from train.predict.draw import draw_people
from train.predict.people import People

JPEG_QUALITY: Final = 92


def drawings_folder(out: Path) -> Path:
    """Where the drawings of an output folder lie."""
    return out / "pictures"


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
    drawn = draw_people(people, least)
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
