"""Reads a gallery: the persons of each image, in coordinates relative to the image's size."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from kdlib.inputs.names import locate
from train.errors import TrainError
from train.show.gallery import GROUND_TRUTH

DIGITS: Final = 8
"""Digits of the store's digest in the gallery's name: different stores at the same path get different names."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """The keypoints of one person in one field."""

    points: list[tuple[float, float]]
    """One point per joint, from (0, 0) to (1, 1) inside the image; NaN for an unlabelled joint."""
    attributes: dict[str, Any]


@dataclasses.dataclass
class GalleryImage:
    """One image with its persons."""

    path: Path
    width: int
    height: int
    figures: dict[str, list[Figure]]
    """The figures of the labels and of each network, by field name."""
    boxes: list[tuple[list[float], dict[str, Any]]]
    """x, y, width, height relative to the image's size, and attributes."""


@dataclasses.dataclass(frozen=True)
class Gallery:
    """The content of a gallery."""

    name: str
    """The folder and name of the store, and the first digits of its digest."""
    joints: list[str]
    limbs: list[list[int]]
    """Pairs of joint numbers from 0."""
    networks: list[str]
    images: list[GalleryImage]
    label: str = "person"
    """Name of the category."""


def read_gallery(folder: Path, images: Path) -> Gallery:
    """Read a gallery and convert it to relative coordinates, as FiftyOne's own COCO importer does.

    Args:
        folder: The gallery.
        images: Folder of the original images.

    Raises:
        TrainError: If the folder is not a gallery or images are missing.
    """
    truth = _json(folder / f"{GROUND_TRUTH}.json")
    networks = sorted(path.stem for path in folder.glob("*.json") if path.stem != GROUND_TRUTH)
    networks.sort(key=lambda name: (name != "teacher", name.startswith("distilled")))
    found = {image["id"]: _build_image(image, images, [GROUND_TRUTH, *networks]) for image in truth["images"]}
    _check_images([image.path for image in found.values()], images)
    predictions = {
        name: {entry["annotation_id"]: entry for entry in _json(folder / f"{name}.json")} for name in networks
    }
    for annotation in truth["annotations"]:
        _add_person(found[annotation["image_id"]], annotation, predictions)
    (category,) = truth["categories"]
    limbs = [[a - 1, b - 1] for a, b in category["skeleton"]]
    about = truth["info"]
    name = f"{about['description']}-{about['content_sha256'][:DIGITS]}"
    return Gallery(name, category["keypoints"], limbs, networks, list(found.values()), category["name"])


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainError(f"{path} is not a file of a gallery: {error}") from error


def _build_image(image: Mapping[str, Any], folder: Path, fields: Sequence[str]) -> GalleryImage:
    path = locate(folder, image["file_name"]).absolute()
    return GalleryImage(path, image["width"], image["height"], {name: [] for name in fields}, [])


def _check_images(paths: Sequence[Path], folder: Path) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise TrainError(
            f"{len(missing)} of {len(paths)} images are not in {folder}, e.g. {missing[0].name}; give the folder of "
            "the original images with --images"
        )


def _add_person(
    image: GalleryImage, annotation: Mapping[str, Any], predictions: Mapping[str, Mapping[int, Mapping[str, Any]]]
) -> None:
    keypoints = annotation["keypoints"]
    about = {"annotation_id": annotation["id"], "labelled": annotation["num_keypoints"]}
    points = relative_points(keypoints, image.width, image.height, labelled_only=True)
    image.figures[GROUND_TRUTH].append(Figure(points, {**about, "visibility": keypoints[2::3]}))
    box = {**about, "area": annotation["area"]}
    for name, entries in predictions.items():
        entry = entries.get(annotation["id"])
        if entry is not None:
            scores = {"oks": entry["oks"], "pck": entry["pck"]}
            points = relative_points(entry["keypoints"], image.width, image.height)
            attributes = {**about, **scores, "score": entry["score"], "confidence": entry["keypoints"][2::3]}
            image.figures[name].append(Figure(points, attributes))
            box |= {f"{key}_{name}": value for key, value in scores.items()}
    image.boxes.append((relative_box(annotation["bbox"], image.width, image.height), box))


def relative_points(
    keypoints: Sequence[float], width: int, height: int, *, labelled_only: bool = False
) -> list[tuple[float, float]]:
    """Convert COCO's keypoints to relative points.

    Args:
        keypoints: Flat list of x, y in image pixels and v.
        width: Of the image, in pixels.
        height: Of the image, in pixels.
        labelled_only: Joints with v = 0 become NaN.
    """
    triples = zip(keypoints[0::3], keypoints[1::3], keypoints[2::3], strict=True)
    hidden = (math.nan, math.nan)
    return [hidden if labelled_only and v == 0 else (x / width, y / height) for x, y, v in triples]


def relative_box(box: Sequence[float], width: int, height: int) -> list[float]:
    """Divide x, y, width, height in image pixels by the image's size."""
    x, y, w, h = box
    return [x / width, y / height, w / width, h / height]
