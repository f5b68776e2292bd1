"""Reading a gallery: persons of each image, in coordinates relative to it."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from train.errors import TrainError
from train.show.gallery import GROUND_TRUTH

DIGITS: Final = 8
"""Of the contents' digest in a name: stores of one path and other contents get other names."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """One person in one field, in relative coordinates."""

    points: list[tuple[float, float]]
    """A point a joint, in [0, 1] inside the image; NaN where unlabelled."""
    attributes: dict[str, Any]


@dataclasses.dataclass
class Picture:
    """One image with its persons."""

    path: Path
    width: int
    height: int
    figures: dict[str, list[Figure]]
    """By field: the labels' and each network's."""
    boxes: list[tuple[list[float], dict[str, Any]]]
    """Relative x, y, width, height, and attributes."""


@dataclasses.dataclass(frozen=True)
class Gallery:
    """A folder of COCO files, read."""

    name: str
    """The store's folder and name, and the beginning of its contents' digest."""
    joints: list[str]
    limbs: list[list[int]]
    """Pairs of joint numbers from 0."""
    networks: list[str]
    pictures: list[Picture]


def read_gallery(folder: Path, images: Path) -> Gallery:
    """Read the files and bring them to relative coordinates, as FiftyOne's own COCO importer does.

    Raises:
        TrainError: If the folder is no gallery or images are missing.
    """
    truth = _json(folder / f"{GROUND_TRUTH}.json")
    networks = sorted(path.stem for path in folder.glob("*.json") if path.stem != GROUND_TRUTH)
    networks.sort(key=lambda name: (name != "teacher", name.startswith("distilled")))
    pictures = {image["id"]: _picture(image, images, [GROUND_TRUTH, *networks]) for image in truth["images"]}
    _require_images([picture.path for picture in pictures.values()], images)
    said = {name: {entry["annotation_id"]: entry for entry in _json(folder / f"{name}.json")} for name in networks}
    for annotation in truth["annotations"]:
        _add_person(pictures[annotation["image_id"]], annotation, said)
    (category,) = truth["categories"]
    limbs = [[a - 1, b - 1] for a, b in category["skeleton"]]
    about = truth["info"]
    name = f"{about['description']}-{about['content_sha256'][:DIGITS]}"
    return Gallery(name, category["keypoints"], limbs, networks, list(pictures.values()))


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainError(f"{path} is no file of a gallery: {error}") from error


def _picture(image: Mapping[str, Any], folder: Path, fields: Sequence[str]) -> Picture:
    path = (folder / image["file_name"]).absolute()
    return Picture(path, image["width"], image["height"], {name: [] for name in fields}, [])


def _require_images(paths: Sequence[Path], folder: Path) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise TrainError(
            f"{len(missing)} of {len(paths)} images are not in {folder}, {missing[0].name} for one; give the folder of "
            "the original images with --images"
        )


def _add_person(
    picture: Picture, annotation: Mapping[str, Any], said: Mapping[str, Mapping[int, Mapping[str, Any]]]
) -> None:
    keypoints = annotation["keypoints"]
    about = {"annotation_id": annotation["id"], "labelled": annotation["num_keypoints"]}
    points = relative_points(keypoints, picture.width, picture.height, labelled_only=True)
    picture.figures[GROUND_TRUTH].append(Figure(points, {**about, "visibility": keypoints[2::3]}))
    box = {**about, "area": annotation["area"]}
    for name, entries in said.items():
        entry = entries.get(annotation["id"])
        if entry is not None:
            scores = {"oks": entry["oks"], "pck": entry["pck"]}
            points = relative_points(entry["keypoints"], picture.width, picture.height)
            attributes = {**about, **scores, "score": entry["score"], "confidence": entry["keypoints"][2::3]}
            picture.figures[name].append(Figure(points, attributes))
            box |= {f"{key}_{name}": value for key, value in scores.items()}
    picture.boxes.append((relative_box(annotation["bbox"], picture.width, picture.height), box))


def relative_points(
    keypoints: Sequence[float], width: int, height: int, *, labelled_only: bool = False
) -> list[tuple[float, float]]:
    """COCO's flat x, y, v in image pixels as points over the image's size; NaN where v = 0 means unlabelled."""
    triples = zip(keypoints[0::3], keypoints[1::3], keypoints[2::3], strict=True)
    hidden = (math.nan, math.nan)
    return [hidden if labelled_only and v == 0 else (x / width, y / height) for x, y, v in triples]


def relative_box(box: Sequence[float], width: int, height: int) -> list[float]:
    """x, y, width, height in image pixels over the image's size."""
    x, y, w, h = box
    return [x / width, y / height, w / width, h / height]
