"""Mutated box files: the right boxes or one line, never a traceback, never another image's boxes.

Every box states its image: its x is ten times the image's position. So a box that is given to another image shows.
"""

import codecs
import copy
import gzip
import json
import unicodedata

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="the extra [dev] is not installed")
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlib.errors import InputError
from kdlib.inputs.boxes import BoxFile
from kdlib.inputs.image_index import ImageIndex

STEMS = ["0", "1", "2", "3", "01", "000001", "000002", "7.5", "caf\u00e9", "a b", "x"]
FOLDERS = ["", "", "", "a/", "b/", "a/b/"]
JUNK = [None, True, [], {}, [1], {"a": 1}, "", " ", "nothing", float("nan"), float("inf"), -(10**6), 10**30, 0.5]
JOINTLESS = [{"id": 0, "name": "things"}, {"id": 1, "name": "dog"}, {"id": 2, "name": "person"}]


@st.composite
def worlds(draw):
    """Names and ids of images: N different paths, and N different ids that may be numbers in other images' names."""
    names = draw(
        st.lists(
            st.tuples(st.sampled_from(FOLDERS), st.sampled_from(STEMS), st.sampled_from([".jpg", ".png"])),
            min_size=1,
            max_size=6,
            unique=True,
        )
    )
    ids = draw(st.permutations(draw(st.sampled_from([[0, 1, 2, 3, 4, 5], [1, 2, 3, 7, 139, 10**12]]))))
    return ["".join(parts) for parts in names], ids[: len(names)]


def box_of(position, number):
    return [10 * position, number, 60, 50]


SPELLINGS = {
    "name": lambda name, _: {"file_name": name},
    "image": lambda name, _: {"image": name.replace("/", "\\")},
    "long name": lambda name, _: {"image_name": f"/data/set/{name}"},
    "base name": lambda name, _: {"file_name": name.rpartition("/")[2]},
    "name as id": lambda name, _: {"image_id": unicodedata.normalize("NFD", name)},
    "stem": lambda name, _: {"image_id": name.rpartition(".")[0]},
    "base stem": lambda name, _: {"image_id": name.rpartition("/")[2].rpartition(".")[0]},
    "id": lambda _, image_id: {"image_id": image_id},
    "text id": lambda _, image_id: {"image_id": str(image_id)},
    "padded id": lambda _, image_id: {"image_id": f"{image_id:012d}"},
    "both": lambda name, image_id: {"image_id": image_id, "file_name": name},
}


BY_BASE = ("base name", "base stem")
BY_NAME = ("name", "image", "long name", "name as id", "stem", "both", *BY_BASE)

CLEAR = ("name", "image", "long name", "name as id", "both", "id")
"""Spellings that mean one image, or none, also where parts of the file are gone."""


@st.composite
def files(draw):
    """A world, and a box file for it: its document, its bytes, and whether its ids are listed in the file itself."""
    names, ids = draw(worlds())
    spell = SPELLINGS[style := draw(st.sampled_from(sorted(SPELLINGS)))]
    rows, truth = [], {}
    for number, position in enumerate(draw(st.lists(st.integers(0, len(names) - 1), min_size=1, max_size=8))):
        score = draw(st.sampled_from([0.5, "0.25", 1]))
        rows.append({**spell(names[position], ids[position]), "bbox": box_of(position, number), "score": score})
        truth.setdefault(position, []).append([*box_of(position, number), float(score)])
    wrapper = draw(st.sampled_from(["", "annotations", "detections", "results", "predictions"]))
    document = {wrapper: rows} if wrapper else rows
    listed = bool(wrapper) and draw(st.booleans())
    if listed:
        folder = draw(st.sampled_from(["", "set/"]))
        document["images"] = [{"id": i, "file_name": folder + name} for name, i in zip(names, ids, strict=True)]
        document["images"] = draw(st.permutations(document["images"]))
    if wrapper and draw(st.booleans()):
        document["categories"] = draw(st.permutations(JOINTLESS))
        for row in rows:
            row["category_id"] = draw(st.sampled_from([2, "2", 2.0]))
        rows.append({**rows[0], "category_id": 1, "bbox": [900, 0, 9, 9]})
    return names, ids, document, truth, style, listed


@st.composite
def broken(draw):
    """As `files`, with some values of the document replaced by junk, or removed."""
    names, ids, document, truth, style, _ = draw(files())
    document = copy.deepcopy(document)
    for junk in draw(st.permutations(JUNK))[: draw(st.integers(1, 4))]:  # never the same junk as id and as reference
        places = list(walk(document))
        if not places:
            break
        parent, key = draw(st.sampled_from(places))
        if draw(st.booleans()):
            parent[key] = copy.deepcopy(junk)
        else:
            del parent[key]
    return names, ids, document, truth, style


def walk(value):
    """Every place in a document: its object or list, and the key in it."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(pairs):
        yield value, key
        yield from walk(inner)


ENCODINGS = [
    lambda text: text.encode(),
    lambda text: codecs.BOM_UTF8 + text.encode(),
    lambda text: text.encode("utf-16"),
    lambda text: text.encode("utf-16-le"),
    lambda text: gzip.compress(text.encode(), mtime=0),
]


def readers(path, names, ids):
    """What precompute and predict read: boxes and scores by image; None where the file is refused in one line."""
    images = [{"id": i, "file_name": name, "width": 300, "height": 200} for name, i in zip(names, ids, strict=True)]
    calls = (
        lambda: BoxFile(path).match_index(ImageIndex.from_entries(images, "a.json")),
        lambda: BoxFile(path).match_names(names, "pictures"),
        lambda: BoxFile(path).match_frames("x.mp4"),
    )
    for call in calls:
        found, line = None, str(path)
        try:
            found = call().by_image()
        except InputError as error:
            line = str(error)
        assert str(path) in line
        assert "\n" not in line
        yield found and {i: np.column_stack([boxes.xywh, boxes.scores]).tolist() for i, boxes in found.items()}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("boxes") / "boxes.json"


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(files(), st.sampled_from(ENCODINGS))
def test_every_spelling_gives_the_right_boxes_or_one_line(path, file, encode):
    names, ids, document, truth, style, listed = file
    path.write_bytes(encode(json.dumps(document, ensure_ascii=False)))
    by_index, by_names, _ = readers(path, names, ids)
    by_name = style in BY_NAME or listed
    if style not in BY_BASE or len({n.rpartition("/")[2].rpartition(".")[0] for n in names}) == len(names):
        for found in (by_index, by_names if by_name else None):
            assert not found or all(truth.get(i) == boxes for i, boxes in found.items())
    if style in ("name", "image", "name as id", "both"):
        assert by_index == by_names == truth
    if style == "id":
        numbers = {stem.lstrip("0") or "0" for stem in (n.rpartition("/")[2].rpartition(".")[0] for n in names)}
        assert by_index == truth or not set(map(str, ids)) - numbers
        assert by_names == truth or not listed


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(broken())
def test_a_broken_file_gives_no_image_another_ones_boxes(path, file):
    names, ids, document, truth, style = file
    path.write_text(json.dumps(document))
    by_index, _, _ = readers(path, names, ids)
    if style not in CLEAR:
        return
    right = {tuple(box[:4]): i for i, boxes in truth.items() for box in boxes}
    for i, boxes in (by_index or {}).items():
        for box in boxes:
            assert right.get(tuple(box[:4]), i) == i or box[0] == 900


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(
    st.recursive(
        st.sampled_from(JUNK) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "image_id",
                        "file_name",
                        "bbox",
                        "score",
                        "images",
                        "annotations",
                        "categories",
                        "id",
                        "category_id",
                    ]
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=20,
    )
)
def test_any_document_is_read_or_refused_in_one_line(path, document):
    path.write_text(json.dumps(document))
    list(readers(path, ["1.jpg", "a.jpg"], [1, 2]))
