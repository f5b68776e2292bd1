"""Which categories are persons: by what the file lists, never by the number 1."""

import pytest

from kdlib.errors import InputError
from kdlib.inputs.categories import choose_categories
from kdlib.inputs.notices import Notices
from kdlib.skeleton import JOINTS

LABELLED = [1, 2, 2] * 17


def category(identity, name=None, keypoints=None):
    return {"id": identity} | ({"name": name} if name else {}) | ({"keypoints": keypoints} if keypoints else {})


def chosen(entries, annotations=()):
    return choose_categories(entries, annotations, "a.json").persons


@pytest.mark.parametrize("person", [0, 1, 2, "person", "b", -5])
def test_the_category_with_cocos_joints_is_the_person_whatever_its_id(person):
    dogs = category(1 if person != 1 else 9, "dog", ["nose", "tail"])
    assert chosen([dogs, category(person, "human", list(JOINTS))]) == [person]
    assert chosen([category(person, "human", list(JOINTS)), dogs, category(77, "person")]) == [person]


def test_names_of_joints_may_have_capitals_spaces_and_hyphens():
    names = [name.replace("_", separator) for name, separator in zip(JOINTS, "_ -" * 6, strict=False)]
    assert chosen([category(4, "x", [name.title() for name in names])]) == [4]


def test_of_several_categories_with_cocos_joints_the_one_named_person_is_used_and_said():
    notices = Notices()
    entries = [category(1, "ape", list(JOINTS)), category(2, "Person", list(JOINTS)), category(3, "car")]
    found = choose_categories(entries, [], "a.json", notices)
    assert (found.persons, found.others) == ([2], [1, 3])
    assert "'Person'" in notices.lines()[0]
    both = [category(1, "man", list(JOINTS)), category(2, "woman", list(JOINTS))]
    assert chosen(both) == [1, 2]


def test_without_listed_joints_the_name_decides_then_the_annotations_then_there_must_be_one():
    entries = [category(1, "dog"), category(2, " PERSON "), category(3, "cat")]
    assert chosen(entries) == [2]
    entries = [category(1, "dog"), category("7", "pedestrian")]
    assert chosen(entries, [{"category_id": 7, "keypoints": LABELLED}, {"category_id": 1, "keypoints": []}]) == ["7"]
    assert chosen([category(4, "pedestrian")]) == [4]
    assert chosen([]) == []
    with pytest.raises(InputError, match=r"none of its 2 categories is a person.*'dog', 'pedestrian'"):
        chosen(entries, [{"category_id": 7, "keypoints": [1, 2, 2]}, 7, {"category_id": None}])


@pytest.mark.parametrize(
    ("joints", "difference"),
    [
        ([JOINTS[0], JOINTS[2], JOINTS[1], *JOINTS[3:]], "joint 2 is 'right_eye', COCO's is 'left_eye'"),
        (["nose", "head_bottom", *JOINTS[2:]], "joint 2 is 'head_bottom', COCO's is 'left_eye'"),
        (list(JOINTS[:5]), "it has 5 joints"),
        ([*JOINTS, "neck"], "it has 18 joints"),
        ([7] * 17, "joint 1 is 7, COCO's is 'nose'"),
        ("nose", "its keypoints are 'nose', not a list of names"),
    ],
)
def test_other_joints_are_refused_with_the_first_difference(joints, difference):
    with pytest.raises(InputError) as caught:
        chosen([category(3, "dog", ["tail"]), category(1, "person", joints)])
    assert str(caught.value).startswith(f"a.json: the category 'person' does not have COCO's 17 joints: {difference};")


@pytest.mark.parametrize("bad", [None, 7, {}, {"id": None}, {"id": [1]}, {"id": True}])
def test_an_entry_without_an_id_is_refused(bad):
    with pytest.raises(InputError, match=r"a\.json: categories\[1\] "):
        chosen([category(1, "person"), bad])


def test_a_category_twice_is_used_once_and_two_with_one_id_are_refused():
    assert chosen([category(1, "person"), category(1, "person")]) == [1]
    with pytest.raises(InputError, match=r"two categories have the id 1: categories\[0\] .* and categories\[2\] "):
        chosen([category(1, "person"), category(2, "cat"), category(1, "dog")])


def test_references_are_found_in_other_spellings():
    found = choose_categories([category(1, "dog"), category(2, "person")], [], "a.json")
    assert [found.is_person(given) for given in (2, "2", 2.0, 1, "01", 3, None, True)] == [
        True,
        True,
        True,
        False,
        False,
        None,
        None,
        None,
    ]
    found = choose_categories([category("1", "dog"), category(1, "person")], [], "a.json")
    assert (found.is_person(1), found.is_person("1"), found.is_person("01")) == (True, False, None)
