"""Reads the boxes of persons and finds their images, for every command that takes ``--boxes``.

A box file is JSON in UTF-8 (with or without byte order mark), UTF-16 or UTF-32, also as gzip. It is one of these:

- COCO detections: a list of rows ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}``;
- such a list as ``detections``, ``results``, ``predictions`` or ``annotations`` of an object;
- a COCO annotation file, whose ``images`` give file names to the ids;
- the ``keypoints.json`` of ``train predict``, whose rows have ``file_name`` and ``bbox``.

A row belongs to the image of its ``file_name`` (or ``image_name``, or ``image``), else to that of its ``image_id``: a
number, or a text, which may be a number, a file name, or a file name without suffix, as Ultralytics writes it.
``bbox`` is in pixels of the image. Its numbers and the score may be texts. A missing or null ``score`` is 1. Rows with
``iscrowd`` are left out. CSV files and YOLO's label files are refused.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdlib.errors import InputError
from kdlib.geometry import clip_boxes
from kdlib.inputs.box_rows import Reference, read_rows
from kdlib.inputs.categories import Categories
from kdlib.inputs.ids import canonical_text, shorten
from kdlib.inputs.image_index import ImageIndex
from kdlib.inputs.names import ABSENT, SEVERAL, Names, folder, rows_by_key, stem
from kdlib.inputs.notices import EXAMPLES, Notices

UNLISTED: Final = -3
"""The box file has a list of images, but not this one."""
TOLERANCE: Final = 1.0
"""Pixels by which a box may leave its image before `FormatCheck` counts it: detectors round."""


@dataclasses.dataclass(frozen=True)
class Boxes:
    """N boxes of one image."""

    xywh: NDArray[np.float64]
    """(N, 4) x, y, width, height in image pixels."""
    scores: NDArray[np.float64]
    """(N,) the detector's confidence."""


NO_BOXES: Final = Boxes(np.empty((0, 4)), np.empty(0))


@dataclasses.dataclass(frozen=True)
class MatchedBoxes:
    """M boxes of persons with their images, in the order of the file."""

    entry: NDArray[np.int64]
    """(M,) the position of the row in the file, from 0."""
    image: NDArray[np.int64]
    """(M,) the position of the image in the list that was searched; for a video, the number of the frame."""
    xywh: NDArray[np.float64]
    """(M, 4) x, y, width, height in image pixels."""
    scores: NDArray[np.float64]
    """(M,) the detector's confidence."""
    image_ids: dict[int, Any]
    """The file's image id by the position of the image, where the file gives the image a name and an id."""
    image_sizes: dict[int, tuple[int, int]]
    """Width and height by the position of the image, where the box file lists its images with their sizes."""

    def __len__(self) -> int:
        return len(self.entry)

    def select(self, rows: NDArray[np.bool_]) -> Self:
        """The boxes at some rows (a mask), in the same order."""
        columns = {name: getattr(self, name)[rows] for name in ("entry", "image", "xywh", "scores")}
        return dataclasses.replace(self, **columns)

    def by_image(self) -> dict[int, Boxes]:
        """The boxes of each image that has any, in the order of the file."""
        order = np.argsort(self.image, kind="stable")
        images, starts = np.unique(self.image[order], return_index=True)
        parts = np.split(order, starts[1:])
        return {int(i): Boxes(self.xywh[rows], self.scores[rows]) for i, rows in zip(images, parts, strict=False)}


class FormatCheck:
    """Counts boxes that leave their image: a sign that ``bbox`` is not x, y, width, height in pixels."""

    def __init__(self) -> None:
        self._boxes = self._leaving = self._corners = self._fractions = 0

    def add(self, xywh: NDArray[np.float64], sizes: ArrayLike) -> None:
        """Count boxes (N, 4) of images with these sizes: width, height of all, or (N, 2)."""
        sizes = np.asarray(sizes, np.float64) + TOLERANCE
        first, last = xywh[:, :2], xywh[:, 2:]
        leaving = (first + last > sizes).any(axis=1) | (last < 0).any(axis=1) | (first < -sizes).any(axis=1)
        self._boxes += len(xywh)
        self._leaving += int(leaving.sum())
        self._corners += int(
            (leaving & (first >= 0).all(axis=1) & (last > first).all(axis=1) & (last <= sizes).all(axis=1)).sum()
        )
        self._fractions += int(((xywh >= 0) & (xywh <= 1)).all(axis=1).sum())

    def message(self) -> str | None:
        """One line if most boxes are not x, y, width, height in pixels, else None."""
        right = "bbox must be x, y, width, height in pixels"
        if 2 * self._fractions > self._boxes:
            return f"{self._fractions} of {self._boxes} boxes lie between 0 and 1: {right}, not fractions of the image"
        if 2 * self._leaving <= self._boxes:
            return None
        line = f"{self._leaving} of {self._boxes} boxes leave their image: {right}"
        return f"{line}; read as x1, y1, x2, y2 they would fit" if 2 * self._corners > self._leaving else line


def warn_of_format(xywh: NDArray[np.float64], sizes: ArrayLike, path: Path, notices: Notices) -> str | None:
    """Warn if most boxes (N, 4) of images with sizes (N, 2) are not x, y, width, height in pixels; returns the line."""
    check = FormatCheck()
    check.add(xywh, sizes)
    line = check.message()
    if line:
        notices.warn(f"{path}: {line}")
        notices.add("boxes that seem not to be x, y, width, height in pixels", line, len(xywh))
    return line


class BoxFile:
    """The boxes of persons in a file, and the images that they belong to.

    **Category.** If the file has ``categories``, they decide: those with the joints of the annotations (COCO's 17 if
    there are none), else those named like the chosen ones there (person), else the only one. Without them, the
    categories of the annotation file decide, else COCO's number 1. Where all rows have category 0, which is not one of
    COCO's, they are persons. Rows without a category are persons.

    **Image.** Names decide first; `kdlib.inputs.names.Names` states which names fit. An id is looked up in the box
    file's ``images``, which give its name, else in the annotation file. The number in a file name is used as an id only
    where no file lists images. Boxes of other images, and boxes that fit several images, are left out and counted.

    Args:
        path: JSON file.
        categories: The categories of the annotation file that the boxes are for, if there is one.
        notices: Receives what was left out or changed.

    Raises:
        InputError: If the file is missing, has another structure, or has no box of a person; the message names the
            first bad entry. Entries are numbered from 0.
    """

    def __init__(self, path: str | Path, categories: Categories | None = None, notices: Notices | None = None) -> None:
        self.path, self.notices = Path(path), Notices() if notices is None else notices
        self.rows = read_rows(self.path, categories, self.notices)
        self._positions = self._find_positions()

    def match_index(self, index: ImageIndex) -> MatchedBoxes:
        """Find the images of the boxes among those that an annotation file lists.

        Raises:
            InputError: If no box belongs to one of the images, or if an id could be that of two images.
        """
        found = self._find(index.file_name, index.find_id)
        if self.rows.images is None:
            self._check_numbers(index, found)
        examples = [f"{shorten(index.file_name[0])} with id {shorten(index.original_id[0])}"] if len(index) else []
        return self._matched(found, examples, "none of the annotated images", "that the annotation file does not list")

    def inside(self, matched: MatchedBoxes, sizes: NDArray[np.integer]) -> MatchedBoxes:
        """The boxes that have some area inside their image; the others become a notice.

        Args:
            matched: The boxes.
            sizes: (N, 2) width, height of each image.

        Raises:
            InputError: If no box has an area inside its image.
        """
        sizes = sizes[matched.image]
        line = warn_of_format(matched.xywh, sizes, self.path, self.notices)
        inside = np.asarray((clip_boxes(matched.xywh, sizes)[:, 2:] > 0).all(axis=1))
        if not inside.any():
            raise InputError(f"{self.path}: no box has an area inside its image: {line or 'they are empty'}")
        outside = matched.entry[~inside]
        self.notices.add_all(
            "boxes without area inside their image, left out", [f"entry {i}" for i in outside[:EXAMPLES]], len(outside)
        )
        return matched.select(inside)

    def match_names(self, names: Sequence[str], source: str) -> MatchedBoxes:
        """Find the images of the boxes among image files.

        Args:
            names: Paths of the images relative to a folder.
            source: The folder or file, for messages.

        Raises:
            InputError: If no box belongs to one of the images.
        """
        numbers = _rows_by_number(names)
        found = self._find(names, lambda reference: numbers.get(canonical_text(reference), ABSENT))
        if self.rows.images is None:
            by_number = [g for g, row in enumerate(found) if row >= 0 and not self._fits_name(g, names[row])]
            self._notice("boxes found by the number in their image's name, because no file lists images", by_number)
        return self._matched(found, [shorten(names[0])], f"no image of {source}", "that are not here")

    def match_frames(self, video: str) -> MatchedBoxes:
        """Find the frames of the boxes: ``image_id`` is the number of a frame, from 0.

        Args:
            video: The file name of the video. Rows that have a file name must name it.

        Raises:
            InputError: If no row has the number of a frame, or if the file lists images whose ids are not the numbers
                of frames.
        """
        name = Names([video])
        if self.rows.images is not None:
            self._check_frames(name, self.rows.images)
        found = [
            _frame_number(image_id) if given is None or name.find(given) >= 0 else ABSENT
            for given, image_id in self.rows.references
        ]
        return self._matched(found, [f"frame 0 of {shorten(video)}"], f"no frame of {video}", "that are not frames")

    # --- finding ------------------------------------------------------------------------------------------------------

    def _find(self, names: Sequence[str], find_id: Callable[[Any], int | None]) -> list[int]:
        """For each reference, the row of its image among the names, or `ABSENT`, `SEVERAL` or `UNLISTED`."""
        images = Names(names)
        if self.rows.images is not None:
            return self._find_listed(images, self.rows.images)
        found, spellings = list[int](), list[str | None]()
        for group, (name, image_id) in enumerate(self.rows.references):
            if name is None and isinstance(image_id, str):
                row, spelling = self._find_text(group, image_id, images, find_id)
            else:
                row = _row_or_absent(find_id(image_id)) if name is None else images.find(name)
                spelling = name
            found.append(row)
            spellings.append(spelling)
        return _settle(found, spellings, images)

    def _find_text(
        self, group: int, text: str, images: Names, find_id: Callable[[Any], int | None]
    ) -> tuple[int, str | None]:
        """The image of an ``image_id`` that is a text, and the text if it was found as a name."""
        by_name, by_id = images.find(text), _row_or_absent(find_id(text))
        if by_name >= 0 and by_id >= 0 and by_name != by_id and canonical_text(text) == text:
            raise InputError(
                f"{self._where(group)}: image_id {shorten(text)} is the name of {shorten(images.names[by_name])} and "
                f"the id of {shorten(images.names[by_id])}; write ids as numbers, or names with suffix as file_name"
            )
        return (by_id, None) if by_name == ABSENT else (by_name, text)

    def _find_listed(self, images: Names, listed: ImageIndex) -> list[int]:
        """As `_find`, for a box file with a list of images: names decide, those in the list or those of the rows."""
        references = zip(self._positions, self.rows.references, strict=True)
        names = [self._own_name(position, reference, images, listed) for position, reference in references]
        spellings = [*listed.file_name, *names]
        rows = _settle([UNLISTED if name is None else images.find(name) for name in spellings], spellings, images)
        found = zip(self._positions, names, rows[len(listed) :], strict=True)
        return [rows[position] if name is None and position >= 0 else row for position, name, row in found]

    def _own_name(self, position: int, reference: Reference, images: Names, listed: ImageIndex) -> str | None:
        """The name of a reference without a listed id, if it is the path of an image or is not in the list."""
        name, image_id = reference
        if listed.find_id(image_id) is not None:
            return None
        given = image_id if name is None and isinstance(image_id, str) and not _is_number(image_id) else name
        row = ABSENT if given is None else images.find(given)
        exact = given is not None and row >= 0 and images.same_path(row, given)
        return given if exact or position < 0 else None

    def _find_positions(self) -> list[int]:
        """The position of each reference in the box file's list of images; negative if it is not there."""
        listed = self.rows.images
        if listed is None:
            return [ABSENT] * len(self.rows.references)
        own = Names(listed.file_name)
        positions = []
        for group, (name, image_id) in enumerate(self.rows.references):
            by_id = _row_or_absent(listed.find_id(image_id))
            if name is None and isinstance(image_id, str):
                positions.append(self._find_text(group, image_id, own, listed.find_id)[0])
            elif name is None or by_id >= 0:
                self._check_name(group, by_id, listed)
                positions.append(by_id)
            else:
                positions.append(own.find(name))
        return positions

    def _check_name(self, group: int, position: int, listed: ImageIndex) -> None:
        """Raise `InputError` if a row gives the name of one image and the id of another."""
        name, image_id = self.rows.references[group]
        if name is not None and position >= 0 and Names([listed.file_name[position]]).find(name) < 0:
            raise InputError(
                f"{self._where(group)} is for {shorten(name)} and for image_id {shorten(image_id)}, which is "
                f"{shorten(listed.file_name[position])} in the list of images; correct one of them"
            )

    def _check_numbers(self, index: ImageIndex, found: list[int]) -> None:
        """Refuse ids that are numbers in file names and not ids, and note ids that could be both."""
        by_number = _rows_by_number(index.file_name)
        ids = [g for g, (name, _) in enumerate(self.rows.references) if name is None]
        ids = [g for g in ids if found[g] < 0 or not self._fits_name(g, index.file_name[found[g]])]
        numbered = {g: by_number.get(canonical_text(self.rows.references[g][1]), ABSENT) for g in ids}
        lost = next((g for g in ids if found[g] == ABSENT), None)
        if lost is not None and all(row >= 0 for row in numbered.values()):
            row = numbered[lost]
            raise InputError(
                f"{self._where(lost)}: {self._describe(lost)} is not an id of the annotation file, but the number in "
                f"{shorten(index.file_name[row])}, whose id is {shorten(index.original_id[row])}; all ids of the box "
                "file are such numbers; give file_name instead of image_id"
            )
        others = [g for g in ids if found[g] >= 0 and numbered[g] >= 0 and numbered[g] != found[g]]
        self._notice("boxes found by an image_id that is also the number in another image's name", others)

    def _check_frames(self, name: Names, listed: ImageIndex) -> None:
        for file_name, image_id in zip(listed.file_name, listed.original_id, strict=True):
            number = re.search(r"[0-9]+$", stem(file_name))
            if name.find(file_name) < 0 and (not number or canonical_text(number[0]) != canonical_text(image_id)):
                raise InputError(
                    f"{self.path}: for a video, image_id must be the number of a frame, from 0, but the file lists "
                    f"{shorten(file_name)} as image {shorten(image_id)}; give the boxes as a list without images"
                )

    # --- words --------------------------------------------------------------------------------------------------------

    def _matched(self, found: list[int], examples: list[str], nothing: str, others: str) -> MatchedBoxes:
        """The boxes whose image was found; the others become notices.

        Args:
            found: The row of each reference's image, or a negative code.
            examples: An image that was searched, for the message if nothing was found.
            nothing: The beginning of that message.
            others: Describes images that were not found.
        """
        codes = np.array(found, np.int64)[self.rows.reference]
        if not (codes >= 0).any():
            self._refuse(found, examples, nothing)
        reasons = {
            ABSENT: f"boxes of images {others}, left out",
            UNLISTED: "boxes of images that the box file does not list, left out",
            SEVERAL: "boxes whose image is ambiguous, because folders differ or are missing, left out",
        }
        for code, kind in reasons.items():
            self._notice(kind, [g for g, row in enumerate(found) if row == code])
        rows = self.rows
        ids, sizes = self._image_ids(found), self._image_sizes(found)
        return MatchedBoxes(rows.entry, codes, rows.xywh, rows.scores, ids, sizes).select(codes >= 0)

    def _refuse(self, found: list[int], examples: list[str], nothing: str) -> NoReturn:
        group = int(self.rows.reference[0])
        reasons = {
            ABSENT: "no file name or image_id matches",
            UNLISTED: "its list of images does not contain their image_id",
            SEVERAL: "their names fit several images, or several of their names fit one image",
        }
        image = "".join(f"an image is {example}; " for example in examples)
        raise InputError(
            f"{nothing} has a box in {self.path} that can be used: {reasons[found[group]]}: {image}"
            f"entry {self.rows.entry[0]} of the box file is for {self._describe(group)}; "
            "give each entry the name of its image as file_name, relative to the folder of the images"
        )

    def _notice(self, kind: str, groups: Iterable[int]) -> None:
        """Count the boxes of some references as a notice."""
        chosen = np.zeros(len(self.rows.references), bool)
        chosen[list(groups)] = True
        rows = np.flatnonzero(chosen[self.rows.reference])
        shown = [f"entry {self.rows.entry[i]}: {self._describe(self.rows.reference[i])}" for i in rows[:EXAMPLES]]
        self.notices.add_all(kind, shown, len(rows))

    def _where(self, group: int) -> str:
        """The file and the first entry of a person that has a reference."""
        rows = np.flatnonzero(self.rows.reference == group)
        return f"{self.path}, entry {self.rows.entry[rows[0]]}" if len(rows) else str(self.path)

    def _describe(self, group: int) -> str:
        """A reference in words, with the name that the box file's list of images gives to an id."""
        (name, image_id), position, listed = self.rows.references[group], self._positions[group], self.rows.images
        if name is not None:
            return shorten(name)
        in_list = "" if listed is None or position < 0 else f" ({shorten(listed.file_name[position])})"
        return f"image_id {shorten(image_id)}{in_list}"

    def _fits_name(self, group: int, name: str) -> bool:
        """Whether a reference is a name, or a text that fits a name."""
        given, image_id = self.rows.references[group]
        given = image_id if given is None else given
        return isinstance(given, str) and Names([name]).find(given) >= 0

    def _image_ids(self, found: list[int]) -> dict[int, Any]:
        """The file's ids of the images that were found, where it gives a name and one id."""
        ids: dict[int, set[Any]] = {}
        listed = self.rows.images
        for row, position, (name, given) in zip(found, self._positions, self.rows.references, strict=True):
            image_id = listed.original_id[position] if listed is not None and position >= 0 else given
            if row >= 0 and image_id is not None and (name is not None or position >= 0):
                ids.setdefault(row, set()).add(image_id)
        return {row: _plain_id(next(iter(given))) for row, given in ids.items() if len(given) == 1}

    def _image_sizes(self, found: list[int]) -> dict[int, tuple[int, int]]:
        """Sizes of the images that were found, where the box file lists them."""
        listed, sizes = self.rows.images, dict[int, tuple[int, int]]()
        for row, position in zip(found, self._positions, strict=True):
            if listed is not None and row >= 0 and position >= 0 and listed.size[position].all():
                sizes[row] = int(listed.size[position, 0]), int(listed.size[position, 1])
        return sizes


def _settle(found: list[int], spellings: Sequence[str | None], images: Names) -> list[int]:
    """Decide where names of different folders fit one image: only the same path keeps it, else none of them.

    Args:
        found: Row of the image of each reference, or a negative code.
        spellings: The name by which it was found; None if it was found by its id.
        images: The names of the images.
    """
    folders: dict[int, set[str]] = {}
    exact = set[int]()
    for row, name in zip(found, spellings, strict=True):
        if row >= 0 and name is not None:
            folders.setdefault(row, set()).add(folder(name))
            if images.same_path(row, name):
                exact.add(row)
    several = {row for row, names in folders.items() if len(names) > 1}
    settled = list(found)
    for position, (row, name) in enumerate(zip(found, spellings, strict=True)):
        if row in several and name is not None and not images.same_path(row, name):
            settled[position] = ABSENT if row in exact else SEVERAL
    return settled


def _rows_by_number(names: Sequence[str]) -> dict[str, int]:
    """Row by the number that a file name is, without leading zeros; `SEVERAL` for a number of several rows."""
    stems = ((row, stem(name.replace("\\", "/").rpartition("/")[2])) for row, name in enumerate(names))
    return rows_by_key((row, canonical_text(text)) for row, text in stems if text.isascii() and text.isdigit())


def _row_or_absent(row: int | None) -> int:
    return ABSENT if row is None else row


def _is_number(image_id: Any) -> bool:
    text = canonical_text(image_id)
    return text.isascii() and text.isdigit()


def _frame_number(image_id: Any) -> int:
    text = canonical_text(image_id)
    return int(text) if _is_number(text) and len(text) < 10 else ABSENT


def _plain_id(image_id: Any) -> Any:
    """An id as JSON should hold it: a whole fraction as the integer."""
    return int(image_id) if isinstance(image_id, float) and image_id.is_integer() else image_id
