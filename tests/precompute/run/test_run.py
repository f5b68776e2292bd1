"""The run from images to a store: its content, its errors, and what survives an interruption."""

import dataclasses
import json
import re
import shutil

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import cache
from kdlib.geometry import box_to_region, clip_boxes, compose_affines, region_affine
from kdlib.heatmaps import flip_average
from kdlib.inputs.image_files import ImageFileError, read_image_file
from kdlib.resample.exact import crop_image
from kdlib.skeletons.skeleton import COCO
from precompute.__main__ import main
from precompute.run import check as checking
from precompute.run import pipeline, provenance
from precompute.teacher.hrnet import build_hrnet
from precompute.teacher.loading import load_teacher, mirror
from tests.support import tiny_precompute
from tests.support.tiny_precompute import command


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_precompute.write(tmp_path_factory.mktemp("data"))


def refused(capsys, arguments):
    assert main(arguments) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    return lines[-1]


@pytest.fixture(scope="module")
def store(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "exact.zarr"
    assert main(command(data, path, "--codec", "float32", "--views", "4")) == 0
    return cache.open_store(path)


def test_the_store_holds_the_teachers_maps_of_the_official_crops(data, store):
    teacher = load_teacher("hrnet_w16_sample", data / "teacher.safetensors", input_size=(96, 128), precision="fp32")
    columns = store.instances
    assert sorted(columns["annotation_id"].tolist()) == list(range(700, 711))
    assert columns["image_id"].tolist() == sorted(columns["image_id"].tolist())
    regions = box_to_region(clip_boxes(columns["bbox"], columns["image_size"]), (96, 128))
    for i in range(len(store)):
        image = read_image_file(data / "images" / columns["file_name"][i], tuple(columns["image_size"][i]))
        affine = region_affine(regions[0][i], regions[1][i], (96, 128))
        crop = crop_image(image, affine, (96, 128))[None]
        np.testing.assert_allclose(store.heatmap(i, 0), teacher(crop)[0], atol=1e-4)
        np.testing.assert_allclose(store.heatmap(i, 1), teacher(mirror(crop))[0], atol=1e-4)
        np.testing.assert_allclose(compose_affines(store.view_affine[i, 0], store.frame_affine[i]), affine, atol=1e-8)
        for v in range(4):
            seen = crop_image(image, compose_affines(store.view_affine[i, v], store.frame_affine[i]), (96, 128))
            np.testing.assert_allclose(store.heatmap(i, v), teacher(seen[None])[0], atol=2e-2)
    assert store.view_flip.tolist() == [0, 1, 0, 1]
    assert (np.linalg.det(store.view_affine[0, :, :, :2]) < 0).tolist() == [False, True, False, True]


def test_frames_are_the_image_under_their_affine(data, store):
    columns = store.instances
    for i in range(len(store)):
        frame = cv2.imdecode(np.frombuffer(store.frame(i), np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
        image = read_image_file(data / "images" / columns["file_name"][i], tuple(columns["image_size"][i]))
        exact = crop_image(image, store.frame_affine[i], (120, 160))
        assert frame.shape == (160, 120, 3)
        assert np.abs(frame.astype(int) - exact).mean() < 4


def test_a_store_holds_the_average_of_crop_and_mirror_unless_views_are_asked_for(data, store, tmp_path):
    both = store.heatmaps(range(len(store)))
    for name, flags in (("default.zarr", ()), ("asked.h5", ("--flip-test",))):
        assert main(command(data, tmp_path / name, "--codec", "float32", *flags)) == 0
        averaged = cache.open_store(tmp_path / name)
        np.testing.assert_allclose(
            averaged.heatmaps(range(len(store)))[:, 0], flip_average(both[:, 0], both[:, 1], COCO.flip_order), atol=1e-4
        )
        assert averaged.view_flip.tolist() == [0]
        assert averaged.manifest["provenance"]["teacher"]["flip_test"] is True


def test_the_manifest_tells_where_everything_comes_from_and_no_path(data, store):
    provenance = store.manifest["provenance"]
    teacher = load_teacher("hrnet_w16_sample", data / "teacher.safetensors", input_size=(96, 128))
    assert provenance["teacher"]["weights_sha256"] == teacher.weights_sha256
    assert provenance["teacher"]["input_size"] == [96, 128]
    assert provenance["dataset"]["annotations"]["name"] == "person_keypoints_train.json"
    assert {"torch", "opencv", "libjpeg", "numpy", "project"} <= set(provenance["software"])
    assert store.manifest["teacher_metrics"]["instances"] == 11
    assert "noticed" not in provenance
    assert str(data.parent) not in json.dumps(provenance)


def test_an_interrupted_run_resumes_to_the_same_content(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("cache.format.spec.default_shard_instances", lambda _: 3)
    assert main(command(data, tmp_path / "whole.zarr")) == 0
    original, calls = pipeline.launch_maps, []

    def interrupt(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(pipeline, "launch_maps", interrupt)
    interrupted = refused(capsys, command(data, tmp_path / "cut.zarr"))
    assert "run the same command with --resume to continue" in interrupted
    to_go = int(re.search(r"(\d) of 4 shards left", interrupted)[1])
    assert not (tmp_path / "cut.zarr").exists()
    monkeypatch.setattr(pipeline, "launch_maps", original)
    assert "an unfinished run" in refused(capsys, command(data, tmp_path / "cut.zarr"))
    with monkeypatch.context() as patched:
        patched.setattr("kdcli.progress.FIRST_LINE", 0.0)
        assert main(command(data, tmp_path / "cut.zarr", "--resume")) == 0
    first, *_, last = capsys.readouterr().err.splitlines()
    assert re.match(r"teacher: \d+/11 instances, [\d.]+/s, \d+ s to go$", first)
    assert last.startswith(f"teacher: {11 - 3 * (4 - to_go)} instances in ")  # the remaining ones
    whole, cut = (cache.open_store(tmp_path / name) for name in ("whole.zarr", "cut.zarr"))
    assert whole.manifest["content_sha256"] == cut.manifest["content_sha256"]
    capsys.readouterr()
    assert main(command(data, tmp_path / "cut.zarr", "--resume")) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert "teacher.flip_test: true -> false" in refused(
        capsys, command(data, tmp_path / "cut.zarr", "--resume", "--views", "1")
    )
    assert "exists; use it, or replace it with --overwrite" in refused(capsys, command(data, tmp_path / "cut.zarr"))


def copy_of(data, tmp_path):
    shutil.copytree(data, tmp_path / "copy")
    return tmp_path / "copy"


def test_missing_and_broken_images_are_named_and_left_out_on_request(data, tmp_path, capsys):
    copy = copy_of(data, tmp_path)
    (copy / "images/003.jpg").unlink()
    line = refused(capsys, command(copy, tmp_path / "s.zarr"))
    assert "1 of 6 images are missing" in line
    assert "003.jpg" in line
    whole = (copy / "images/004.jpg").read_bytes()
    (copy / "images/004.jpg").write_bytes(whole[: len(whole) // 2])
    assert main(command(copy, tmp_path / "s.zarr", "--skip-missing")) == 0
    captured = capsys.readouterr()
    assert "004.jpg is truncated" in captured.err
    assert (
        "noticed: persons left out because their image is missing: 2 (annotation 705, annotation 706)" in captured.err
    )
    assert "noticed: persons left out because their image cannot be read: 2 (annotation 707, " in captured.err
    assert "2 skipped" in captured.out
    store = cache.open_store(tmp_path / "s.zarr")
    assert list(store.manifest["provenance"]["noticed"].values()) == [2, 2]
    assert main(command(copy, tmp_path / "s.zarr", "--skip-missing", "--resume")) == 0  # a notice is no difference
    assert len(store) == 9
    assert int(store.written.sum()) == 7


def test_the_run_ends_with_what_was_noticed_and_the_manifest_holds_it(data, tmp_path, capsys):
    copy = copy_of(data, tmp_path)
    path = copy / "annotations/person_keypoints_train.json"
    document = json.loads(path.read_text())
    for number, annotation in enumerate(document["annotations"]):
        annotation |= {"id": f"person-{number}", "area": 0 if number < 5 else 2000.0, "iscrowd": number == 7}
    path.write_text(json.dumps(document))
    assert main(command(copy, tmp_path / "s.zarr")) == 0
    noticed = [line.removeprefix("noticed: ") for line in capsys.readouterr().err.splitlines() if "noticed" in line]
    assert noticed == [
        "annotations numbered 1, 2, ... because an id is no 64-bit integer: 11 (id 'person-0', ...)",
        "areas computed from the box: 5 (annotation 'person-0', annotation 'person-1', annotation 'person-2', ...)",
        "persons left out because they are crowds: 1 (annotation 8)",
    ]
    store = cache.open_store(tmp_path / "s.zarr")
    assert list(store.manifest["provenance"]["noticed"].values()) == [11, 5, 1]
    assert store.ground_truth["area"].tolist() == [4200.0] * 5 + [2000.0] * 6
    assert store.ground_truth["annotation_id"].tolist() == list(range(1, 12))


def test_a_truncated_image_stops_the_run_and_the_mended_one_resumes(data, tmp_path, capsys):
    copy = copy_of(data, tmp_path)
    whole = (copy / "images/004.jpg").read_bytes()
    (copy / "images/004.jpg").write_bytes(whole[: len(whole) // 2])
    assert "004.jpg is truncated" in refused(capsys, command(copy, tmp_path / "s.zarr"))
    assert not (tmp_path / "s.zarr").exists()
    (copy / "images/004.jpg").write_bytes(whole)
    assert main(command(copy, tmp_path / "s.zarr", "--resume")) == 0
    assert cache.open_store(tmp_path / "s.zarr").written.all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: d["annotations"][0].update(bbox=[900.0, 5.0, 40.0, 40.0]),
            "1 box without area inside the image",
        ),
        (lambda d: d["images"][0].update(width=77), "annotated as 77x"),
        (lambda d: [a.update(keypoints=[0] * 51) for a in d["annotations"]], "no usable instance among 11"),
        (lambda d: [a.pop("keypoints") for a in d["annotations"]], "none has keypoints"),
    ],
)
def test_annotations_that_do_not_fit_are_refused(data, tmp_path, capsys, change, message):
    copy = copy_of(data, tmp_path)
    path = copy / "annotations/person_keypoints_train.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    assert message in refused(capsys, command(copy, tmp_path / "s.zarr"))
    assert not (tmp_path / "s.zarr").exists()


def test_wrong_commands_are_refused_in_one_line(data, tmp_path, capsys):
    base = command(data, tmp_path / "s.zarr")
    assert "has no keypoint annotations of the split 'val'" in refused(capsys, [*base, "--split", "val"])
    assert "give the data either with --data DIR --split NAME, or with --images DIR" in refused(
        capsys, [*base, "--images", str(data)]
    )
    assert "needs its weights" in refused(capsys, [*base[:6], "--store", str(tmp_path / "s.zarr")])
    assert "unknown teacher 'resnet'" in refused(
        capsys, ["--data", str(data), "--teacher", "resnet", "--store", "s.zarr"]
    )
    nowhere = ["--data", str(tmp_path / "none"), "--store", "s.zarr", "--teacher"]
    assert "did you mean hrnet_w32" in refused(capsys, [*nowhere, "hrnet_w23"])  # before the data are read
    assert "did you mean hrnet_w48" in refused(capsys, [*nowhere, "hrnet_w32", "--ensemble", "hrnet_w84=b.pth"])
    assert "did you mean root4?" in refused(capsys, [*nowhere, "hrnet_w32", "--codec", "rot4:64"])
    assert "must end in one of" in refused(capsys, command(data, tmp_path / "s.npz"))
    for scale in ("0", "0.001", "inf", "nan"):
        assert f"--frame-scale {scale} gives frames without pixels" in refused(capsys, [*base, "--frame-scale", scale])
    assert "--seed must be 0 or more, got -1" in refused(capsys, [*base, "--seed", "-1"])


def test_the_limit_takes_the_first_persons_and_the_ground_truth_follows(data, tmp_path):
    assert main(command(data, tmp_path / "s.zarr", "--limit", "4")) == 0
    store = cache.open_store(tmp_path / "s.zarr")
    assert len(store) == 4
    assert sorted(store.ground_truth["annotation_id"].tolist()) == sorted(store.instances["annotation_id"].tolist())


@pytest.mark.parametrize("count", ["1", "2", "3"])
def test_check_takes_a_batch_of_any_size(data, store, capsys, count):
    """The control splits a batch into halves; one instance is a special case."""
    assert main(command(data, store.path, "--views", "4", "--check", count)) == 0
    assert f"{count} of 11 instances" in capsys.readouterr().out


def test_check_passes_on_its_own_store_and_refuses_another_teacher(data, store, tmp_path, capsys):
    assert main(command(data, store.path, "--views", "4", "--check", "5")) == 0
    assert "5 of 11 instances" in capsys.readouterr().out
    torch.manual_seed(1)
    other = build_hrnet("hrnet_w16_sample")
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    arguments = command(data, store.path, "--views", "4", "--check", "5")
    arguments[arguments.index(str(data / "teacher.safetensors"))] = str(tmp_path / "other.safetensors")
    assert "give the teacher that made it" in refused(capsys, arguments)
    assert "was made with other views" in refused(capsys, command(data, store.path, "--check", "5"))


def test_check_refuses_a_store_of_other_joints(data, store, capsys, monkeypatch):
    other = dataclasses.replace(COCO, joints=("snout", *COCO.joints[1:]))
    monkeypatch.setattr(checking, "store_skeleton", lambda store: other)
    error = refused(capsys, command(data, store.path, "--views", "4", "--check", "5"))
    assert "holds other joints than this command has: joint 1 is 'snout', not 'nose'" in error


def test_check_is_read_against_the_codec_and_a_second_run(data, tmp_path, capsys):
    """On one machine, a teacher computes the same values twice, and the store differs only by the codec's error."""
    assert main(command(data, tmp_path / "s.zarr")) == 0
    capsys.readouterr()
    assert main(command(data, tmp_path / "s.zarr", "--check", "11", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is True
    assert found["control"]["worst"] < 1e-7
    stated = cache.open_store(tmp_path / "s.zarr").manifest["codec_error"]["log_t1"]
    assert found["stated"] == {name: stated[name] for name in ("mean", "worst")}
    assert found["store"]["mean"] == pytest.approx(stated["mean"], rel=0.05)  # all instances were checked
    assert found["store"]["worst"] == pytest.approx(stated["worst"], rel=0.05)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_check_notices_what_the_codec_does_not_explain(data, tmp_path, capsys, monkeypatch, elsewhere):
    """Heatmaps with unmoved maxima and 5 % more contrast, made here or with another version of torch."""
    original, software = pipeline.launch_maps, provenance.software

    def contrast(*given):
        wait = original(*given)
        return lambda: np.sign(maps := wait()) * np.abs(maps) ** 1.05

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "launch_maps", contrast)
        if elsewhere:
            patched.setattr(provenance, "software", lambda: {**software(), "torch": "1.0"})
        assert main(command(data, tmp_path / "s.zarr")) == 0
    arguments = command(data, tmp_path / "s.zarr", "--check", "5")
    if elsewhere:
        assert main(arguments) == 0
        assert "computed differently: torch was 1.0 and is" in capsys.readouterr().out
    else:
        assert "differ by more than codec and machine explain" in refused(capsys, arguments)


def test_check_notices_other_images(data, tmp_path, capsys):
    copy = copy_of(data, tmp_path)
    for path in (copy / "images").iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path))[::-1, ::-1])
    assert main(command(data, tmp_path / "s.zarr")) == 0
    assert "different teacher, preprocessing or data" in refused(
        capsys, command(copy, tmp_path / "s.zarr", "--check", "11")
    )


def test_a_dry_run_says_what_it_will_cost_and_writes_nothing(data, tmp_path, capsys):
    assert main(command(data, tmp_path / "s.zarr", "--dry-run")) == 0
    page = capsys.readouterr().out
    assert "11 in 6 images, 1 stored view each, averaged with its mirror" in page
    assert "instances/s" in page
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "views", "flip_test"),
    [
        ((), 1, True),
        (("--no-flip-test",), 1, False),
        (("--views", "1"), 1, False),
        (("--views", "2"), 2, False),
        (("--views", "2", "--flip-test"), 2, True),
    ],
)
def test_one_view_is_averaged_with_its_mirror_and_several_where_asked(data, tmp_path, capsys, flags, views, flip_test):
    assert main(command(data, tmp_path / "s.zarr", "--dry-run", "--json", *flags)) == 0
    cost = json.loads(capsys.readouterr().out)
    assert (cost["views"], cost["flip_test"]) == (views, flip_test)


@pytest.mark.parametrize("layout", ["zarr", "h5"])
def test_a_dry_run_estimates_the_size_of_the_store(data, tmp_path, capsys, layout):
    """Within 10 % of the real size; the estimate rounds the columns up."""
    path = tmp_path / f"s.{layout}"
    assert main(command(data, path, "--dry-run", "--json", "--codec", "float32")) == 0
    cost = json.loads(capsys.readouterr().out)
    assert cost["disk_bytes"] == cost["store_bytes"] * (1 if layout == "zarr" else 2)
    assert cost["fits"] is True
    assert main(command(data, path, "--codec", "float32")) == 0
    files = [path] if path.is_file() else path.rglob("*")
    assert cost["store_bytes"] == pytest.approx(sum(f.stat().st_size for f in files if f.is_file()), rel=0.1)


def test_missed_persons_and_empty_images_count_with_detections(data, tmp_path):
    boxes = [{"image_id": 50, "category_id": 1, "bbox": [5.0, 5.0, 60.0, 70.0], "score": 0.5}]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    assert main(command(data, tmp_path / "s.zarr", "--boxes", str(tmp_path / "boxes.json"))) == 0
    store = cache.open_store(tmp_path / "s.zarr")
    assert store.instances["annotation_id"].tolist() == [-1]
    assert len(store.ground_truth["annotation_id"]) == 11
    assert store.manifest["teacher_metrics"]["pck@0.05"] is None


def test_overwrite_wins_over_resume(data, tmp_path, capsys):
    assert main(command(data, tmp_path / "s.zarr", "--limit", "3")) == 0
    assert main(command(data, tmp_path / "s.zarr", "--limit", "4", "--resume", "--overwrite")) == 0
    assert len(cache.open_store(tmp_path / "s.zarr")) == 4


def test_photographs_are_rgb_unrotated_and_whole(tmp_path):
    pixels = np.zeros((20, 31, 3), np.uint8)
    pixels[:, :, 0] = 250  # blue in OpenCV's order
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    assert read_image_file(tmp_path / "a.png", (31, 20))[0, 0].tolist() == [0, 0, 250]
    cv2.imwrite(str(tmp_path / "g.jpg"), pixels[:, :, 1])
    grey = read_image_file(tmp_path / "g.jpg", (31, 20))
    assert (grey == grey[:, :, :1]).all()
    for content, message in (
        (b"", "not an image that OpenCV can read"),
        (b"\xff\xd8 junk", "truncated"),
        (b"GIF8", "not an image"),
    ):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(ImageFileError, match=message):
            read_image_file(tmp_path / "x", (31, 20))
    with pytest.raises(ImageFileError, match="cannot read the image"):
        read_image_file(tmp_path / "nothing.jpg", (31, 20))
