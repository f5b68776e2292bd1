"""A teacher predicts the joints of the data: by name where names are known, in the data's order, or it is refused."""

import dataclasses
import json
import re

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from safetensors.torch import save_file

import cache
from kdlib.geometry import compose_affines, transform_points
from kdlib.skeletons import COCO, Skeleton, load_skeleton
from precompute.__main__ import main
from precompute.teacher.architecture import TorchNetwork
from precompute.teacher.checkpoint import CheckpointError, read_head
from precompute.teacher.hrnet import HRNET, build_hrnet
from precompute.teacher.joints import Agreement, JointFlags, agree, from_names, stated_in
from precompute.teacher.loading import Teacher, load_teacher
from tests.support.checkpoint_layouts import LAYOUTS
from tests.support.shared_data import SHARED

NAMES = ("nose", "left_eye", "right_eye", "left_hand", "right_hand", "chest")
BODY = Skeleton("body", NAMES, flip_pairs=((1, 2), (3, 4)))
OTHERS = Skeleton("others", tuple(f"part {n}" for n in range(17)))


def toml(path, skeleton):
    """Write a skeleton as a file of `--skeleton`."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in skeleton.to_json().items()]
    path.write_text("\n".join(lines))
    return str(path)


def test_equal_names_agree_and_need_no_entry_in_the_manifest():
    assert agree("t", 17, None, COCO) == Agreement.whole(COCO)
    assert agree("t", 17, COCO, COCO).to_json() == {}
    spelt = dataclasses.replace(BODY, joints=("Nose", "LeftEye", "r_eye", "left hand", "right-hand", "chest"))
    assert agree("t", 6, spelt, BODY).is_whole


def test_another_order_is_permuted_by_name():
    order = [3, 0, 5, 2, 1, 4]
    theirs = BODY.select(order, "theirs")
    agreement = agree("t", 6, theirs, BODY)
    assert agreement.is_reordered
    assert [theirs.joints[joint] for joint in agreement.order] == list(NAMES)
    maps = np.random.default_rng(0).random((2, 6, 3, 5), np.float32)
    np.testing.assert_array_equal(agreement.take(maps)[:, order], maps)
    assert agreement.to_json() == {"joints": {"skeleton": "theirs", "of": 6, "taken": list(NAMES)}}


@pytest.mark.parametrize(
    "taken", [("data",), ("chest", "left_eye"), ("left_eye=left_eye", "chest=chest"), ("CHEST", "l eye")]
)
def test_a_teacher_of_more_joints_is_cut_by_name(taken):
    data = BODY.select([5, 1], "few")
    with pytest.raises(
        CheckpointError, match=r"predicts 6 joints \(body\).*--joints-from-teacher chest,left_eye,\.\.\."
    ):
        agree("t", 6, BODY, data)
    agreement = agree("t", 6, BODY, data, JointFlags(taken=taken))
    assert (agreement.order, agreement.own) == ((5, 1), BODY)


def test_other_names_of_a_joint_are_paired_by_the_flag():
    data = Skeleton("mine", ("thorax", "nose"))
    with pytest.raises(CheckpointError, match=r"does not predict the joint 'thorax'.*JOINT_OF_THE_DATA=JOINT_OF_THE"):
        agree("t", 6, BODY, data)
    assert agree("t", 6, BODY, data, JointFlags(taken=("thorax=chest", "nose"))).order == (5, 0)


@pytest.mark.parametrize(
    ("maps", "stated", "data", "flags", "message"),
    [
        (17, None, OTHERS, {}, "taken for COCO's, and the data have others: joint 1 is 'part 0', not 'nose'"),
        (17, None, OTHERS, {}, "give --teacher-skeleton data; otherwise state the teacher's joints"),
        (17, None, BODY, {}, "joint 4 is 'left_hand', not 'left_ear'. State the teacher's joints: --teacher-skeleton"),
        (6, None, COCO, {}, "6 heatmaps per instance without names of joints, and the data have the 17 joints of coco"),
        (6, None, BODY, {"taken": ("data",)}, "state the teacher's joints: --teacher-skeleton NAME or FILE.toml"),
        (5, None, BODY, {"teacher": "data"}, "computes 5 heatmaps per instance, and --teacher-skeleton data has 6"),
        (6, BODY, COCO, {}, "does not predict the joint 'left_ear' of the data: it predicts nose, left_eye, right_eye"),
        (6, BODY, BODY, {"taken": ("nose", "chest")}, "--joints-from-teacher lacks the joint 'left_eye' of the data"),
        (6, BODY, BODY, {"taken": ("nosy",)}, "the data has no joint 'nosy'; did you mean nose?"),
        (6, BODY, BODY, {"taken": ("nose=node",)}, "t has no joint 'node'; did you mean nose?"),
    ],
)
def test_a_teacher_of_other_joints_is_refused_with_what_mends_it(maps, stated, data, flags, message):
    with pytest.raises(CheckpointError, match=re.escape(message)):
        agree("t", maps, stated, data, JointFlags(**flags))


def test_numbers_are_compared_where_names_are_not_known_and_a_warning_says_so():
    agreement = agree("t", 6, None, BODY)
    assert agreement.is_whole
    assert "could not be checked" in agreement.warning
    assert agree("t", 17, None, OTHERS, JointFlags(teacher="data")).warning == ""
    nameless = Skeleton("numbered", tuple(f"joint_{n}" for n in range(1, 7)), flip_pairs=BODY.flip_pairs)
    assert "the data names no joints" in agree("t", 6, BODY, nameless).warning


def test_joints_that_swap_otherwise_in_a_mirrored_image_are_refused():
    unpaired = dataclasses.replace(BODY, flip_pairs=((1, 2),))
    for theirs, ours in ((BODY, unpaired), (unpaired, BODY)):
        with pytest.raises(CheckpointError, match=r"t swaps 'left_hand' with '(left|right)_hand', and the data"):
            agree("t", 6, theirs, ours)
    alone = BODY.select([0, 1], "left side")  # its right eye is not among the data's joints
    assert agree("t", 6, BODY, alone, JointFlags(taken=("data",))).order == (0, 1)


@pytest.mark.parametrize(
    ("crossed", "message"),
    [
        (("hand",), "takes left_hand=right_hand from the other side of the body, but left_eye=left_eye from the same"),
        (("eye",), "takes left_eye=right_eye from the other side of the body, but left_hand=left_hand from the same"),
        (("eye", "hand"), None),
        ((), None),
    ],
)
def test_left_and_right_are_exchanged_for_all_joints_or_none(crossed, message):
    """A teacher of the other convention exchanges all; the middle of the body has no side."""
    other = {"left": "right", "right": "left"}
    taken = {name: name for name in NAMES}
    for part, side in ((part, side) for part in crossed for side in other):
        taken[f"{side}_{part}"] = f"{other[side]}_{part}"
    flags = JointFlags(taken=tuple(f"{ours}={theirs}" for ours, theirs in taken.items()))
    if message is None:
        assert agree("t", 6, BODY, BODY, flags).names == list(taken.values())
    else:
        with pytest.raises(CheckpointError, match=re.escape(message)):
            agree("t", 6, BODY, BODY, flags)


def test_joints_of_a_side_without_pairs_are_exchanged_for_all_or_none_as_well():
    """The joints of one side only: no flip pair could reveal the mistake."""
    hand = Skeleton("one hand", ("L_thumb", "LPalm", "wrist"))
    theirs = Skeleton("t", ("thumb (right)", "right palm", "left palm", "wrist"))
    flags = ("L_thumb=thumb (right)", "LPalm=right palm", "wrist")
    assert agree("t", 4, theirs, hand, JointFlags(taken=flags)).order == (0, 1, 3)
    with pytest.raises(CheckpointError, match=r"takes L_thumb=thumb \(right\) from the other side .* LPalm=left palm"):
        agree("t", 4, theirs, hand, JointFlags(taken=("L_thumb=thumb (right)", "LPalm=left palm", "wrist")))


def test_the_flag_names_a_file_or_a_built_in_skeleton(tmp_path):
    flags = JointFlags(teacher=toml(tmp_path / "b.toml", BODY), taken=("data",))
    assert agree("t", 6, None, BODY.select([2, 0]), flags).order == (2, 0)
    assert agree("t", 17, None, COCO.select([4]), JointFlags("coco", ("data",))).order == (4,)


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "maps", "expected"),
    [
        ({}, 17, None),
        ({"joints": json.dumps(COCO.joints)}, 17, COCO),
        ({"joints": ", ".join(NAMES)}, 6, Skeleton("net.onnx", NAMES, BODY.flip_pairs)),
        ({"joints": json.dumps(COCO.joints), "skeleton": json.dumps(OTHERS.to_json())}, 17, OTHERS),
        ({"skeleton": "[[0, 1], [1, 2]]", "joints": "17"}, 17, None),  # entries of another program
    ],
)
def test_onnx_metadata_may_name_the_joints(metadata, maps, expected):
    assert stated_in(metadata, maps, "a/net.onnx") == expected


def test_onnx_metadata_with_another_number_of_joints_is_refused():
    with pytest.raises(CheckpointError, match=r"net\.onnx computes 5 heatmaps; its metadata names 6 joints"):
        stated_in({"skeleton": json.dumps(BODY.to_json())}, 5, "net.onnx")


def test_names_in_another_order_keep_the_flip_pairs_of_the_known_skeleton():
    order = np.random.default_rng(0).permutation(17).tolist()
    found = from_names(COCO.select(order).joints, "theirs")
    assert found == COCO.select(order, "theirs")


@pytest.mark.parametrize("write", LAYOUTS)
def test_the_number_of_heatmaps_is_read_from_every_layout(write, tmp_path):
    weights = {"conv1.weight": torch.zeros(2, 3, 1, 1), "final_layer.weight": torch.zeros(14, 2, 1, 1)}
    write(weights | {"final_layer.bias": torch.zeros(14)}, tmp_path / "w")
    axes = HRNET.map_axes("hrnet_w16_sample", (96, 64))
    assert axes == {"final_layer.weight": 0, "final_layer.bias": 0}
    assert read_head(tmp_path / "w", axes) == (14, ())


def test_mmpose_names_the_joints_in_its_checkpoints(tmp_path):
    joints = dict(enumerate(NAMES))
    weights = {"head.final_layer.bias": torch.zeros(6)}
    torch.save({"meta": {"dataset_meta": {"keypoint_id2name": joints}}, "state_dict": weights}, tmp_path / "w.pth")
    assert read_head(tmp_path / "w.pth", {"final_layer.bias": 0}) == (6, NAMES)


# --- networks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flip_test", [False, True])
def test_the_flip_test_before_the_cut_is_that_of_the_data_after_it(flip_test, monkeypatch):
    """On both paths; joints are taken in pairs, so that the data's own flip order gives the same heatmaps."""
    size, data = (64, 96), COCO.select([6, 0, 5], "few")
    torch.manual_seed(0)
    model = build_hrnet("hrnet_w16_sample").eval()
    torch.nn.init.normal_(model.final_layer.weight, std=2e7)
    agreement = agree("t", 17, COCO, data, JointFlags(taken=("data",)))
    network = TorchNetwork(HRNET, model, size, torch.device("cpu"), "fp32", agreement)
    teacher = Teacher("t", size, (16, 24), 3, "0", "fp32", "cpu", network, skeleton=data, agreement=agreement)
    crops = np.random.default_rng(0).integers(0, 256, (2, 1, 96, 64, 3), np.uint8)
    maps = teacher.launch(crops, flip_test=flip_test)()
    assert maps.shape == (2, 1, 3, 24, 16)
    device = network.compute(torch.from_numpy(crops), flip_test=flip_test).numpy()
    np.testing.assert_allclose(device, maps[:, 0], atol=1e-5 * np.abs(maps).max())
    cut = Teacher("t", size, (16, 24), 3, "0", "fp32", "cpu", lambda c: network(c)[:, [6, 0, 5]], skeleton=data)
    np.testing.assert_allclose(cut.launch(crops, flip_test=flip_test)(), maps, atol=1e-5 * np.abs(maps).max())
    np.testing.assert_array_equal(teacher(crops[:, 0]), network(crops[:, 0])[:, [6, 0, 5]])


def write_onnx(path, maps, metadata=None):
    """An ONNX file of 64x96 crops (height x width) whose heatmap k is k / 100 everywhere."""
    values = np.arange(maps, dtype=np.float32)[None, :, None, None] / 100
    constants = [numpy_helper.from_array(np.zeros((maps, 3, 4, 4), np.float32), "zeros")]
    constants.append(numpy_helper.from_array(values, "values"))
    nodes = [helper.make_node("Conv", ["crop", "zeros"], ["conv"], strides=(4, 4))]
    nodes.append(helper.make_node("Add", ["conv", "values"], ["maps"]))
    inputs = [helper.make_tensor_value_info("crop", onnx.TensorProto.FLOAT, ("batch", 3, 64, 96))]
    outputs = [helper.make_tensor_value_info("maps", onnx.TensorProto.FLOAT, [None] * 4)]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return path


@pytest.fixture
def data(tmp_path):
    """One image with one person of the joints of `BODY`, listed by the annotations."""
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images/a.png"), np.full((80, 120, 3), 90, np.uint8))
    person = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 60, 50], "area": 900, "iscrowd": 0}
    person |= {"keypoints": [30, 30, 2] * 6, "num_keypoints": 6}
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": 120, "height": 80}],
        "annotations": [person],
        "categories": [{"id": 1, "name": "body", "keypoints": list(NAMES)}],
    }
    (tmp_path / "a.json").write_text(json.dumps(document))
    return ["--images", str(tmp_path / "images"), "--annotations", str(tmp_path / "a.json")]


def test_a_run_keeps_the_joints_of_the_data_and_its_manifest_says_which(tmp_path, data, capsys):
    theirs = BODY.select([4, 2, 0, 5, 1, 3], "theirs")
    wide = Skeleton("wide", ("tail", *theirs.joints), tuple((a + 1, b + 1) for a, b in theirs.flip_pairs))
    net = write_onnx(tmp_path / "net.onnx", 7, {"skeleton": json.dumps(wide.to_json())})
    command = [
        *data,
        "--teacher",
        f"onnx:{net}",
        "--store",
        str(tmp_path / "s.zarr"),
        "--codec",
        "float32",
        "--no-flip-test",
    ]
    assert main(command) == 1
    assert "cut them by name: --joints-from-teacher nose,left_eye,..." in capsys.readouterr().err
    assert main([*command, "--joints-from-teacher", "data"]) == 0
    store = cache.open_store(tmp_path / "s.zarr")
    expected = [wide.joints.index(name) / 100 for name in NAMES]
    np.testing.assert_allclose(store.heatmaps([0])[0, 0].max(axis=(-2, -1)), expected, rtol=1e-5)
    teacher = store.manifest["provenance"]["teacher"]
    assert teacher["joints"] == {"skeleton": "wide", "of": 7, "taken": list(NAMES)}
    assert store.manifest["provenance"]["noticed"] == {
        "teachers with the joints in another order, reordered by name": 1
    }
    other = [f"{name}={wide.joints[k]}" for k, name in enumerate(NAMES)]
    assert main([*command, "--joints-from-teacher", ",".join(other), "--resume"]) == 1
    assert "in a mirrored image" in capsys.readouterr().err


def test_members_of_an_ensemble_agree_with_the_data_each(tmp_path, data, capsys):
    plain = write_onnx(tmp_path / "plain.onnx", 6)
    other = write_onnx(tmp_path / "other.onnx", 6, {"joints": json.dumps(BODY.select([5, 4, 3, 2, 1, 0]).joints)})
    store = tmp_path / "s.zarr"
    command = [*data, "--teacher", f"onnx:{plain}", "--ensemble", f"onnx:{other}", "--store", str(store)]
    assert main([*command, "--codec", "float32"]) == 0
    assert f"warning: the heatmaps of {plain} are taken for the 6 joints of body" in capsys.readouterr().err
    maps = cache.open_store(store).heatmaps([0])[0, 0].max(axis=(-2, -1))
    np.testing.assert_allclose(maps, [0.025] * 6, rtol=1e-5)
    first, second = cache.open_store(store).manifest["provenance"]["teacher"]["members"]
    assert "joints" not in first
    assert second["joints"]["taken"] == list(NAMES)


def test_a_hrnet_takes_its_number_of_joints_from_the_checkpoint(tmp_path):
    torch.manual_seed(0)
    save_file(build_hrnet("hrnet_w16_sample", 6).state_dict(), tmp_path / "w.safetensors")
    options = {"input_size": (96, 64), "device": "cpu", "precision": "fp32"}
    with pytest.raises(CheckpointError, match="hrnet_w16_sample computes 6 heatmaps per instance without names"):
        load_teacher("hrnet_w16_sample", tmp_path / "w.safetensors", **options)
    joints = JointFlags(toml(tmp_path / "b.toml", BODY), ("data",))
    few = BODY.select([2, 1], "few")
    teacher = load_teacher("hrnet_w16_sample", tmp_path / "w.safetensors", skeleton=few, joints=joints, **options)
    assert (teacher.joints, teacher.skeleton, teacher.taken.order) == (2, few, (2, 1))


@pytest.mark.parametrize(
    ("name", "joints"), [("mpii", 16), ("crowdpose", 14), ("ap10k", 17), ("coco_wholebody_hand", 21)]
)
def test_a_network_of_a_built_in_skeleton_runs_on_square_crops(name, joints, tmp_path, capsys):
    """The crop has the aspect of the teacher's input: a square around the box, grown by HRNet's 1.25."""
    skeleton = load_skeleton(name)
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images/a.png"), np.full((120, 200, 3), 90, np.uint8))
    person = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [40, 30, 80, 51], "area": 900, "iscrowd": 0}
    person |= {"keypoints": [60, 60, 2] * joints, "num_keypoints": joints}
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": 200, "height": 120}],
        "annotations": [person],
        "categories": [{"id": 3, "name": name, "keypoints": list(skeleton.joints)}],
    }
    (tmp_path / "a.json").write_text(json.dumps(document))
    torch.manual_seed(0)
    save_file(build_hrnet("hrnet_w16_sample", joints).state_dict(), tmp_path / "w.safetensors")
    command = ["--images", str(tmp_path / "images"), "--annotations", str(tmp_path / "a.json"), "--input-size", "96x96"]
    command += ["--teacher", "hrnet_w16_sample", "--checkpoint", str(tmp_path / "w.safetensors")]
    command += ["--teacher-skeleton", name, "--precision", "fp32", "--store", str(tmp_path / "s.zarr")]
    assert main(command) == 0
    assert "warning" not in capsys.readouterr().err
    store = cache.open_store(tmp_path / "s.zarr")
    assert store.spec.joints == joints
    view = compose_affines(store.view_affine[0, 0], store.frame_affine[0])
    side = 1.25 * 79  # the box, clipped to its last pixel
    corners = [[79.5 - side / 2, 55 - side / 2], [79.5 + side / 2, 55 + side / 2]]
    np.testing.assert_allclose(transform_points(corners, view), [[0, 0], [96, 96]], atol=1e-3)


CASE = SHARED / "cases/05-other-17-joints.json"


@pytest.mark.skipif(not CASE.exists(), reason="the cases of the outside world are not on this machine")
def test_another_set_of_17_joints_is_not_taken_for_cocos(tmp_path, capsys):
    net = write_onnx(tmp_path / "net.onnx", 17)
    command = ["--images", str(CASE.parent / "images"), "--annotations", str(CASE), "--teacher", f"onnx:{net}"]
    assert main([*command, "--store", str(tmp_path / "s.zarr")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "joint 2 is 'head_bottom', not 'left_eye'" in line
    assert "--teacher-skeleton" in line


def test_one_joint_of_the_teacher_for_two_of_the_data_is_refused():
    data = Skeleton("pair", ("thumb", "wrist"))
    with pytest.raises(CheckpointError, match="gives the joint 'nose' of t to several joints of the data"):
        agree("t", 17, COCO, data, JointFlags(taken=("thumb=nose", "wrist=nose")))
