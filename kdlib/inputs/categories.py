"""Chooses the categories of an annotation file whose instances are used, and finds their skeleton.

A category's id decides nothing: files number persons 0, 1 or 2, and dogs 1. Without a name from the user, categories
that list COCO's joints are chosen; if there are several, the one that is named person. If no category lists COCO's
joints, the one named person is chosen, else all that list joints, if these are the same. If no category lists joints,
the category named person is chosen, else those whose annotations have as many keypoints as the skeleton, else the only
category.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from kdlib.errors import InputError, SkeletonError
from kdlib.inputs.ids import canonical_text, check_id, shorten
from kdlib.inputs.notices import Notices
from kdlib.skeletons.reading import Arranged, arrange, joint_order
from kdlib.skeletons.skeleton import COCO, Pairs, Skeleton

PERSON: Final = "person"
_IN_ORDER: Final = Arranged(COCO, tuple(range(len(COCO))))


@dataclasses.dataclass(frozen=True)
class Categories:
    """The categories of a file, by their ids as the file gives them."""

    persons: list[Any]
    """The categories whose instances are used; in most files that of persons."""
    others: list[Any]
    arranged: Arranged = _IN_ORDER
    """The joints of the instances, and their order in the file."""
    names: frozenset[str] = frozenset({PERSON})
    """The names of the chosen categories, as `plain_name` gives them; a box file may number them differently."""

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
    entries: Sequence[Any],
    annotations: Iterable[Any],
    path: str | Path,
    notices: Notices | None = None,
    *,
    category: str | None = None,
    skeleton: Skeleton | None = None,
) -> Categories:
    """Find the categories of an annotation file whose instances are used, and their joints.

    Args:
        entries: The list ``categories``: objects with an ``id``, and usually ``name``, ``keypoints`` and ``skeleton``.
        annotations: The list ``annotations``; it decides only if no category lists joints or is named person.
        path: The file, for messages.
        notices: Receives the chosen categories if several list the joints, and whether joints are reordered.
        category: Name of the category to use; None chooses as the module states.
        skeleton: The joints that the category must have, in any order; None takes those that it lists.

    Raises:
        InputError: If an entry has no id, two have the same, the listed joints are not those of the skeleton, or no
            category can be chosen.
    """
    notices = Notices() if notices is None else notices
    entries = _unique_entries(entries, path)
    if not entries:
        return Categories([], [], _in_order(skeleton or COCO), frozenset({plain_name(category or PERSON)}))
    if category is not None:
        chosen = _named(entries, category, path)
    elif any(entry.get("keypoints") for entry in entries):
        chosen = _with_joints([entry for entry in entries if entry.get("keypoints")], path, notices, skeleton)
    else:
        named = [entry for entry in entries if _name(entry) == PERSON]
        chosen = named or _with_labels(entries, annotations, path, skeleton or COCO)
    persons = [entry["id"] for entry in chosen]
    others = [entry["id"] for entry in entries if entry["id"] not in persons]
    names = frozenset(name for entry in chosen if (name := _name(entry)))
    return Categories(persons, others, _arrange(chosen, path, notices, skeleton), names or frozenset({PERSON}))


def choose_box_categories(
    entries: Sequence[Any], path: str | Path, notices: Notices, wanted: Categories | None = None
) -> Categories:
    """Find the categories of a box file whose boxes are used; their joints do not matter.

    Args:
        entries: The list ``categories``.
        path: The file, for messages.
        notices: Receives the name of the only category if it is not the wanted one.
        wanted: The chosen categories of the annotation file; None takes persons with COCO's joints.

    Raises:
        InputError: If an entry has no id, two have the same, or of several categories none has the wanted joints or
            name.
    """
    wanted = wanted or Categories([], [])
    entries = _unique_entries(entries, path)
    named = [entry for entry in entries if _name(entry) in wanted.names]
    if not named and wanted.arranged.skeleton == COCO:
        named = [entry for entry in entries if _name(entry) == PERSON]
    with_joints = [entry for entry in entries if _fits(entry, wanted.arranged.skeleton)]
    chosen = [entry for entry in with_joints if entry in named] or with_joints or named
    if not chosen and len(entries) > 1:
        names = ", ".join(f"{shorten(entry['id'])} {shorten(entry.get('name'))}" for entry in entries[:5])
        found = f"{path}: none of its {len(entries)} categories is"
        if wanted.names == {PERSON}:
            raise InputError(f"{found} a person: {names}; name the category of persons {PERSON}")
        raise InputError(
            f"{found} {' or '.join(sorted(wanted.names)[:5])}: {names}; give its category the name that the "
            "annotations have"
        )
    if not chosen and "name" in entries[0]:
        notices.add("categories taken for persons, because the box file has no other", shorten(entries[0]["name"]))
    persons = [entry["id"] for entry in chosen or entries]
    others = [entry["id"] for entry in entries if entry["id"] not in persons]
    return Categories(persons, others, wanted.arranged, wanted.names)


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


def _named(entries: Sequence[dict[str, Any]], category: str, path: str | Path) -> list[dict[str, Any]]:
    chosen = [entry for entry in entries if _name(entry) == plain_name(category)]
    if not chosen:
        names = ", ".join(shorten(entry.get("name", entry["id"])) for entry in entries[:10])
        more = f" and {len(entries) - 10} more" if len(entries) > 10 else ""
        raise InputError(f"{path} has no category named {shorten(category)}; it has {names}{more}")
    return chosen


def _with_joints(
    entries: Sequence[dict[str, Any]], path: str | Path, notices: Notices, skeleton: Skeleton | None
) -> list[dict[str, Any]]:
    """The categories with the joints of the skeleton, or of COCO; else the one named person; else all, if alike."""
    wanted = skeleton or COCO
    chosen = [entry for entry in entries if _fits(entry, wanted)]
    named = [entry for entry in chosen or entries if _name(entry) == PERSON]
    if len(chosen) > 1 and wanted != COCO:
        used = ", ".join(shorten(entry.get("name", entry["id"])) for entry in chosen)
        notices.add("categories with the same joints, all used", used, len(chosen))
    elif len(chosen) > 1:
        chosen = named or chosen
        used = ", ".join(shorten(entry.get("name", entry["id"])) for entry in chosen)
        notices.add(f"categories with {_whose(wanted)} joints, of which some are used as persons", used, len(entries))
    if chosen or named or skeleton is not None:
        return chosen or named[:1] or list(entries[:1])  # the joints of the last two are checked in _arrange
    first = _joints_of(entries[0], path)
    other = next((entry for entry in entries if _joints_of(entry, path) != first), None)
    if other is not None:
        raise InputError(
            f"{path}: the categories {shorten(entries[0].get('name'))} and {shorten(other.get('name'))} have different "
            "joints; choose one by its name (--category NAME)"
        )
    if len(entries) > 1:
        used = ", ".join(shorten(entry.get("name", entry["id"])) for entry in entries)
        notices.add("categories with the same joints, all used", used, len(entries))
    return list(entries)


def _arrange(
    chosen: Sequence[dict[str, Any]], path: str | Path, notices: Notices, skeleton: Skeleton | None
) -> Arranged:
    """The skeleton of the chosen categories, which list the same joints, or none."""
    listing = [entry for entry in chosen if entry.get("keypoints")]
    if not listing:
        return _in_order(skeleton or COCO)
    entry = listing[0]
    name = shorten(entry.get("name", entry["id"]))
    joints = _joints_of(entry, path)
    other = next((each for each in listing if _joints_of(each, path) != joints), None)
    if other is not None:
        raise InputError(
            f"{path}: the categories {name} and {shorten(other.get('name', other['id']))} have the joints in different "
            "orders; give them the same order, or choose one by its name (--category NAME)"
        )
    called = entry["name"] if isinstance(entry.get("name"), str) and entry["name"] else "custom"
    try:
        found = arrange(joints, _limbs(entry, len(joints), path, notices), name=called, wanted=skeleton)
    except SkeletonError as error:
        raise InputError(f"{path}: the category {name}: {error}") from error
    if found.is_reordered:
        notices.add(f"joints reordered to {_whose(found.skeleton)} order", name, len(found.order))
    return found


def _joints_of(entry: dict[str, Any], path: str | Path) -> list[str]:
    joints = entry["keypoints"]
    if not isinstance(joints, list) or not all(isinstance(joint, str) and joint.strip() for joint in joints):
        raise InputError(
            f"{path}: the category {shorten(entry.get('name', entry['id']))} has the keypoints {shorten(joints)}; they "
            "must be a list of names, one per joint"
        )
    return joints


def _limbs(entry: dict[str, Any], count: int, path: str | Path, notices: Notices) -> Pairs:
    """The pairs of a category's entry ``skeleton``, which COCO numbers from 1; files that use 0 number from 0."""
    given = entry.get("skeleton") or []
    pairs = [pair for pair in given if _is_limb(pair)] if isinstance(given, list) else []
    first = 0 if any(0 in pair for pair in pairs) else 1
    if first == 0:
        notices.add("skeletons whose limbs number the joints from 0", str(path))
    limbs = {(a - first, b - first): None for a, b in pairs if first <= min(a, b) and max(a, b) < count + first}
    if len(pairs) < len(given) or any(max(pair) >= count + first or min(pair) < first for pair in pairs):
        notices.add("skeletons with limbs that are not pairs of joints, left out", str(path))
    return tuple(limbs)


def _is_limb(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(type(end) is int for end in pair) and pair[0] != pair[1]


def _in_order(skeleton: Skeleton) -> Arranged:
    return Arranged(skeleton, tuple(range(len(skeleton))))


def _fits(entry: dict[str, Any], skeleton: Skeleton) -> bool:
    """Whether a category lists the joints of a skeleton, in any order."""
    joints = entry.get("keypoints")
    if not isinstance(joints, list) or not all(isinstance(joint, str) for joint in joints):
        return False
    return joint_order(joints, skeleton) is not None


def _whose(skeleton: Skeleton) -> str:
    return "COCO's" if skeleton == COCO else f"{skeleton.name}'s"


def _with_labels(
    entries: Sequence[dict[str, Any]], annotations: Iterable[Any], path: str | Path, skeleton: Skeleton
) -> list[dict[str, Any]]:
    """The categories that have annotations with as many keypoints as the skeleton; else the only category."""
    count = 3 * len(skeleton)
    used = set[Any]()
    for annotation in annotations:
        joints = annotation.get("keypoints") if isinstance(annotation, dict) else None
        if isinstance(joints, list) and len(joints) in (count, len(skeleton)):
            used.add(canonical_text(annotation.get("category_id")))
    chosen = [entry for entry in entries if canonical_text(entry["id"]) in used]
    if chosen or len(entries) == 1:
        return chosen or list(entries)
    names = ", ".join(shorten(entry.get("name", entry["id"])) for entry in entries[:5])
    raise InputError(
        f"{path}: none of its {len(entries)} categories is a person: none lists joints, is named {PERSON}, or has "
        f"annotations with {len(skeleton)} keypoints ({names}); choose one by its name (--category NAME)"
    )


def plain_name(name: str) -> str:
    """The name of a category in small letters, with _ for spaces and hyphens."""
    return re.sub(r"[\s_-]+", "_", name.strip()).casefold()


def _name(entry: dict[str, Any]) -> str | None:
    name = entry.get("name")
    return plain_name(name) if isinstance(name, str) else None


def coco_category(skeleton: Skeleton) -> dict[str, Any]:
    """The category of an annotation file that names the joints and limbs of a skeleton; COCO counts joints from 1."""
    name = "person" if skeleton == COCO else skeleton.name
    limbs = [[a + 1, b + 1] for a, b in skeleton.limbs]
    return {"id": 1, "name": name, "keypoints": list(skeleton.joints), "skeleton": limbs}
