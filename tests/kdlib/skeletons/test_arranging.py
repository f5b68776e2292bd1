"""The joints of a file by their names: which skeleton they are, and in which order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlib.errors import SkeletonError
from kdlib.skeletons.reading import arrange, find_joint, flip_pairs_by_name, load_skeleton
from kdlib.skeletons.skeleton import COCO, Skeleton

SPELLINGS = [
    str,
    str.upper,
    lambda name: name.replace("_", " "),
    lambda name: name.replace("_", "-").title(),
    lambda name: name.replace("left_", "L_").replace("right_", "R_"),
    lambda name: "".join(word.title() for word in name.split("_")),
]


@given(st.sampled_from(["coco", "mpii", "crowdpose", "ap10k", "halpe26", "coco_wholebody_hand"]), st.data())
@settings(max_examples=80, deadline=None)
def test_joints_in_any_order_and_spelling_are_those_of_the_built_in_skeleton(name, data):
    skeleton = load_skeleton(name)
    shuffled = data.draw(st.permutations(range(len(skeleton))))
    spell = data.draw(st.sampled_from(SPELLINGS))
    found = arrange([spell(skeleton.joints[joint]) for joint in shuffled])
    assert found.skeleton == skeleton
    assert np.array(shuffled)[list(found.order)].tolist() == list(range(len(skeleton)))
    assert found.is_reordered == (list(shuffled) != sorted(shuffled))


@given(st.permutations(range(17)))
@settings(max_examples=40, deadline=None)
def test_reordering_and_mirroring_commute(shuffled):
    """Joints that a file mirrors in its own order, then brought into COCO's, are those mirrored in COCO's order."""
    names = [COCO.joints[joint] for joint in shuffled]
    order = list(arrange(names).order)
    points = np.random.default_rng(0).normal(size=(17, 3))
    of_file = np.arange(17)
    for one, other in flip_pairs_by_name(names):
        of_file[[one, other]] = other, one
    np.testing.assert_array_equal(points[of_file][order], points[order][COCO.flip_order])


def test_names_in_the_order_of_the_wanted_skeleton_are_it_whatever_they_are():
    signs = Skeleton("signs", ("kp+", "kp-", "?"))
    assert arrange(signs.joints, wanted=signs).order == (0, 1, 2)
    with pytest.raises(SkeletonError, match=r"these are not the joints of signs: joint 1 is 'kp-', not 'kp\+'"):
        arrange(("kp-", "kp+", "?"), wanted=signs)


def test_other_names_make_a_skeleton_with_assumed_sigmas():
    found = arrange(["nose", "l_ear", "r_ear"], ((0, 1),), name="dog")
    assert found.skeleton == Skeleton("dog", ("nose", "l_ear", "r_ear"), ((1, 2),), ((0, 1),))
    assert not found.skeleton.sigmas_source
    assert arrange(COCO.joints[:16]).skeleton.name == "custom"


@pytest.mark.parametrize("count", [16, 18])
def test_another_number_than_the_wanted_one_is_refused(count):
    names = [*COCO.joints, "tail"][:count]
    with pytest.raises(SkeletonError, match=f"these are not the joints of coco: {count} joints, not 17"):
        arrange(names, wanted=COCO)


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["left_eye", "right_eye"], ((0, 1),)),
        (["eye_r", "nose", "eye_l"], ((2, 0),)),
        (["EyeL", "EyeR"], ((0, 1),)),
        (["LEye", "REye"], ((0, 1),)),
        (["eye (left)", "eye (right)"], ((0, 1),)),
        (["lt-paw", "rt-paw", "paw"], ((0, 1),)),
        (["front left paw", "front right paw", "back left paw", "back right paw"], ((0, 1), (2, 3))),
        (["left_eye", "right_ear"], ()),
        (["leftover", "rightover"], ()),
        (["left eye", "left_eye", "right_eye"], ()),  # two joints of one name
    ],
)
def test_flip_pairs_come_from_the_sides_in_the_names(names, pairs):
    assert flip_pairs_by_name(names) == pairs


def test_a_joint_is_found_by_its_name_in_another_spelling():
    assert find_joint("L_Ear", COCO.joints) == 3
    assert find_joint("ear", COCO.joints) is None
    assert find_joint("left ear", ["left_ear", "LEFT-EAR"]) is None
