"""Reads a data set of YOLO-pose: `data.yaml`, the images that it names, and one label file per image.

    path: .                          # where train and val are searched; without it, the folder of data.yaml
    train: images/train              # a folder, a text file that lists images, or a list of both
    val: images/val
    kpt_shape: [4, 3]                # joints; 2 (x, y) or 3 (x, y, visibility) numbers for each
    flip_idx: [1, 0, 2, 3]           # the joints of a mirrored image
    names: {0: glove}                # the classes
    kpt_names: {0: [left_tip, right_tip, thumb, wrist]}     # optional; one list for all classes is also read

The labels of ``images/train/a.jpg`` are in ``labels/train/a.txt``: one line per instance with the number of its class,
the centre and the size of its box, and its joints, all as fractions of the image's width and height.

The result is a document in COCO's format, which the other modules read like an annotation file. The format is that of
Ultralytics (docs.ultralytics.com/datasets/pose).
"""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import yaml
from PIL import Image, UnidentifiedImageError

from kdlib.errors import SkeletonError
from kdlib.images import UnreadableImageError, decode_image
from kdlib.inputs.categories import plain_name
from kdlib.inputs.folders import find_images
from kdlib.inputs.ids import shorten
from kdlib.inputs.notices import Notices
from kdlib.inputs.orientation import SCAN_THREADS, read_orientation
from kdlib.skeletons.reading import arrange, flip_pairs_by_name, numbered
from kdlib.skeletons.skeleton import Pairs, Skeleton
from precompute.errors import PrecomputeError

FARTHEST: Final = 2.0
"""A label whose numbers are larger than this, in images, is not in fractions of the image."""
BOX: Final = 5
"""Numbers of a line before its joints: class, centre x, centre y, width, height."""


@dataclasses.dataclass(frozen=True)
class Converted:
    """One split of a data set as an annotation file in COCO's format."""

    images: Path
    """The folder that the file names in the document are relative to."""
    document: dict[str, Any]
    skeleton: Skeleton
    """The joints of the classes that are used."""
    notices: Notices
    """What was changed or left out."""

    @property
    def content(self) -> bytes:
        """The annotation file: JSON in UTF-8, the same bytes for the same labels."""
        return json.dumps(self.document, ensure_ascii=False, separators=(",", ":")).encode()

    @property
    def sha256(self) -> str:
        """The SHA-256 of `content`, in hexadecimal digits."""
        return hashlib.sha256(self.content).hexdigest()


def convert(path: Path, split: str, wanted: Skeleton | None = None, category: str | None = None) -> Converted:
    """Read one split of a YOLO-pose data set.

    Args:
        path: ``data.yaml``.
        split: The entry that names the images: ``train``, ``val`` or ``test``.
        wanted: The joints that the user gives. They name joints that the file only numbers, in its order, and replace
            ``flip_idx``. None takes the joints of the file.
        category: Name of the class that is used; None uses all, which must then have the same joints.

    Raises:
        PrecomputeError: If a file is missing or cannot be used. The message names the file, and the line or the entry.
    """
    entries, notices = _read_yaml(path), Notices()
    dataset = _Dataset(path, entries, wanted, category, notices)
    files = _find_files(path, entries, split, notices)
    try:
        root = Path(os.path.commonpath([file.parent for file in files]))
    except ValueError as error:  # Windows
        raise PrecomputeError(f"{path}: the images of {split} must be on one drive") from error
    names = {file.relative_to(root).as_posix(): file for file in files}
    ordered = sorted(names, key=lambda name: name.split("/"))
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    labelled = 0
    for name, (width, height) in zip(ordered, _sizes([names[name] for name in ordered]), strict=True):
        images.append({"id": len(images) + 1, "file_name": name, "width": width, "height": height})
        labels = label_file(names[name])
        if not labels.is_file():
            notices.add("images without a label file, taken as images without instances", name)
            continue
        labelled += 1
        for row in dataset.read_labels(labels):
            entry = dataset.annotation(row, width, height)
            annotations.append({"id": len(annotations) + 1, "image_id": len(images), **entry})
    if not labelled:
        raise PrecomputeError(
            f"{path}: none of the {len(files)} images of {split} has a label file; that of {files[0]} would be "
            f"{label_file(files[0])}"
        )
    notices.add_all("areas computed from the box", [f"annotation {a['id']}" for a in annotations])
    document = {"images": images, "annotations": annotations, "categories": dataset.categories()}
    return Converted(root, document, dataset.skeleton, notices)


def label_file(image: Path) -> Path:
    """The label file of an image: the last folder ``images`` of its path becomes ``labels``; else beside the image."""
    parts = list(image.with_suffix(".txt").parts)
    folders = [place for place, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
    return Path(*parts)


# --- data.yaml --------------------------------------------------------------------------------------------------------


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise PrecomputeError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PrecomputeError(f"{path} is not a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(entries, dict):
        raise PrecomputeError(f"{path} is not the data.yaml of a data set: it holds {shorten(entries)}")
    if "kpt_shape" not in entries:
        raise PrecomputeError(
            f"{path} has no kpt_shape: it describes boxes or masks, not poses; give the data.yaml of a YOLO-pose data set"
        )
    return entries


class _Dataset:
    """The classes and joints of a data set, and its label files.

    Args:
        path: ``data.yaml``, for messages.
        entries: Its entries.
        wanted: The joints that the user gives, or None.
        category: Name of the class that is used; None uses all.
        notices: Receives what was assumed.
    """

    def __init__(
        self,
        path: Path,
        entries: Mapping[str, Any],
        wanted: Skeleton | None,
        category: str | None,
        notices: Notices,
    ) -> None:
        self._path, self._notices = path, notices
        self._count, self._numbers = _shape(entries["kpt_shape"], path)
        self._classes = _classes(entries, path)
        named = _joint_names(entries, self._classes, self._count, path)
        if not named:
            what = "data sets whose joints have no names (kpt_names); --skeleton FILE names them"
            notices.add(what, path.name)
        if wanted is not None and len(wanted) != self._count:
            raise PrecomputeError(
                f"{path} has {self._count} joints (kpt_shape), and the skeleton {wanted.name} has {len(wanted)}"
            )
        default = next(iter(named.values())) if len(set(named.values())) == 1 else None
        default = default or (wanted or numbered(self._count)).joints
        self._joints = {number: named.get(number, default) for number in self._classes}
        used = [n for n, name in self._classes.items() if category is None or plain_name(name) == plain_name(category)]
        self.skeleton = wanted or self._skeleton(used or list(self._classes), entries.get("flip_idx"), bool(named))

    def categories(self) -> list[dict[str, Any]]:
        """The classes as COCO's categories."""
        found = []
        for number, name in self._classes.items():
            joints = self._joints[number]
            place = {joint: position for position, joint in enumerate(joints, 1)}
            limbs = [[place.get(self.skeleton.joints[end]) for end in limb] for limb in self.skeleton.limbs]
            drawn = [limb for limb in limbs if None not in limb]
            found.append({"id": number, "name": name, "keypoints": list(joints), "skeleton": drawn})
        return found

    def _skeleton(self, used: Sequence[int], flip: Any, is_named: bool) -> Skeleton:
        """The joints of some classes, with the flip pairs of the file."""
        name, joints = self._classes[used[0]], self._joints[used[0]]
        other = next((number for number in used if self._joints[number] != joints), None)
        if other is not None:
            raise PrecomputeError(
                f"{self._path}: the classes {name} and {self._classes[other]} have different joints (kpt_names); choose "
                "one by its name (--category NAME)"
            )
        try:
            found = arrange(joints, name=name).skeleton
        except SkeletonError as error:
            raise PrecomputeError(f"{self._path}: kpt_names: {error}") from error
        pairs = _flip_pairs(flip, self._count, self._path)
        if pairs is None:
            if not is_named and self._count > 1:
                self._notices.warn(
                    f"{self._path} has no flip_idx and no names of joints: no joints swap in mirrored images; if some "
                    "mirror each other, add flip_idx, or give --skeleton FILE"
                )
            return found
        missing = next((pair for pair in flip_pairs_by_name(joints) if tuple(sorted(pair)) not in pairs), None)
        if missing is not None:
            one, two = (joints[joint] for joint in missing)
            raise PrecomputeError(
                f"{self._path}: flip_idx does not swap {one} and {two}, whose names are left and right; correct "
                "flip_idx, remove it, or give the joints with --skeleton FILE"
            )
        return found if found.joints != joints else dataclasses.replace(found, flip_pairs=_like(found, pairs))

    # --- labels -------------------------------------------------------------------------------------------------------

    def read_labels(self, path: Path) -> list[tuple[float, ...]]:
        """The lines of a label file as numbers; lines that repeat an earlier one are left out."""
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except OSError as error:
            raise PrecomputeError(f"cannot read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise PrecomputeError(f"{path} is not a text file: {error}") from error
        rows = [self._parse(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
        unique = list(dict.fromkeys(rows))
        self._notices.add_all("label lines listed twice, used once", [path.name] * (len(rows) - len(unique)))
        return unique

    def _parse(self, line: str, where: str) -> tuple[float, ...]:
        try:
            row = tuple(float(word) for word in line.split())
        except ValueError:
            raise PrecomputeError(f"{where} is not a list of numbers: {shorten(line)}") from None
        wanted = BOX + self._count * self._numbers
        if len(row) not in (BOX, wanted):
            raise PrecomputeError(
                f"{where} has {len(row)} numbers instead of {wanted}: the class, 4 of the box, and {self._numbers} for "
                f"each of the {self._count} joints (kpt_shape in {self._path.name})"
            )
        if not all(map(math.isfinite, row)) or row[0] not in self._classes:
            raise PrecomputeError(
                f"{where} begins with {line.split()[0]}, which is not the number of a class ({self._path.name} has "
                f"{', '.join(map(str, list(self._classes)[:10]))}), or has a number that is not finite"
            )
        if min(row[3:BOX]) <= 0:
            raise PrecomputeError(f"{where} has a box without width or height: {shorten(line)}; correct or remove it")
        if max(map(abs, (*row[1:BOX], *self._coordinates(row)))) > FARTHEST:
            raise PrecomputeError(
                f"{where} has coordinates that are not fractions of the image from 0 to 1: {shorten(line)}; divide x "
                "by the width of the image, and y by its height"
            )
        return row

    def _coordinates(self, row: Sequence[float]) -> Iterable[float]:
        joints = row[BOX:]
        return (value for place, value in enumerate(joints) if place % self._numbers < 2)

    def annotation(self, row: Sequence[float], width: int, height: int) -> dict[str, Any]:
        """A line of labels as an annotation of COCO's format, in pixels of an image."""
        x, y, w, h = row[1:BOX]
        box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
        flat = row[BOX:] or (0.0,) * (self._count * self._numbers)
        starts = range(0, len(flat), self._numbers)
        joints = [self._joint(flat[start : start + self._numbers], width, height) for start in starts]
        return {
            "category_id": int(row[0]),
            "bbox": [round(number, 3) for number in box],
            "area": round(box[2] * box[3], 3),
            "iscrowd": 0,
            "num_keypoints": sum(joint[2] > 0 for joint in joints),
            "keypoints": [number for joint in joints for number in joint],
        }

    def _joint(self, joint: Sequence[float], width: int, height: int) -> list[float]:
        """x, y in pixels and COCO's visibility. Without a visibility, a joint at (0, 0) or left of it is unlabelled."""
        x, y = joint[:2]
        labelled = max(x, y) > 0 and min(x, y) >= 0
        v = joint[2] if self._numbers == 3 else 2 if labelled else 0
        if v <= 0:
            return [0, 0, 0]
        return [round(x * width, 3), round(y * height, 3), int(v) if v == int(v) else v]


def _shape(given: Any, path: Path) -> tuple[int, int]:
    is_pair = isinstance(given, list) and len(given) == 2 and all(type(number) is int for number in given)
    if not is_pair or given[0] < 1 or given[1] not in (2, 3):
        raise PrecomputeError(
            f"{path}: kpt_shape is {shorten(given)}; it must be the number of joints and 2 or 3, e.g. [17, 3]"
        )
    return given[0], given[1]


def _classes(entries: Mapping[str, Any], path: Path) -> dict[int, str]:
    """The name of each class by its number."""
    given = entries.get("names")
    if given is None and type(entries.get("nc")) is int:
        given = [f"class{number}" for number in range(entries["nc"])]
    found = dict(enumerate(given)) if isinstance(given, list) else given
    if not isinstance(found, dict) or not found or not all(type(number) is int and number >= 0 for number in found):
        raise PrecomputeError(f"{path}: names is {shorten(given)}; it must be a list of names, or numbers with names")
    return {number: str(found[number]) for number in sorted(found)}


def _joint_names(
    entries: Mapping[str, Any], classes: Mapping[int, str], count: int, path: Path
) -> dict[int, tuple[str, ...]]:
    """The names of the joints of each class that has any: a list for all classes, or one for each."""
    given = entries.get("kpt_names")
    if given is None:
        return {}
    if isinstance(given, list) and given and all(isinstance(joint, list) for joint in given):
        given = dict(zip(classes, given, strict=False))
    by_class = given if isinstance(given, dict) else dict.fromkeys(classes, given)
    numbers = {str(key): number for number, name in classes.items() for key in (name, number)}
    found = {}
    for key, joints in by_class.items():
        if str(key) not in numbers:
            raise PrecomputeError(f"{path}: kpt_names has the class {shorten(key)}, which names does not list")
        if not isinstance(joints, list) or len(joints) != count:
            raise PrecomputeError(f"{path}: kpt_names has {shorten(joints)}, not {count} names of joints (kpt_shape)")
        found[numbers[str(key)]] = tuple(str(joint) for joint in joints)
    return found


def _like(skeleton: Skeleton, pairs: Sequence[tuple[int, int]]) -> Pairs:
    """The pairs as the skeleton has them, if these are the same: their order makes two skeletons differ."""
    same = {frozenset(pair) for pair in pairs} == {frozenset(pair) for pair in skeleton.flip_pairs}
    return skeleton.flip_pairs if same else tuple(pairs)


def _flip_pairs(flip: Any, count: int, path: Path) -> list[tuple[int, int]] | None:
    """The pairs of ``flip_idx``; None if the file has none."""
    if flip is None or flip == []:
        return None
    is_order = isinstance(flip, list) and all(type(joint) is int for joint in flip) and sorted(flip) == [*range(count)]
    if not is_order or any(flip[other] != joint for joint, other in enumerate(flip)):
        raise PrecomputeError(
            f"{path}: flip_idx is {shorten(flip)}; it must give, for each of the {count} joints, the joint that takes "
            "its place in a mirrored image, e.g. [0, 2, 1]"
        )
    return [(joint, other) for joint, other in enumerate(flip) if joint < other]


# --- images -----------------------------------------------------------------------------------------------------------


def _find_files(path: Path, entries: Mapping[str, Any], split: str, notices: Notices) -> list[Path]:
    """The image files of a split, each once."""
    given = entries.get(split)
    if given is None and split == "val":
        given = entries.get("valid")
    places = [given] if isinstance(given, str) else given
    if not isinstance(places, list) or not places or not all(isinstance(place, str) for place in places):
        splits = [name for name in ("train", "val", "valid", "test") if entries.get(name)]
        raise PrecomputeError(
            f"{path} has no images for --split {split}: {split} is {shorten(given)}; it has {', '.join(splits) or 'none'}"
        )
    roots = _roots(path, entries.get("path"))
    files: dict[Path, None] = {}
    for place in places:
        found = _locate(place, roots)
        if found is None:
            raise PrecomputeError(
                f"{path}: {split} is {shorten(place)}, and there is no such folder or file in "
                f"{', '.join(dict.fromkeys(map(str, roots)))}"
            )
        if found != _locate(place, roots[:-1] or roots):
            notices.add(
                "data sets whose images are not under `path`; they are read from the folder of the YAML file",
                f"path {shorten(entries['path'])}, images {found}",
            )
        if found.is_dir():
            images = [image.path for image in find_images(found, notices=notices)]
        else:
            images = _listed(found, roots)
        files |= dict.fromkeys(Path(os.path.abspath(image)) for image in images)
    return list(files)


def _roots(path: Path, given: Any) -> list[Path]:
    """The folders in which a split is searched: ``path`` beside the file, then here, and the file's own folder."""
    own = path.parent
    return [own / given, Path(given), own] if isinstance(given, str) and given else [own]


def _locate(place: str, roots: Sequence[Path]) -> Path | None:
    """The first file or folder of that name; Roboflow writes ``../train/images`` for ``train/images``."""
    names = [place, place.removeprefix("../")] if place.startswith("../") else [place]
    return next((found for name in names for root in roots if (found := root / name).exists()), None)


def _listed(path: Path, roots: Sequence[Path]) -> list[Path]:
    """The images of a text file, one per line, relative to its folder or to those of the data set."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PrecomputeError(f"cannot read the list of images {path}: {error}") from error
    images = []
    for number, line in enumerate(lines, 1):
        name = line.strip()
        if not name:
            continue
        found = _locate(name.replace("\\", "/"), [path.parent, *roots, Path()])
        if found is None or not found.is_file():
            raise PrecomputeError(f"{path}, line {number}: there is no image {shorten(name)}")
        images.append(found)
    if not images:
        raise PrecomputeError(f"{path} lists no image")
    return images


def _sizes(files: Sequence[Path]) -> list[tuple[int, int]]:
    """Width and height of each image as viewers show it, to which the labels refer."""
    with ThreadPoolExecutor(SCAN_THREADS, "size") as pool:
        return list(pool.map(_size, files))


def _size(path: Path) -> tuple[int, int]:
    orientation = read_orientation(path)
    if orientation is not None:
        return orientation.upright_size
    try:
        with Image.open(path) as image:
            return image.size
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        pass  # a format that Pillow does not read, or a damaged file
    try:
        height, width = decode_image(path.read_bytes()).shape[:2]
    except (OSError, UnreadableImageError) as error:
        raise PrecomputeError(f"{path} {error}; repair or remove it, and its labels") from error
    return width, height
