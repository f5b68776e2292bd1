"""Which categories are persons: by what the file lists, never by the number 1."""

import pytest

from kdlib.errors import InputError
from kdlib.inputs.categories import choose_categories
from kdlib.inputs.notices import Notices
from kdlib.skeletons.skeleton import COCO, Skeleton

LABELLED = [1, 2, 2] * 17


def category(identity, name=None, keypoints=None):
    return {"id": identity} | ({"name": name} if name else {}) | ({"keypoints": keypoints} if keypoints else {})


def chosen(entries, annotations=()):
    return choose_categories(entries, annotations, "a.json").persons


@pytest.mark.parametrize("person", [0, 1, 2, "person", "b", -5])
def test_the_category_with_cocos_joints_is_the_person_whatever_its_id(person):
    dogs = category(1 if person != 1 else 9, "dog", ["nose", "tail"])
    assert chosen([dogs, category(person, "human", list(COCO.joints))]) == [person]
    assert chosen([category(person, "human", list(COCO.joints)), dogs, category(77, "person")]) == [person]


def test_names_of_joints_may_have_capitals_spaces_and_hyphens():
    names = [name.replace("_", separator) for name, separator in zip(COCO.joints, "_ -" * 6, strict=False)]
    assert chosen([category(4, "x", [name.title() for name in names])]) == [4]


def test_of_several_categories_with_cocos_joints_the_one_named_person_is_used_and_said():
    notices = Notices()
    entries = [category(1, "ape", list(COCO.joints)), category(2, "Person", list(COCO.joints)), category(3, "car")]
    found = choose_categories(entries, [], "a.json", notices)
    assert (found.persons, found.others) == ([2], [1, 3])
    assert "'Person'" in notices.lines()[0]
    both = [category(1, "man", list(COCO.joints)), category(2, "woman", list(COCO.joints))]
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


def arranged(joints, **options):
    entries = [category(3, "dog", ["tail"]), category(1, "person", joints)]
    return choose_categories(entries, [], "a.json", **options).arranged


def test_joints_in_another_order_are_reordered_and_noted():
    notices = Notices()
    given = ["Nose", "right eye", "L_Eye", *COCO.joints[3:]]
    found = arranged(given, notices=notices)
    assert found.skeleton is COCO
    assert [given[k] for k in found.order[:3]] == ["Nose", "L_Eye", "right eye"]
    assert "joints reordered to COCO's order" in next(iter(notices.to_json()))


def test_other_joints_make_a_skeleton_of_their_own():
    joints = ["nose", "head_bottom", *COCO.joints[2:]]
    entry = category(1, "person", joints) | {"skeleton": [[1, 2], [17, 3], [1, 99], "x"]}
    notices = Notices()
    found = choose_categories([entry], [], "a.json", notices).arranged
    assert (found.skeleton.joints, found.skeleton.name) == (tuple(joints), "person")
    assert found.skeleton.limbs == ((0, 1), (16, 2))
    assert (3, 4) in found.skeleton.flip_pairs
    assert not found.skeleton.sigmas_source
    assert not found.is_reordered
    assert "limbs that are not pairs" in next(iter(notices.to_json()))


def test_a_wanted_skeleton_must_be_that_of_the_file():
    wanted = Skeleton("ends", ("head", "left_tail"))
    assert arranged(["l tail", "HEAD"], skeleton=wanted).order == (1, 0)
    with pytest.raises(InputError, match=r"a\.json: the category 'person': these are not the joints of ends: joint 2"):
        arranged(["head", "tail"], skeleton=wanted)


@pytest.mark.parametrize("joints", [[7] * 17, "nose", ["nose", " "]])
def test_joints_that_are_no_names_are_refused(joints):
    with pytest.raises(
        InputError, match=r"a\.json: the category 'person' has the keypoints .* must be a list of names"
    ):
        arranged(joints)


def test_a_name_twice_is_refused():
    with pytest.raises(InputError, match="two joints named 'tip'"):
        arranged(["tip", "tip"])


def test_a_category_is_chosen_by_its_name():
    entries = [category(1, "cat", ["a", "b"]), category(2, "Big Dog", ["c"]), category(3, "person")]
    found = choose_categories(entries, [], "a.json", category="big_dog")
    assert (found.persons, found.arranged.skeleton.joints) == ([2], ("c",))
    with pytest.raises(InputError, match="has no category named 'cow'; it has 'cat', 'Big Dog', 'person'"):
        choose_categories(entries, [], "a.json", category="cow")
    with pytest.raises(InputError, match="'cat' and 'Big Dog' have different joints; choose one by its name"):
        choose_categories(entries[:2], [], "a.json")
    alike = [category(1, "cat", ["a", "b"]), category(2, "dog", ["a", "b"])]
    assert choose_categories(alike, [], "a.json").persons == [1, 2]


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
