"""The index of an annotation file's images: ids of every type, references in other spellings, names, twins."""

import unicodedata
import uuid

import numpy as np
import pytest

from kdlib.errors import InputError
from kdlib.inputs.image_index import ImageIndex
from kdlib.inputs.names import normalise_name
from kdlib.inputs.notices import Notices


def image(identity, name, width=64, height=48, **others):
    return {"id": identity, "file_name": name, "width": width, "height": height, **others}


def index_of(ids, notices=None):
    return ImageIndex.from_entries([image(i, f"{n}.jpg") for n, i in enumerate(ids)], "a.json", notices)


@pytest.mark.parametrize("ids", [[139, 0, -7], [2**63 - 1, -(2**63)], [139.0, 7]])
def test_integers_of_64_bits_are_kept(ids):
    notices = Notices()
    index = index_of(ids, notices)
    assert index.id.dtype == np.int64
    assert index.id.tolist() == ids
    assert index.original_id == ids
    assert not notices


@pytest.mark.parametrize("odd", ["a", "139", str(uuid.UUID(int=7)), 2**63, 2**127, 1.5, 1e300])
def test_one_id_of_another_type_numbers_all_ids_in_the_order_of_the_file(odd):
    notices = Notices()
    index = index_of([900, odd, -3], notices)
    assert index.id.tolist() == [1, 2, 3]
    assert [index.find_id(i) for i in (900, odd, -3)] == [0, 1, 2]
    (line,) = notices.lines()
    assert "images numbered 1, 2, ..." in line
    assert ": 3 (" in line


@pytest.mark.parametrize("bad", [None, True, [1], {"a": 1}, float("nan"), float("inf")])
def test_an_id_that_is_neither_number_nor_text_is_refused_with_its_entry(bad):
    with pytest.raises(InputError, match=r"a\.json: images\[1\] has the id .*; an id must be a number or a text"):
        index_of([1, bad])


@pytest.mark.parametrize("entry", [7, None, [], {}, {"file_name": "a.jpg"}])
def test_an_entry_that_is_no_image_is_refused(entry):
    with pytest.raises(InputError, match=r"a\.json: images\[1\] is .*, not an object with an id and a file_name"):
        ImageIndex.from_entries([image(1, "0.jpg"), entry], "a.json")


def test_references_are_found_in_other_spellings_if_only_one_id_has_them():
    numbers = index_of([139, 7])
    for reference in (139, 139.0, "139", " 139 ", "000139", "139.0", "+139"):
        assert numbers.find_id(reference) == 0
    for reference in ("0139x", 1390, None, True, [139], float("nan"), "9" * 5000):
        assert numbers.find_id(reference) is None
    texts = index_of(["0139", "139", "b"])
    assert texts.find_id("139") == 1
    assert texts.find_id("0139") == 0
    assert texts.find_id(139) is None  # it could be either
    assert index_of(["e\u0301"]).find_id("\u00e9") == 0


def test_true_is_not_the_image_1():
    assert index_of([1, 0]).find_id(True) is None
    assert index_of([1, 0]).find_id(False) is None


def test_equal_entries_are_used_once_and_counted():
    notices = Notices()
    index = ImageIndex.from_entries([image(5, "a.jpg"), image(6, "b.jpg"), image(5.0, "a.jpg")], "a.json", notices)
    assert index.id.tolist() == [5, 6]
    assert notices.lines() == ["images listed twice, used once: 1 (image 5.0)"]


@pytest.mark.parametrize(
    ("other", "key"),
    [
        (image(5, "b.jpg"), "id 5"),
        (image(5, "a.jpg", width=65), "id 5"),
        (image(6, "a.jpg"), "file_name 'a.jpg'"),
        (image(6, "./a.jpg"), "file_name './a.jpg'"),
    ],
)
def test_different_entries_with_one_id_or_name_are_refused_and_both_are_named(other, key):
    with pytest.raises(InputError) as caught:
        ImageIndex.from_entries([image(5, "a.jpg"), image(9, "c.jpg"), other], "a.json")
    message = str(caught.value)
    assert f"a.json: two images have the {key}: images[0] " in message
    assert "and images[2] " in message


def test_a_twin_among_150000_images_is_found():
    """A quadratic search takes minutes here."""
    entries = [image(i, f"{i}") for i in range(150_000)]
    entries[-1]["id"] = 7
    with pytest.raises(InputError, match=r"images\[7\] \['7', 64, 48\] and images\[149999\] \['149999', 64, 48\]"):
        ImageIndex.from_entries(entries, "a.json")


def test_names_are_compared_in_one_unicode_form_and_with_one_separator():
    decomposed = "gar\u00e7on/e\u0301te\u0301.jpg"
    assert normalise_name(decomposed) == unicodedata.normalize("NFC", decomposed)
    index = ImageIndex.from_entries([image(1, decomposed), image(2, "b\\c.jpg")], "a.json")
    assert index.file_name == [decomposed, "b\\c.jpg"]
    assert normalise_name(".\\b\\c.jpg") == "b/c.jpg"


@pytest.mark.parametrize("name", [None, 7, "", " ", ["a.jpg"], "a\0.jpg"])
def test_an_image_without_a_name_is_refused(name):
    with pytest.raises(InputError, match=r"a\.json: image 4 \(images\[0\]\) has the file_name .* name of an image"):
        ImageIndex.from_entries([image(4, name)], "a.json")


def test_whole_numbers_are_sizes_also_when_written_as_fractions():
    index = ImageIndex.from_entries([image(4, "a.jpg", 640.0, 480)], "a.json")
    assert index.size.dtype == np.int32
    assert index.size.tolist() == [[640, 480]]


@pytest.mark.parametrize("bad", [None, 0, -5, 640.5, "640", True, float("nan"), float("inf"), [640], 2**31])
def test_other_sizes_are_refused(bad):
    for entry in (image(4, "a.jpg", bad, 480), image(4, "a.jpg", 480, bad)):
        with pytest.raises(InputError, match=r"a\.json: image 4 \(images\[0\]\) has width, height .*positive whole"):
            ImageIndex.from_entries([entry], "a.json")


def test_sizes_may_be_missing_where_they_are_not_needed():
    index = ImageIndex.from_entries([{"id": 4, "file_name": "a.jpg"}], "a.json", sizes=False)
    assert index.size.tolist() == [[0, 0]]
    with pytest.raises(InputError, match="width, height"):
        ImageIndex.from_entries([image(4, "a.jpg", "640", 480)], "a.json", sizes=False)


def test_no_images_are_an_empty_index():
    index = ImageIndex.from_entries([], "a.json")
    assert len(index) == 0
    assert index.size.shape == (0, 2)
    assert index.find_id(1) is None
