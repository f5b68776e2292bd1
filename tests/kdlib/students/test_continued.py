"""Students that start from a trained student: of another input size, of other joints, or not at all."""

import json

import pytest
import torch

from kdlib.errors import KdlibError
from kdlib.skeletons.skeleton import COCO, Skeleton
from kdlib.students.loading import load_checkpoint
from kdlib.students.networks import build_student
from kdlib.students.norms import norm_entries, start_norms
from kdlib.students.pretrained import load_pretrained
from tests.support.stores.people import make_store
from tests.support.tiny_training import command, weights
from tests.support.trained_student import make_checkpoint
from train.__main__ import main

ARM = Skeleton("arm", ("elbow_bump", "Left-Wrist", "left_shoulder"))
"""Two of COCO's joints in another order, one of them spelt differently, after one that COCO does not have."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("small") / "best.pt", input_size=(48, 64), seed=3)


@torch.no_grad()
def maps_of(checkpoint, pixels):
    return load_checkpoint(checkpoint).model(pixels)


def start(source, *, name="squeezenet1_1", head="fused", stride=4, skeleton=COCO, normed=False):
    student = build_student(name, head, len(skeleton), (96, 128), stride)
    if normed:
        student.add_norms()
    return student, *load_pretrained(student, name, str(source), skeleton)


@pytest.mark.parametrize("normed", [False, True])
def test_a_student_of_another_size_starts_with_what_the_trained_one_computes(trained, normed):
    student, line, is_pretrained = start(trained, normed=normed)
    assert is_pretrained
    assert line == f"student starts from best.pt of {trained.parent.name}, trained at 64x48"
    images = torch.randint(0, 256, (4, 128, 96, 3), dtype=torch.uint8)
    assert bool(norm_entries(student)) == normed
    start_norms(student, images)
    pixels = images.permute(0, 3, 1, 2) / 255.0
    expected = maps_of(trained, pixels)
    assert expected.std() > 0.1
    torch.testing.assert_close(student.eval()(pixels).detach(), expected, rtol=1e-3, atol=1e-3 * float(expected.std()))


def test_joints_of_the_same_name_keep_their_maps_and_new_ones_start_anew(trained):
    student, line, _ = start(trained, skeleton=ARM)
    assert line.endswith("trained at 64x48; 1 of the new student's 3 joints start from random weights")
    pixels = torch.rand(2, 3, 128, 96)
    maps, theirs = student.eval()(pixels), maps_of(trained, pixels)
    torch.testing.assert_close(maps[:, 1], theirs[:, COCO.joints.index("left_wrist")])
    torch.testing.assert_close(maps[:, 2], theirs[:, COCO.joints.index("left_shoulder")])
    assert maps[:, 0].std() < 0.1 * maps[:, 1].std()


def test_as_many_joints_in_another_order_are_matched_by_name(trained):
    mirrored = Skeleton("mirrored", tuple(COCO.joints[k] for k in COCO.flip_order))
    student, line, _ = start(trained, skeleton=mirrored)
    assert "random" not in line
    pixels = torch.rand(1, 3, 128, 96)
    torch.testing.assert_close(student.eval()(pixels), maps_of(trained, pixels)[:, COCO.flip_order.tolist()])


@pytest.mark.parametrize(
    ("other", "flag"),
    [
        ({"name": "squeezenet1_0"}, "--student squeezenet1_1"),
        ({"head": "deconv"}, "--head fused"),
        ({"stride": 8}, "--stride 4"),
    ],
)
def test_another_network_is_refused_with_the_flag_that_would_fit(trained, other, flag):
    with pytest.raises(KdlibError) as refused:
        start(trained, **other)
    assert str(refused.value).startswith(f"cannot start from {trained}: its student was trained with {flag}; use")


def test_a_run_starts_from_the_student_of_another_run_and_records_it(tmp_path, capsys):
    make_store(tmp_path / "train.zarr", 8)
    make_store(tmp_path / "val.h5", 4)
    assert main(command(tmp_path, tmp_path / "first")) == 0
    still = {"learning_rate": 1e-12, "weight_decay": 0, "epochs": 1}
    assert main(command(tmp_path, tmp_path / "second", pretrained=tmp_path / "first/best.pt", **still)) == 0
    said = "student starts from best.pt of first, trained at 64x48"
    assert said in capsys.readouterr().err
    config = json.loads((tmp_path / "second/config.json").read_text())
    assert config["resolved"]["start"] == said
    assert config["recipe"]["pretrained"] == str(tmp_path / "first/best.pt")
    lost = command(tmp_path, tmp_path / "first", pretrained=tmp_path / "first/best.pt", overwrite=True)
    assert main(lost) == 1
    assert "--overwrite would delete" in capsys.readouterr().err
    before, after = (weights(tmp_path / run / "best.pt") for run in ("first", "second"))
    learned = [key for key in before if key.startswith("head.") and key.endswith("weight")]
    assert learned
    for key in learned:
        torch.testing.assert_close(after[key], before[key])
