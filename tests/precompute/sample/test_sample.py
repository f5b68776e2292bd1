"""The embedded sample: same seed, same bytes; valid COCO files; left and right are drawn as they are labelled."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from kdlib.inputs.annotations import read_keypoint_annotations
from kdlib.skeletons.skeleton import COCO
from precompute.sample import dataset
from precompute.sample.__main__ import main
from precompute.sample.dataset import MARKER, SMALL, SampleError, make_image, write_sample
from precompute.sample.drawing.appearance import draw_outfit
from precompute.sample.drawing.body import dress
from precompute.sample.drawing.figure import Camera, draw_build, pose_figure, project
from precompute.sample.drawing.poses import POSES, Pose, draw_pose
from precompute.sample.drawing.scene import Person, Scene, draw_scene
from precompute.sample.drawing.solids import Canvas
from precompute.sample.labels import LabelNoise, annotate, clean_keypoints, noisy_keypoints
from precompute.sample.spec import SampleSpec

SPEC = SampleSpec(seed=5, train=20, val=10)
SPLITS = ("train", "val")


def _joint(name: str) -> int:
    return COCO.joints.index(name)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sample") / "people"
    assert write_sample(out, SPEC)
    return out


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(np.random.default_rng(seed)) for seed in range(60)]


@pytest.fixture(scope="module")
def documents(sample: Path) -> dict[str, dict]:
    return {split: json.loads((sample / f"annotations/person_keypoints_{split}.json").read_text()) for split in SPLITS}


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- the same seed gives the same sample -----------------------------------------------------------------------------


def test_every_byte_is_the_same_with_two_worker_processes(sample: Path, tmp_path: Path) -> None:
    write_sample(tmp_path / "again", SPEC, workers=2)
    assert _files(tmp_path / "again") == _files(sample)


def test_a_picture_depends_on_seed_split_and_number_alone() -> None:
    first = make_image(SPEC, "val", 3)
    assert first == make_image(replace(SPEC, train=7, val=9), "val", 3)
    others = [
        make_image(SPEC, "train", 3),
        make_image(SPEC, "val", 4),
        make_image(replace(SPEC, seed=6), "val", 3),
    ]
    assert all(other.data != first.data for other in others)


def test_clean_train_changes_labels_and_not_pixels() -> None:
    careless, clean = (make_image(replace(SPEC, clean_train=flag), "train", 0) for flag in (False, True))
    assert careless.data == clean.data
    assert careless.annotations != clean.annotations


# --- a valid COCO data set -------------------------------------------------------------------------------------------


def test_pycocotools_and_our_reader_take_the_files(sample: Path) -> None:
    from pycocotools import coco as pycoco

    for split in SPLITS:
        path = sample / f"annotations/person_keypoints_{split}.json"
        coco = pycoco.COCO(str(path))
        assert coco.loadCats([1])[0]["keypoints"] == list(COCO.joints)
        read = read_keypoint_annotations(path)
        assert len(read.ground_truth) == len(coco.anns)
        assert set(read.ground_truth.image_id) <= set(coco.imgs)


def test_the_second_skeleton_has_the_same_labels_in_another_order_and_is_added_to_older_samples(tmp_path: Path) -> None:
    out = tmp_path / "people"
    write_sample(out, SampleSpec(seed=5, train=4, val=3))
    before = _files(out)
    for split in SPLITS:
        large = read_keypoint_annotations(out / f"annotations/person_keypoints_{split}.json", unlabelled=True)
        small = read_keypoint_annotations(out / f"annotations/small_{split}.json", unlabelled=True)
        numbers = [_joint(name) for name in small.skeleton.joints]
        assert len(numbers) == 8
        assert numbers != sorted(numbers)
        np.testing.assert_array_equal(small.ground_truth.keypoints, large.ground_truth.keypoints[:, numbers])
        np.testing.assert_array_equal(small.skeleton.flip_order, SMALL.flip_order)
        assert small.skeleton.limbs == SMALL.limbs
        (out / f"annotations/small_{split}.json").unlink()
    assert not write_sample(out, SampleSpec(seed=5, train=4, val=3))
    assert _files(out) == before


def test_ids_and_files_are_unique_and_the_splits_disjoint(sample: Path, documents: dict[str, dict]) -> None:
    images = [image for split in SPLITS for image in documents[split]["images"]]
    annotations = [a for split in SPLITS for a in documents[split]["annotations"]]
    assert len({image["id"] for image in images}) == len(images) == SPEC.train + SPEC.val
    assert len({a["id"] for a in annotations}) == len(annotations)
    assert {image["file_name"] for image in images} == {path.name for path in (sample / "images").iterdir()}


def test_images_have_the_size_that_the_file_says_and_are_not_square(sample: Path, documents: dict[str, dict]) -> None:
    shapes = set()
    for image in documents["train"]["images"] + documents["val"]["images"]:
        pixels = cv2.imread(str(sample / "images" / image["file_name"]), cv2.IMREAD_UNCHANGED)
        assert pixels.shape[:2] == (image["height"], image["width"])
        assert image["height"] != image["width"]
        shapes.add(image["width"] > image["height"])
    assert shapes == {True, False}


def test_boxes_lie_within_the_image_and_visible_joints_within_the_image(documents: dict[str, dict]) -> None:
    for document in documents.values():
        sizes = {image["id"]: (image["width"], image["height"]) for image in document["images"]}
        for annotation in document["annotations"]:
            (x, y, w, h), (width, height) = annotation["bbox"], sizes[annotation["image_id"]]
            assert x >= 0 and y >= 0 and w > 0 and h > 0  # noqa: PT018
            assert x + w <= width + 0.01 and y + h <= height + 0.01  # noqa: PT018
            assert 0 < annotation["area"] <= width * height
            keypoints = np.reshape(annotation["keypoints"], (17, 3))
            assert annotation["num_keypoints"] == (keypoints[:, 2] > 0).sum()
            assert (keypoints[keypoints[:, 2] == 0] == 0).all()
            assert (keypoints[:, :2] <= np.array([width, height]) - 1).all()


# --- labels match the drawing --------------------------------------------------------------------------------------


def test_visible_joints_are_pixels_of_their_person(scenes: list[Scene]) -> None:
    for person in (person for scene in scenes for person in scene.people):
        columns, rows = np.round(person.joints[person.visible]).astype(int).T
        assert person.silhouette[rows, columns].all()


def test_left_is_at_larger_x_exactly_on_people_who_face_the_camera(scenes: list[Scene]) -> None:
    left, right = _joint("left_shoulder"), _joint("right_shoulder")
    checked = 0
    for person in (person for scene in scenes for person in scene.people):
        turn = np.cos(np.deg2rad(person.facing))
        upright = person.joints[_joint("left_hip"), 1] > person.joints[left, 1] + 10
        if abs(turn) > 0.8 and upright and person.pose not in ("bend", "squat", "free"):
            assert (person.joints[left, 0] > person.joints[right, 0]) == (turn > 0)
            checked += 1
    assert checked > 25


def test_the_face_is_seen_from_the_front_and_never_from_behind(scenes: list[Scene]) -> None:
    share = {}
    for name, sign in (("front", 1), ("back", -1)):
        faces = [p.visible[:3] for s in scenes for p in s.people if sign * np.cos(np.deg2rad(p.facing)) > 0.9]
        share[name] = np.mean(faces)
    assert share["front"] > 0.6
    assert share["back"] < 0.08  # some turn their head


def _face(facing: float) -> tuple[np.ndarray, np.ndarray]:
    """Dark pixels (n, 2) on the white head of a large white figure, and the labelled positions of its eyes (2, 2)."""
    pose = Pose("stand", np.zeros(3), np.zeros(3), np.zeros((2, 4)), np.zeros((2, 4)))
    rng = np.random.default_rng(0)
    white = np.full(3, 250, np.float32)
    outfit = replace(draw_outfit(rng), skin=white, hair=white, hair_style="bald", shirt=(white, white))
    figure = project(pose_figure(draw_build(rng), pose), Camera(facing, 0, 0, 8, 600, 150, 350, 0), 0)
    canvas = Canvas.over(np.full((700, 300, 3), 255, np.float32), np.array([0.0, 0.0, 1.0]))
    for solid in dress(figure, outfit):
        canvas.draw(solid, 1)
    chin = int(figure.points["nose"][1])
    rows, columns = np.nonzero(canvas.colour[:chin].max(2) < 60)
    return np.column_stack([columns, rows]), figure.joints()[[_joint("left_eye"), _joint("right_eye")], :2]


@pytest.mark.parametrize("facing", [0.0, 25.0, -25.0])
def test_painted_eyes_are_where_the_joints_say(facing: float) -> None:
    """In the pixels, every dark spot of the face is an eye, and both eyes are dark spots."""
    pixels, eyes = _face(facing)
    distances = np.linalg.norm(pixels[:, None] - eyes, axis=2)
    assert distances.min(1).max() < 12
    assert distances.min(0).max() < 4
    assert eyes[0, 0] > eyes[1, 0]


def test_a_head_has_no_eyes_behind() -> None:
    assert len(_face(180.0)[0]) == 0


def test_limbs_keep_their_length_in_every_pose() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        build, pose = draw_build(rng), draw_pose(rng)
        points = pose_figure(build, pose).points
        for side in ("left", "right"):
            thigh = points[f"{side}_hip"] - points[f"{side}_knee"]
            forearm = points[f"{side}_elbow"] - points[f"{side}_wrist"]
            assert np.linalg.norm(thigh) == pytest.approx(build.thigh)
            assert np.linalg.norm(forearm) == pytest.approx(build.forearm)
        assert pose.name in POSES


def test_knees_bend_backwards_and_elbows_forwards() -> None:
    arms, legs = np.array([[0, 0, 0, 90.0]] * 2), np.array([[0, 0, 0, 90.0]] * 2)
    points = pose_figure(
        draw_build(np.random.default_rng(0)), Pose("stand", np.zeros(3), np.zeros(3), arms, legs)
    ).points
    assert points["left_ankle"][2] < points["left_knee"][2] - 0.2
    assert points["left_wrist"][2] > points["left_elbow"][2] + 0.1


# --- noise of COCO's labels -------------------------------------------------------------------------------------------


def test_about_a_third_of_the_train_joints_is_unlabelled_and_val_is_clean(scenes: list[Scene]) -> None:
    rng = np.random.default_rng(0)
    labels = [annotate(scene, 1, rng, LabelNoise()) for scene in scenes]
    people = [np.reshape(a["keypoints"], (17, 3)) for entries in labels for a in entries if a["num_keypoints"]]
    assert 0.25 < (np.array(people)[..., 2] == 0).mean() < 0.42
    clean = [annotate(scene, 1, rng, None) for scene in scenes]
    assert clean == [annotate(scene, 1, np.random.default_rng(9), None) for scene in scenes]


def test_annotators_scatter_as_coco_measured() -> None:
    """Mean squared distance over area is sigma², COCO's definition of its constants."""
    rng, area = np.random.default_rng(1), 4000.0
    truth = np.tile([500.0, 500.0, 2.0], (17, 1))
    only_scatter = LabelNoise(blank_person=0, skip_visible=0, skip_hidden=0, swap=0)
    drawn = np.array([noisy_keypoints(rng, truth, area, (1000, 1000), only_scatter) for _ in range(2000)])
    squares = ((drawn[..., :2] - 500) ** 2).sum(-1).mean(0) / area
    np.testing.assert_allclose(np.sqrt(squares), COCO.spreads, rtol=0.06)


def test_swapped_arms_exchange_left_and_right_and_nothing_else() -> None:
    truth = np.column_stack([np.arange(17) * 10.0, np.arange(17) * 5.0, np.full(17, 2)])
    always = LabelNoise(blank_person=0, skip_visible=0, skip_hidden=0, swap=1, scatter=0)
    swapped = noisy_keypoints(np.random.default_rng(0), truth, 1000, (200, 100), always)
    np.testing.assert_array_equal(swapped[5:].reshape(6, 2, 3)[:, ::-1].reshape(12, 3), truth[5:])
    np.testing.assert_array_equal(swapped[:5], truth[:5])


def test_hidden_joints_are_labelled_where_their_place_can_be_told(scenes: list[Scene]) -> None:
    shares = []
    for person in (person for scene in scenes for person in scene.people):
        keypoints = clean_keypoints(person)
        if not person.visible.any():
            assert (keypoints == 0).all()
        assert (keypoints[:5, 2] != 1).all()
        assert ((keypoints[:, 2] == 2) <= person.visible).all()
        shares.append(keypoints[:, 2] == 1)
    assert 0.05 < np.mean(shares) < 0.12  # COCO: 0.08


def test_an_elbow_behind_a_thing_needs_both_neighbours_and_behind_the_body_one() -> None:
    elbow, shoulder, wrist = (_joint(f"left_{name}") for name in ("elbow", "shoulder", "wrist"))
    joints, nothing = np.full((17, 2), 20.0), np.zeros(17, bool)
    for seen, own, label in (
        ((shoulder,), (), 0),
        ((shoulder, wrist), (), 1),
        ((shoulder,), (elbow,), 1),
        ((), (elbow,), 0),
    ):
        visible, of_own = nothing.copy(), nothing.copy()
        visible[list(seen)] = True
        of_own[[*seen, *own]] = True
        person = Person(joints, visible, of_own, np.ones((40, 60), bool), 0.0, "stand")
        assert clean_keypoints(person)[elbow, 2] == label


# --- writing ---------------------------------------------------------------------------------------------------------


def test_the_same_sample_is_not_written_twice(sample: Path) -> None:
    before = (sample / MARKER).stat().st_mtime_ns
    assert not write_sample(sample, SPEC)
    assert (sample / MARKER).stat().st_mtime_ns == before


def test_another_sample_is_refused_and_replaced_only_when_asked(tmp_path: Path) -> None:
    out, small, other = tmp_path / "people", SampleSpec(1, 1, 1), SampleSpec(2, 1, 1)
    write_sample(out, small)
    with pytest.raises(SampleError, match=r"seed: 1 -> 2.*--overwrite"):
        write_sample(out, other)
    assert write_sample(out, other, overwrite=True)
    assert json.loads((out / MARKER).read_text())["seed"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["people"]


def test_a_foreign_folder_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(SampleError, match="is not a sample"):
        write_sample(tmp_path, SPEC, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_sample(tmp_path / "people", SPEC, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_overwrite_keeps_the_old_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "people"
    write_sample(out, SampleSpec(1, 1, 1))
    before = _files(out)
    monkeypatch.setattr(dataset, "draw_scene", lambda rng: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_sample(out, SampleSpec(2, 1, 1), overwrite=True)
    assert _files(out) == before


@pytest.mark.parametrize(("spec", "text"), [(SampleSpec(0, 0, 1), "got 0 train"), (SampleSpec(-1, 1, 1), "seed")])
def test_senseless_numbers_are_refused(tmp_path: Path, spec: SampleSpec, text: str) -> None:
    with pytest.raises(SampleError, match=text):
        write_sample(tmp_path / "people", spec)


def test_the_command_writes_a_contact_sheet_and_fails_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.png"
    command = ["--out", str(tmp_path / "people"), "--train", "1", "--val", "2", "--workers", "1"]
    assert main([*command, "--contact-sheet", str(sheet)]) == 0
    assert cv2.imread(str(sheet)).shape[2] == 3
    assert main([*command, "--seed", "3"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_the_split_with_few_labels_differs_from_train_in_nothing_but_keypoints(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out, keep = tmp_path / "people", 7
    shutil.copytree(sample, out)
    arguments = ["--out", str(out), "--train", "20", "--val", "10", "--seed", "5", "--few", str(keep)]
    assert main(arguments) == 0
    first = _files(out)
    assert main(arguments) == 0
    assert _files(out) == first
    assert first.keys() - _files(sample).keys() == {"annotations/person_keypoints_few.json"}
    assert _files(sample).items() <= first.items()
    train, few = (
        json.loads(first[f"annotations/person_keypoints_{split}.json"])["annotations"] for split in ("train", "few")
    )
    labelled = [annotation["id"] for annotation in train if annotation["num_keypoints"] and not annotation["iscrowd"]]
    assert len(labelled) > keep
    for before, after in zip(train, few, strict=True):
        bare = before["id"] in labelled[keep:]
        assert ("keypoints" in after) != bare
        keypoints = {"num_keypoints": 0} if bare else {"keypoints": before["keypoints"]}
        rest = before if not bare else {key: value for key, value in before.items() if key != "keypoints"}
        assert after == {**rest, **keypoints}
    read = read_keypoint_annotations(out / "annotations/person_keypoints_few.json", unlabelled=True).instances
    assert (read.keypoints[..., 2] > 0).any(axis=1).sum() == keep
    persons = sum(not annotation["iscrowd"] for annotation in train)
    assert f"{keep} of {persons} persons have labels in the split few" in capsys.readouterr().out
    assert main([*arguments[:-1], str(len(labelled) + 1)]) == 1
    assert f"error: --few takes 1 to {len(labelled)}, " in capsys.readouterr().err
    assert _files(out) == first


def test_a_contact_sheet_needs_the_name_of_a_picture(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as usage:
        main(["--out", str(tmp_path / "people"), "--contact-sheet", "sheet.txt"])
    assert usage.value.code == 2
