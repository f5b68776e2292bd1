"""The value of a skeleton: its derived arrays, its JSON form, selections of joints, and names of joints."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlib.errors import SkeletonError
from kdlib.skeletons.reading import find_joint, load_skeleton, numbered, skeleton_of, stated
from kdlib.skeletons.skeleton import COCO, DEFAULT_SIGMA, Skeleton, side_of, split_words, without_side

PAW = Skeleton(
    "paw",
    ("wrist", "left_toe", "right_toe", "left_nail", "right_nail"),
    flip_pairs=((1, 2), (4, 3)),
    limbs=((0, 1), (0, 2), (1, 3), (2, 4)),
    upper_body=(0,),
    sigmas=(0.1, 0.2, 0.2, 0.3, 0.3),
    sigmas_source="a paper",
    head=(0, 4),
    aliases=(("thumb nail", 3),),
)


def test_the_flip_order_swaps_the_pairs_and_nothing_else():
    assert PAW.flip_order.tolist() == [0, 2, 1, 4, 3]
    assert PAW.is_upper.tolist() == [True, False, False, False, False]
    assert PAW.spreads.tolist() == [0.1, 0.2, 0.2, 0.3, 0.3]
    with pytest.raises(ValueError, match="read-only"):
        PAW.flip_order[0] = 1


def test_sides_are_words_of_their_own():
    assert PAW.sides == ("mid", "left", "right", "left", "right")
    assert [PAW.limb_side(*limb) for limb in PAW.limbs] == ["left", "right", "left", "right"]
    assert PAW.limb_side(1, 2) == "mid"
    found = {name: side_of(name) for name in ("EyeL", "l-eye", "leftover", "upper left lip", "RBigToe", "LEFT_EYE")}
    assert found == dict(zip(found, ("left", "left", "mid", "left", "right", "left"), strict=True))
    assert (without_side("left_eye"), without_side("EyeL"), without_side("left")) == ("eye", "eye", "left")
    assert split_words("L_FrontPaw") == split_words("LFrontPaw") == split_words("l-front paw")


def test_json_holds_everything_but_aliases():
    assert Skeleton.from_json(PAW.to_json(), "x") == PAW
    assert Skeleton.from_json(PAW.to_json(), "x").aliases == ()
    assert "head" not in COCO.to_json()
    assert skeleton_of(stated(PAW), 5, "x") == PAW
    assert stated(COCO) == {}
    assert skeleton_of({}, 17, "x") is COCO


def test_a_store_with_another_number_of_joints_is_refused():
    with pytest.raises(SkeletonError, match=r"s\.zarr has 4 joints per instance and states the skeleton paw with 5"):
        skeleton_of(stated(PAW), 4, "s.zarr")
    with pytest.raises(SkeletonError, match=r"states no skeleton, which means COCO's, with 17"):
        skeleton_of({}, 4, "s.zarr")


@given(st.permutations(range(5)), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_a_selection_keeps_what_its_joints_have(order, count):
    chosen = order[:count]
    part = PAW.select(chosen, "part")
    assert (part.name, PAW.select(chosen).name) == ("part", "paw")
    assert [PAW.joints.index(joint) for joint in part.joints] == chosen
    assert part.spreads.tolist() == PAW.spreads[chosen].tolist()
    assert part.is_upper.tolist() == PAW.is_upper[chosen].tolist()

    def named(skeleton, pairs):
        return {frozenset(skeleton.joints[joint] for joint in pair) for pair in pairs}

    for field in ("flip_pairs", "limbs"):
        kept = {pair for pair in named(PAW, getattr(PAW, field)) if pair <= set(part.joints)}
        assert named(part, getattr(part, field)) == kept
    assert (part.head is not None) == ({"wrist", "right_nail"} <= set(part.joints))
    assert [(alias, part.joints[joint]) for alias, joint in part.aliases] == [
        (alias, PAW.joints[joint]) for alias, joint in PAW.aliases if joint in chosen
    ]


@pytest.mark.parametrize("joints", [1, 133, 300])
def test_any_number_of_joints_is_a_skeleton(joints):
    skeleton = numbered(joints)
    assert len(skeleton) == len(set(skeleton.joints)) == joints
    assert skeleton.sigmas == (DEFAULT_SIGMA,) * joints
    np.testing.assert_array_equal(skeleton.flip_order, np.arange(joints))
    assert Skeleton.from_json(skeleton.to_json(), "x") == skeleton


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"joints": ()}, "has no joints"),
        ({"joints": ("a", "b", "a", "c", "d")}, "two joints named 'a'; give each its own name"),
        ({"sigmas": (0.1,)}, "5 joints and 1 sigmas"),
        ({"sigmas": (0.1, 0.2, 0.3, 0.4, 0.0)}, "a sigma that is not a positive number"),
        ({"sigmas": (0.1, 0.2, 0.3, 0.4, float("nan"))}, "a sigma that is not a positive number"),
        ({"limbs": ((0, 5),)}, "refers to a joint that it does not have; it has 5"),
        ({"head": (0, -1)}, "refers to a joint that it does not have"),
        ({"aliases": (("x", 7),)}, "refers to a joint that it does not have"),
        ({"flip_pairs": ((1, 2), (2, 3))}, "the joint 'right_toe' in several flip pairs"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(SkeletonError, match=message):
        dataclasses.replace(PAW, **fields)


# --- TOML -------------------------------------------------------------------------------------------------------------


def write(path, text):
    path.write_text(text)
    return path


def test_a_file_needs_a_name_and_joints_and_pairs_are_found_from_the_names(tmp_path):
    found = load_skeleton(write(tmp_path / "a.toml", 'name = "tail"\njoints = ["tip_l", "base", "tip_r"]\n'))
    assert found == Skeleton("tail", ("tip_l", "base", "tip_r"), ((0, 2),))
    none = load_skeleton(write(tmp_path / "b.toml", 'name = "t"\njoints = ["tip_l", "tip_r"]\nflip_pairs = []\n'))
    assert none.flip_pairs == ()


def test_a_file_may_have_every_entry(tmp_path):
    text = """
name = "paw"
joints = ["wrist", "left_toe", "right_toe", "left_nail", "right_nail"]
flip_pairs = [["left_toe", "right_toe"], ["right_nail", "left_nail"]]
limbs = [["wrist", "left_toe"], ["wrist", "right_toe"], ["left_toe", "left_nail"], ["right_toe", "right_nail"]]
upper_body = ["wrist"]
sigmas = [0.1, 0.2, 0.2, 0.3, 0.3]
sigmas_source = "a paper"
head = ["wrist", "right_nail"]
aliases = { left_nail = ["thumb nail"] }
"""
    found = load_skeleton(write(tmp_path / "paw.toml", text))
    assert found == PAW
    assert found.aliases == PAW.aliases
    same = load_skeleton(write(tmp_path / "one.toml", text.replace("[0.1, 0.2, 0.2, 0.3, 0.3]", "1")))
    assert same.sigmas == (1.0,) * 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "is not a TOML file"),
        ('joints = ["a"]', "name and sigmas_source must be texts"),
        ('name = "x"', "joints must be a list of names, got None"),
        ('name = "x"\njoints = ["a", 7]', "joints must be a list of names"),
        ('name = "x"\njoints = ["a", "a"]', "two joints named 'a'"),
        ('name = "x"\njoints = ["a"]\nlimb = []', r"unknown entries \['limb'\]; a skeleton has name, joints"),
        ('name = "x"\njoints = ["a"]\nlimbs = "a"', "limbs must be a list, got 'a'"),
        ('name = "x"\njoints = ["a", "b"]\nlimbs = [["a", "c"]]', "limbs: 'c' is not one of the joints a, b"),
        ('name = "x"\njoints = ["a", "b"]\nlimbs = [["a", "a"]]', "is not a pair of two joints"),
        ('name = "x"\njoints = ["a", "b"]\nhead = ["a"]', r"head: \['a'\] is not a pair"),
        ('name = "x"\njoints = ["a", "b"]\nsigmas = [0.1]', "2 joints and 1 sigmas"),
        ('name = "x"\njoints = ["a", "b"]\nsigmas = []', "sigmas is empty; leave it out, or give 2 numbers"),
        ('name = "x"\njoints = ["a", "b"]\nsigmas = "all"', "sigmas must be one number or a list of 2 numbers"),
        ('name = "x"\njoints = ["a", "b"]\naliases = ["c"]', "aliases must be a table of lists of names"),
        ('name = "x"\njoints = ["a", "b"]\naliases = { c = ["d"] }', "aliases: 'c' is not one of the joints"),
        ('name = "x"\njoints = ["a", "b"]\naliases = { a = [7] }', "aliases: 7 is not a name"),
        ('name = "x"\njoints = ["Tip", "a", "tip"]', "joints: 'Tip' and 'tip' differ only in case, separators or the"),
        ('name = "x"\njoints = ["left_eye", "eye", "L-Eye"]', "joints: 'left_eye' and 'L-Eye' differ only in case"),
        ('name = "x"\njoints = ["a", "tip, left"]', "joints: 'tip, left' contains ',', which separates names in --j"),
        ('name = "x"\njoints = ["a", "b=c"]', "joints: 'b=c' contains '=', which separates"),
        ('name = "x"\njoints = ["a", "b"]\naliases = { a = ["B"] }', "aliases: 'B' of 'a' is also a name of 'b'"),
        ('name = "x"\njoints = ["a", "b"]\naliases = { a = ["c"], b = ["C"] }', "'C' of 'b' is also a name of 'a'"),
        ('name = "aic"\njoints = ["a"]', r"name: aic is a built-in skeleton with other joints \(joint 1 is 'a', not"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line_that_names_it(tmp_path, text, message):
    path = write(tmp_path / "wrong.toml", text)
    with pytest.raises(SkeletonError, match=message) as refused:
        load_skeleton(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_may_repeat_the_name_and_joints_of_a_built_in_skeleton_and_aliases_of_its_own_joints(tmp_path):
    known = load_skeleton("aic")
    text = f'name = "aic"\njoints = {list(known.joints)}\nsigmas = 0.07\naliases = {{ neck = ["Neck", "collar"] }}\n'
    found = load_skeleton(write(tmp_path / "aic.toml", text))
    assert (found.joints, found.sigmas) == (known.joints, (0.07,) * 14)
    other = "joints = " + str(list(reversed(known.joints)))
    with pytest.raises(SkeletonError, match=r"aic\.toml: name: aic .* give this one a name of its own"):
        load_skeleton(write(tmp_path / "aic.toml", f'name = "aic"\n{other}\n'))
    stored = Skeleton("aic", ("a", "b"))  # a store of an earlier version is read
    assert skeleton_of({"skeleton": stored.to_json()}, 2, "s.zarr") == stored


def test_a_joint_that_is_spelt_alike_is_found_among_names_that_differ_in_case():
    assert [find_joint(name, ("a", "A", "b")) for name in ("A", "a", "B")] == [1, 0, 2]
    assert find_joint("Left eye", ("left_eye", "l_eye")) is None


def test_an_unknown_name_gets_a_suggestion_and_a_missing_file_is_named(tmp_path):
    with pytest.raises(SkeletonError, match="unknown skeleton 'crowdpos'; did you mean crowdpose"):
        load_skeleton("crowdpos")
    with pytest.raises(SkeletonError, match=r"unknown skeleton 'horse'; available: aic, .*, or a file, FILE\.toml"):
        load_skeleton("horse")
    with pytest.raises(SkeletonError, match=r"cannot read the skeleton .*none\.toml: No such file"):
        load_skeleton(tmp_path / "none.toml")
