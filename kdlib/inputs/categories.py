"""Chooses the categories of an annotation file that are persons with COCO's 17 joints.

A category's id decides nothing: files number persons 0, 1 or 2, and dogs 1. Categories that list COCO's joint names, in
COCO's order, are chosen; if there are several, the one that is named person. If no category lists joints, the category
named person is chosen, else those whose annotations have 17 keypoints, else the only category.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from kdlib.errors import InputError
from kdlib.inputs.ids import canonical_text, check_id, shorten
from kdlib.inputs.notices import Notices
from kdlib.skeleton import JOINTS

PERSON: Final = "person"


@dataclasses.dataclass(frozen=True)
class Categories:
    """The categories of a file, by their ids as the file gives them."""

    persons: list[Any]
    others: list[Any]

    def is_person(self, reference: object) -> bool | None:
        """Whether a category id, in any spelling, is that of a person; None if the file does not list it."""
        if check_id(reference) is not None:
            return None
        found = self._by_id.get(reference)
        return self._by_text.get(canonical_text(reference)) if found is None else found

    @functools.cached_property
    def _by_id(self) -> dict[Any, bool]:
        return {**dict.fromkeys(self.others, False), **dict.fromkeys(self.persons, True)}

    @functools.cached_property
    def _by_text(self) -> dict[str, bool | None]:
        """None for a text that stands for several ids."""
        found: dict[str, bool | None] = {}
        for identity, person in self._by_id.items():
            text = canonical_text(identity)
            found[text] = None if text in found else person
        return found


def choose_categories(
    entries: Sequence[Any], annotations: Iterable[Any], path: str | Path, notices: Notices | None = None
) -> Categories:
    """Find the persons among the categories of an annotation file.

    Args:
        entries: The list ``categories``: objects with an ``id``, and usually ``name`` and ``keypoints``.
        annotations: The list ``annotations``; it decides only if no category lists joints or is named person.
        path: The file, for messages.
        notices: Receives the chosen categories if several list COCO's joints.

    Raises:
        InputError: If an entry has no id, two have the same, the listed joints are not COCO's, or no category can be
            chosen.
    """
    entries = _unique_entries(entries, path)
    if not entries:
        return Categories([], [])
    with_joints = [entry for entry in entries if entry.get("keypoints")]
    if with_joints:
        chosen = _with_coco_joints(with_joints, path, notices)
    else:
        chosen = [entry for entry in entries if _name(entry) == PERSON] or _with_labels(entries, annotations, path)
    persons = [entry["id"] for entry in chosen]
    return Categories(persons, [entry["id"] for entry in entries if entry["id"] not in persons])


def choose_box_categories(entries: Sequence[Any], path: str | Path, notices: Notices) -> Categories:
    """Find the persons among the categories of a box file, whose joints do not matter.

    Args:
        entries: The list ``categories``.
        path: The file, for messages.
        notices: Receives the name of the only category if it is not person.

    Raises:
        InputError: If an entry has no id, two have the same, or of several categories none has COCO's joints or is
            named person.
    """
    entries = _unique_entries(entries, path)
    named = [entry for entry in entries if _name(entry) == PERSON]
    with_joints = [entry for entry in entries if _first_difference(entry.get("keypoints")) is None]
    chosen = [entry for entry in with_joints if entry in named] or with_joints or named
    if not chosen and len(entries) > 1:
        names = ", ".join(f"{shorten(entry['id'])} {shorten(entry.get('name'))}" for entry in entries[:5])
        raise InputError(
            f"{path}: none of its {len(entries)} categories is a person: {names}; name the category of persons {PERSON}"
        )
    if not chosen and "name" in entries[0]:
        notices.add("categories taken for persons, because the box file has no other", shorten(entries[0]["name"]))
    persons = [entry["id"] for entry in chosen or entries]
    return Categories(persons, [entry["id"] for entry in entries if entry["id"] not in persons])


def _unique_entries(entries: Sequence[Any], path: str | Path) -> list[dict[str, Any]]:
    """The entries without repetitions."""
    first: dict[Any, int] = {}
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or "id" not in entry:
            raise InputError(f"{path}: categories[{number}] is {shorten(entry)}, not an object with an id")
        problem = check_id(entry["id"])
        if problem:
            raise InputError(f"{path}: categories[{number}] {problem}")
        before = first.setdefault(entry["id"], number)
        if entries[before] != entry:
            raise InputError(
                f"{path}: two categories have the id {shorten(entry['id'])}: categories[{before}] "
                f"{shorten(entries[before])} and categories[{number}] {shorten(entry)}; give each its own id"
            )
    return [entries[number] for number in first.values()]


def _with_coco_joints(
    entries: Sequence[dict[str, Any]], path: str | Path, notices: Notices | None
) -> list[dict[str, Any]]:
    chosen = [entry for entry in entries if _first_difference(entry["keypoints"]) is None]
    if not chosen:
        entry = next((entry for entry in entries if _name(entry) == PERSON), entries[0])
        name = shorten(entry.get("name", entry["id"]))
        raise InputError(
            f"{path}: the category {name} does not have COCO's {len(JOINTS)} joints: "
            f"{_first_difference(entry['keypoints'])}; convert the keypoints to COCO's joints and their order"
        )
    if len(chosen) > 1:
        chosen = [entry for entry in chosen if _name(entry) == PERSON] or chosen
        if notices is not None:
            used = ", ".join(shorten(entry.get("name", entry["id"])) for entry in chosen)
            notices.add("categories with COCO's joints, of which some are used as persons", used, len(entries))
    return chosen


def _with_labels(
    entries: Sequence[dict[str, Any]], annotations: Iterable[Any], path: str | Path
) -> list[dict[str, Any]]:
    """The categories that have annotations with as many keypoints as COCO's person; else the only category."""
    count = 3 * len(JOINTS)
    used = set[Any]()
    for annotation in annotations:
        joints = annotation.get("keypoints") if isinstance(annotation, dict) else None
        if isinstance(joints, list) and len(joints) in (count, len(JOINTS)):
            used.add(canonical_text(annotation.get("category_id")))
    chosen = [entry for entry in entries if canonical_text(entry["id"]) in used]
    if chosen or len(entries) == 1:
        return chosen or list(entries)
    names = ", ".join(shorten(entry.get("name", entry["id"])) for entry in entries[:5])
    raise InputError(
        f"{path}: none of its {len(entries)} categories is a person: none lists joints, is named {PERSON}, or has "
        f"annotations with {len(JOINTS)} keypoints ({names}); name the category of persons {PERSON}"
    )


def _first_difference(names: Any) -> str | None:
    """The first joint name that is not COCO's, as a phrase; None if all names are COCO's, in COCO's order."""
    if not isinstance(names, list):
        return f"its keypoints are {shorten(names)}, not a list of names"
    for number, (name, wanted) in enumerate(zip(names, JOINTS, strict=False), 1):
        if not isinstance(name, str) or _plain(name) != wanted:
            return f"joint {number} is {shorten(name)}, COCO's is {wanted!r}"
    return None if len(names) == len(JOINTS) else f"it has {len(names)} joints"


def _plain(name: str) -> str:
    """A name in small letters, with _ for spaces and hyphens."""
    return re.sub(r"[\s_-]+", "_", name.strip()).casefold()


def _name(entry: dict[str, Any]) -> str | None:
    name = entry.get("name")
    return _plain(name) if isinstance(name, str) else None
