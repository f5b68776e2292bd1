"""Annotation files that are written in unusual ways, or are damaged, and an independent reading of them.

`make` draws a small sound file, `respell` writes it in another way that means the same, `damage` puts a wrong value
somewhere. `clean` reads such a document without code of the project, and returns the file that pycocotools should see:
ids from 1, known areas, one entry per id; or None if the file has to be refused.
"""

import copy
import gzip
import json
import math
import random
import unicodedata
import uuid

import numpy as np

from kdlib.skeletons.skeleton import COCO

NAN, INFINITY = float("nan"), float("inf")
JUNK = (None, "", "x", " 7 ", [], {}, [1], {"id": 1}, True, False, NAN, INFINITY, -INFINITY, -1, 0, 0.5, 2**31, 2**63)
JUNK += (1e300, 10**30, "\ud800", "0", "NaN", [None], [[1, 2, 2]] * 17, [1] * 51, [0, 0, 0] * 17, ["a"] * 4, [5] * 4)


def make(rng):
    """A sound document of 2 to 4 images with persons far apart, some of them crowds or without labels, and dogs."""
    images, annotations = [], []
    for number in range(rng.randint(2, 4)):
        size = {"width": rng.randint(500, 900), "height": rng.randint(200, 400)}
        images.append({"id": 10 + 7 * number, "file_name": f"{number:03d}.jpg", **size, "license": 1})
        for place in range(rng.randint(0, 3) + (number == 0)):
            annotations.append(_person(rng, 10 + 7 * number, 160.0 * place, 500 + len(annotations)))
    annotations[0] |= {"iscrowd": 0, "keypoints": _joints(rng, annotations[0]["bbox"], 17)}
    category = {"id": 1, "name": "person", "keypoints": list(COCO.joints), "skeleton": [[1, 2]]}
    return {"info": {}, "images": images, "annotations": annotations, "categories": [category]}


def _person(rng, image, left, identity):
    box = [left + rng.uniform(1, 20), rng.uniform(1, 40), rng.uniform(40, 100), rng.uniform(60, 150)]
    labelled = rng.choice([0, 5, 12, 17])
    return {
        "id": identity,
        "image_id": image,
        "category_id": 1,
        "bbox": [round(x, 2) for x in box],
        "area": round(rng.uniform(1100, 12000), 1),
        "iscrowd": int(rng.random() < 0.1),
        "keypoints": _joints(rng, box, labelled),
        "num_keypoints": labelled,
    }


def _joints(rng, box, labelled):
    x, y, w, h = box
    joints = [
        [rng.randint(int(x), int(x + w)), rng.randint(int(y), int(y + h)), rng.choice([1, 2])] for _ in COCO.joints
    ]
    hidden = rng.sample(range(len(COCO.joints)), len(COCO.joints) - labelled)
    return [number for k, joint in enumerate(joints) for number in ([0, 0, 0] if k in hidden else joint)]


# --- other spellings --------------------------------------------------------------------------------------------------


def respell(document, rng):
    """The document in other words: some of many changes that do not change what it means."""
    document = copy.deepcopy(document)
    for change in rng.sample(CHANGES, rng.randint(1, 5)):
        change(document, rng)
    return document


def _image_ids(document, rng):
    spell = rng.choice(SPELLINGS)
    refer = rng.choice([lambda i: i, lambda i: str(i) if isinstance(i, int) else i])
    new = {image["id"]: spell(image["id"]) for image in document["images"]}
    _map(document["images"], "id", new.get)
    _map(document["annotations"], "image_id", lambda old: refer(new[old]) if old in new else old)


def _annotation_ids(document, rng):
    spell = rng.choice([*SPELLINGS, lambda i: i - 500])  # the last one has an annotation 0
    _map(document["annotations"], "id", spell)


SPELLINGS = [
    str,
    float,
    lambda i: f"{i:012d}",
    lambda i: str(uuid.UUID(int=i)),
    lambda i: 2**127 + i,
    lambda i: i + 0.25,
    lambda i: -i,
    lambda i: 10 - i,
    lambda i: 2**63 - 1000 + i,
]


def _areas(document, rng):
    for annotation in document["annotations"]:
        area = rng.choice([0, None, NAN, -7.5, "900", INFINITY, 10**400, False, annotation.get("area"), "missing"])
        annotation["area"] = area
        if area == "missing":
            del annotation["area"]


def _crowds(document, rng):
    spellings = {0: [0, None, False, 0.0, "0", "false"], 1: [1, True, 1.0, "1", "True"]}
    _map(
        document["annotations"],
        "iscrowd",
        lambda crowd: rng.choice(spellings[int(crowd)]) if crowd in (0, 1) else crowd,
    )


def _keypoints(document, rng):
    for annotation in document["annotations"]:
        joints = annotation.get("keypoints")
        if not joints or len(joints) != 3 * len(COCO.joints):
            continue
        triples = [joints[start : start + 3] for start in range(0, len(joints), 3)]
        for triple in triples:
            if triple[2] and rng.random() < 0.2:
                triple[2] = rng.choice([3, 0.5, True, 2.0])
            elif not triple[2] and rng.random() < 0.2:
                triple[:] = rng.choice([[None, None, 0], [NAN, NAN, 0.0], [0.0, 0.0, False], [3, 4, 0], [1, 1, -1]])
        annotation["keypoints"] = triples if rng.random() < 0.5 else [x for triple in triples for x in triple]
        if not any(triple[2] and triple[2] > 0 for triple in triples) and rng.random() < 0.5:
            annotation["keypoints"] = rng.choice([None, []])
        annotation["num_keypoints"] = rng.choice([0, None, 17, "x"])


def _sizes(document, rng):
    for image in document["images"]:
        image |= {"width": float(image["width"]), "height": float(image["height"])}


def _names(document, rng):
    spell = rng.choice([lambda n: f"data/{n}", lambda n: f"a\\b\\{n}", lambda n: f"/x/{n}", lambda n: f"e\u0301 {n}"])
    _map(document["images"], "file_name", spell)


def _twins(document, rng):
    for kind in ("images", "annotations"):
        entry = rng.choice(document[kind])
        document[kind].insert(rng.randint(0, len(document[kind])), {**copy.deepcopy(entry), "license": 9})


def _dogs(document, rng):
    """Dogs take the number of the persons."""
    old = document["categories"][0]["id"]
    person = rng.choice([0, 2, 17, "p", "person"])
    document["categories"][0]["id"] = person
    document["categories"].insert(0, {"id": old, "name": "dog", **rng.choice([{}, {"keypoints": ["tail"]}])})
    _map(document["annotations"], "category_id", lambda given: person)
    dog = {**document["annotations"][0], "id": "dog", "category_id": old, "keypoints": [1, 2, 2], "bbox": None}
    document["annotations"].insert(rng.randint(0, len(document["annotations"])), dog)


def _order(document, rng):
    for kind in ("images", "annotations", "categories"):
        rng.shuffle(document[kind])
        document[kind][:] = [dict(rng.sample(sorted(entry.items()), len(entry))) for entry in document[kind]]


def _joint_names(document, rng):
    for category in document["categories"]:
        if category["name"] == "person":
            spell = rng.choice([str.title, lambda name: name.replace("_", " "), lambda name: name.replace("_", "-")])
            category["keypoints"] = [spell(name) for name in category["keypoints"]]


def _no_category_ids(document, rng):
    if len(document["categories"]) == 1:
        for annotation in document["annotations"]:
            del annotation["category_id"]


CHANGES = [_image_ids, _annotation_ids, _areas, _crowds, _keypoints, _sizes, _names, _order, _joint_names]
LATE = [_dogs, _no_category_ids]
"""Changes of the categories, of which a file has one at most; they come last."""


def rewrite(document, rng):
    """Some harmless changes, and at most one of the categories."""
    document = respell(document, rng)
    if rng.random() < 0.4:
        rng.choice(LATE)(document, rng)
    if rng.random() < 0.4:
        _twins(document, rng)
    return document


def _map(entries, key, function):
    for entry in entries:
        if key in entry:
            entry[key] = function(entry[key])


# --- damage -----------------------------------------------------------------------------------------------------------


def damage(document, rng):
    """The document with one to three wrong, missing or repeated values at random places."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        places = [(holder, key) for holder, key in _places(document) if key not in ("info", "skeleton", "license")]
        holder, key = rng.choice(places)
        what = rng.random()
        if what < 0.15:
            del holder[key]
        elif what < 0.3 and isinstance(holder, list):
            holder.insert(rng.randint(0, len(holder)), copy.deepcopy(rng.choice(holder)))
        elif what < 0.4:
            others = [value for owner, name in places if name == key for value in [owner[name]]]
            holder[key] = copy.deepcopy(rng.choice(others))
        else:
            holder[key] = copy.deepcopy(rng.choice(JUNK))
    return document


def _places(value):
    """(holder, key) of every value in a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from _places(inner)


def write(document, path, rng):
    """Write a document in one of the encodings of JSON, some of them compressed."""
    text = json.dumps(document, ensure_ascii=rng.random() < 0.5)
    try:
        content = text.encode(rng.choice(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"]))
    except UnicodeEncodeError:  # half of a surrogate pair
        content = json.dumps(document).encode()
    path.write_bytes(gzip.compress(content, 1) if rng.random() < 0.2 else content)


# --- an independent reading -------------------------------------------------------------------------------------------


class Refused(Exception):  # noqa: N818 - the file has to be refused
    """The document does not say what its persons are."""


def clean(document):
    """The document as pycocotools should see it, and the positions of usable persons; None if it is to be refused."""
    try:
        return _clean(document)
    except Refused:
        return None


def _clean(document):
    _require(isinstance(document, dict))
    images, annotations, categories = (document.get(kind) for kind in ("images", "annotations", "categories"))
    _require(all(isinstance(entries, list) for entries in (images, annotations, categories)))
    images = _unique([_clean_image(image) for image in images])
    _require(len({_plain_name(image["file_name"]) for image in images}) == len(images))
    person = _persons(categories, annotations)
    persons = []
    for annotation in annotations:
        _require(isinstance(annotation, dict))
        if person(annotation):
            _require(_is_id(annotation.get("id")))
            kept = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "keypoints")
            persons.append({key: annotation.get(key) for key in kept})
    persons = _unique(persons)
    cleaned, usable = [], []
    ranked = _ranked([image["id"] for image in images])
    for number, annotation in enumerate(persons):
        place = _find(annotation["image_id"], [image["id"] for image in images])
        cleaned.append(_clean_person(annotation, number + 1, ranked[place]))
        x, y, w, h = cleaned[-1]["bbox"]
        image = images[place]
        # as HRNet clips: the last pixel of a box is at x + w - 1 and must lie after its first one
        inside = min(image["width"] - 1, x + max(w - 1, 0)) > max(0, x) and (
            min(image["height"] - 1, y + max(h - 1, 0)) > max(0, y)
        )
        if not cleaned[-1]["iscrowd"] and cleaned[-1]["num_keypoints"] and inside:
            usable.append(number)
    _require(usable)
    category = {"id": 1, "name": "person", "keypoints": list(COCO.joints), "skeleton": []}
    return {
        "images": [{"id": number + 1} for number in range(len(images))],
        "annotations": cleaned,
        "categories": [category],
    }, usable


def _clean_image(image):
    _require(isinstance(image, dict) and _is_id(image.get("id")))
    name, sides = image.get("file_name"), (image.get("width"), image.get("height"))
    _require(isinstance(name, str) and name.strip() and "\ud800" not in name)
    _require(all(_is_real(side) and 0 < side < 2**31 and side == int(side) for side in sides))
    return {"id": image["id"], "file_name": name, "width": int(sides[0]), "height": int(sides[1])}


def _clean_person(annotation, identity, image):
    box, area, crowd = annotation["bbox"], annotation["area"], annotation["iscrowd"]
    _require(isinstance(box, list) and len(box) == 4 and all(map(_is_coordinate, box)))
    if not _is_real(area) or not 0 < area < 2**62:
        area = max(0, box[2]) * max(0, box[3])
    crowd = {None: 0, "": 0}.get(crowd, crowd) if crowd is None or isinstance(crowd, str) else crowd
    crowd = {"0": 0, "1": 1, "false": 0, "true": 1}.get(crowd.lower(), crowd) if isinstance(crowd, str) else crowd
    _require(isinstance(crowd, (int, float)) and crowd in (0, 1))
    joints = _clean_joints(annotation["keypoints"])
    return {
        "id": identity,
        "image_id": image,
        "category_id": 1,
        "bbox": [float(x) for x in box],
        "area": float(area),
        "iscrowd": int(crowd),
        "keypoints": joints,
        "num_keypoints": sum(v > 0 for v in joints[2::3]),
    }


def _clean_joints(joints):
    if joints is None or joints == []:
        return [0] * 51
    _require(isinstance(joints, list))
    if all(isinstance(joint, list) for joint in joints):
        _require(len(joints) == 17 and all(len(joint) == 3 for joint in joints))
        joints = [x for joint in joints for x in joint]
    _require(len(joints) == 51)
    found = []
    for start in range(0, 51, 3):
        x, y, v = joints[start : start + 3]
        if _is_nothing(x) and _is_nothing(y) and (_is_nothing(v) or (_is_coordinate(v) and v <= 0)):
            x = y = v = 0
        _require(all(map(_is_coordinate, (x, y, v))))
        found += [float(np.float32(x)), float(np.float32(y)), float(v)]
    return found


def _persons(categories, annotations):
    """A function that says whether an annotation is a person."""
    categories = _unique_categories(categories)
    plain = {
        id(category): [n.strip().lower().replace(" ", "_").replace("-", "_") for n in category["keypoints"]]
        for category in categories
        if isinstance(category.get("keypoints"), list) and all(isinstance(n, str) for n in category["keypoints"])
    }
    listed = [category for category in categories if category.get("keypoints")]
    chosen = [category for category in listed if plain.get(id(category)) == list(COCO.joints)]
    _require(chosen or not listed)
    named = [
        c for c in chosen or categories if isinstance(c.get("name"), str) and c["name"].strip().lower() == "person"
    ]
    chosen = named or chosen
    if not chosen:  # the only category, or those with COCO's number of keypoints
        counts = [a for a in annotations if isinstance(a, dict) and isinstance(a.get("keypoints"), list)]
        used = {_text(a.get("category_id")) for a in counts if len(a["keypoints"]) in (17, 51)}
        chosen = [category for category in categories if _text(category["id"]) in used] or categories[:2]
        _require(len(chosen) == 1 or used & {_text(category["id"]) for category in categories})
    ids = [category["id"] for category in categories]

    def is_person(annotation):
        given = annotation.get("category_id")
        if given is None:
            _require(len(ids) == 1)
            return True
        _require(_is_id(given))
        place = _find(given, ids, strict=False)
        _require(place is not None or not annotation.get("keypoints"))
        return place is not None and any(category is categories[place] for category in chosen)

    return is_person


def _unique_categories(categories):
    kept = []
    for category in categories:
        _require(isinstance(category, dict) and _is_id(category.get("id")))
        same = [other for other in kept if other["id"] == category["id"]]
        _require(not same or same[0] == category)
        kept += [] if same else [category]
    return kept


def _unique(entries):
    kept = []
    for entry in entries:
        same = [other for other in kept if other["id"] == entry["id"]]
        _require(not same or same[0] == entry or str(same[0]) == str(entry))  # NaN differs from NaN
        kept += [] if same else [entry]
    return kept


def _ranked(ids):
    """Numbers from 1 in the order in which images are evaluated: by id if all are 64-bit integers, else as listed."""
    whole = all(_is_real(i) and i == int(i) and -(2**63) <= int(i) < 2**63 for i in ids)
    order = sorted(range(len(ids)), key=lambda place: int(ids[place])) if whole else range(len(ids))
    return {place: rank + 1 for rank, place in enumerate(order)}


def _find(given, ids, *, strict=True):
    """The position of a reference among ids: the same value, or the only one with the same text."""
    _require(_is_id(given) or not strict)
    equal = [place for place, i in enumerate(ids) if i == given]
    found = equal or [place for place, i in enumerate(ids) if _text(i) == _text(given)]
    _require(len(found) == 1 or not strict)
    return found[0] if len(found) == 1 else None


def _text(value):
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    text = unicodedata.normalize("NFC", str(value)).strip()
    digits = text[1:] if text[:1] in ("+", "-") and text[1:] else text
    return str(int(text)) if digits.isascii() and digits.isdigit() else text


def _plain_name(name):
    name = unicodedata.normalize("NFC", name).replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    return name


def _is_id(value):
    return isinstance(value, str) or _is_real(value)


def _is_real(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -INFINITY < value < INFINITY


def _is_coordinate(value):
    return isinstance(value, (int, float)) and -(2**31) < value < 2**31


def _is_nothing(value):
    return value is None or value != value  # noqa: PLR0124 - NaN


def _require(condition):
    if not condition:
        raise Refused


def seeded(seed):
    """A generator of random numbers, equal on all machines."""
    return random.Random(seed)
