"""The built-in skeletons: complete, consistent, and with the published numbers."""

import re

import numpy as np
import pytest

from kdlib.skeletons.reading import arrange, built_in_names, flip_pairs_by_name, load_skeleton
from kdlib.skeletons.skeleton import COCO, Skeleton, without_side

JOINTS = {
    "aic": 14,
    "ap10k": 17,
    "coco": 17,
    "coco_wholebody": 133,
    "coco_wholebody_face": 68,
    "coco_wholebody_hand": 21,
    "crowdpose": 14,
    "halpe26": 26,
    "mpii": 16,
}
SYMMETRIC = {"ap10k", "coco", "coco_wholebody_hand", "crowdpose", "halpe26", "mpii"}
"""Skeletons whose published sigmas are equal for left and right."""
SUMS = {"aic": 0.30056174, "coco_wholebody_face": 1.137, "coco_wholebody_hand": 0.553, "mpii": 1.288}
"""Sums of the sigmas in the files that `sigmas_source` names, where these are not COCO's."""
FEET = {f"{side}_{part}": 0.089 for side in ("left", "right") for part in ("big_toe", "small_toe", "heel")}
LIKE_COCO = {"front_paw": "wrist", "back_paw": "ankle"}


def test_all_published_skeletons_are_built_in():
    assert {name: len(load_skeleton(name)) for name in built_in_names()} == JOINTS


@pytest.mark.parametrize("name", JOINTS)
def test_a_built_in_skeleton_is_consistent(name):
    skeleton = load_skeleton(name)
    assert skeleton.name == name
    assert skeleton.sigmas_source
    pairs = [frozenset(pair) for pair in (*skeleton.flip_pairs, *skeleton.limbs)]
    assert all(len(pair) == 2 for pair in pairs)
    assert len(set(skeleton.limbs)) == len(skeleton.limbs)
    np.testing.assert_array_equal(skeleton.flip_order[skeleton.flip_order], np.arange(len(skeleton)))
    np.testing.assert_array_equal(skeleton.is_upper[skeleton.flip_order], skeleton.is_upper)
    assert Skeleton.from_json(skeleton.to_json(), name) == skeleton


@pytest.mark.parametrize("name", JOINTS)
def test_joints_that_state_a_side_swap_with_the_other_side(name):
    skeleton = load_skeleton(name)
    sides = [joint for joint, side in enumerate(skeleton.sides) if side != "mid"]
    assert {joint for joint in sides if skeleton.flip_order[joint] == joint} == set()
    by_name = set(flip_pairs_by_name(skeleton.joints))
    assert by_name == {pair for pair in skeleton.flip_pairs if "face" not in skeleton.joints[pair[0]]}


@pytest.mark.parametrize("name", sorted(SYMMETRIC))
def test_sigmas_that_are_published_alike_for_both_sides_are_alike(name):
    skeleton = load_skeleton(name)
    np.testing.assert_array_equal(skeleton.spreads[skeleton.flip_order], skeleton.spreads)


@pytest.mark.parametrize("name", sorted(SUMS))
def test_sigmas_are_as_many_and_as_large_as_those_of_the_source(name):
    assert sum(load_skeleton(name).sigmas) == pytest.approx(SUMS[name], abs=1e-9)


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("ap10k", {"neck": 0.035, "root_of_tail": 0.035}),
        ("crowdpose", {"head": 0.079, "neck": 0.079}),
        ("halpe26", {"head": 0.08, "neck": 0.08, "hip": 0.08} | FEET),
    ],
)
def test_sigmas_of_cocos_joints_are_cocos(name, others):
    coco = dict(zip((without_side(joint) for joint in COCO.joints), COCO.sigmas, strict=True))
    skeleton = load_skeleton(name)
    for joint, sigma in zip(skeleton.joints, skeleton.sigmas, strict=True):
        part = without_side(joint).replace(" ", "_")
        assert sigma == (others[joint] if joint in others else coco[LIKE_COCO.get(part, part)]), joint


def test_the_whole_body_is_the_body_the_feet_the_face_and_two_hands():
    whole, face, hand = (load_skeleton(f"coco_wholebody{part}") for part in ("", "_face", "_hand"))
    assert whole.joints[:17] == COCO.joints
    assert whole.sigmas[:17] == COCO.sigmas
    assert (whole.joints[23:91], whole.sigmas[23:91]) == (face.joints, face.sigmas)
    for start, side in ((91, "left"), (112, "right")):
        found = [re.sub(f"^{side}_(hand_root)?", "", joint) for joint in whole.joints[start : start + 21]]
        assert found == ["", *hand.joints[1:]]
        assert whole.sigmas[start : start + 21] == hand.sigmas
    np.testing.assert_array_equal(whole.flip_order[23:91] - 23, face.flip_order)


def test_a_face_is_symmetric_about_its_middle():
    face = load_skeleton("coco_wholebody_face")
    middle = {8, 27, 28, 29, 30, 33, 51, 57, 62, 66}  # chin, bridge and tip of the nose, lips
    assert {joint for joint in range(68) if face.flip_order[joint] == joint} == middle
    mirrored = {frozenset((face.flip_order[a], face.flip_order[b])) for a, b in face.limbs}
    assert mirrored == {frozenset(limb) for limb in face.limbs}


def test_names_of_mmpose_and_of_openpose_find_the_built_in_skeleton():
    animal = load_skeleton("ap10k")
    names = [joint.replace("left", "L").replace("right", "R").replace("_of_", " of ") for joint in animal.joints]
    names = [name.replace("front_paw", "F_Paw").replace("back_paw", "B_Paw") for name in names]
    assert "L_F_Paw" in names
    assert arrange(names) == (animal, tuple(range(17)))
    crowd = load_skeleton("crowdpose")
    assert arrange([*crowd.joints[:12], "neck", "top_head"]) == (crowd, (*range(12), 13, 12))
    body = load_skeleton("halpe26")
    names = [joint.replace("left_", "l ").replace("right_", "r ").title().replace(" ", "") for joint in body.joints]
    assert "LBig_Toe" in names
    assert arrange(names).skeleton == body


def test_no_two_built_in_skeletons_have_the_same_joints():
    for name in built_in_names():
        skeleton = load_skeleton(name)
        assert arrange(skeleton.joints).skeleton.name == name
        assert arrange(skeleton.joints[::-1]) == (skeleton, tuple(reversed(range(len(skeleton)))))


def test_a_corrected_file_is_read_again(tmp_path):
    path = tmp_path / "glove.toml"
    path.write_text('name = "glove"\njoints = ["thumb", "wrist"]\n')
    assert load_skeleton(path).joints == ("thumb", "wrist")
    path.write_text('name = "glove"\njoints = ["wrist", "thumb"]\n')
    assert load_skeleton(path).joints == ("wrist", "thumb")
