"""The gallery: COCO files that agree with the store, relative coordinates, and FiftyOne's dataset."""

import json
import math
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import cache
from kdlib.metrics.coco import instance_scores
from kdlib.metrics.keypoints import oks
from kdlib.skeletons.skeleton import COCO
from tests.support.stores.people import IMAGE_SIZE, make_store
from train.__main__ import main
from train.errors import TrainError
from train.evaluate import cached_teacher, measure
from train.show import MIN_LABELS
from train.show.gallery.__main__ import main as gallery_main
from train.show.gallery.app import check_fiftyone, check_port_free
from train.show.gallery.read import read_gallery, relative_box, relative_points
from train.show.gallery.write import annotations, results, write_gallery

ROOT = Path(__file__).resolve().parents[3]
PEOPLE = 5
"""Two persons in each of the first two images, one in the third."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("gallery") / "val.h5", PEOPLE, shift=1.5)


@pytest.fixture(scope="module")
def images(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name in set(store.instances["file_name"]):
        cv2.imwrite(str(folder / name), np.full((IMAGE_SIZE[1], IMAGE_SIZE[0], 3), 90, np.uint8))
    return folder


@pytest.fixture(scope="module")
def folder(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "gallery"
    write_gallery(store, {"teacher": cached_teacher(store)}, folder)
    return folder


def with_fiftyone():
    """An interpreter that has FiftyOne: this one, or that of `make fiftyone`."""
    for python in (sys.executable, str(ROOT / ".venv-fiftyone/bin/python"), os.environ.get("FIFTYONE_PYTHON", "")):
        try:
            check_fiftyone(python)
        except TrainError:
            continue
        return python
    return pytest.skip("FiftyOne is in no environment here (`make fiftyone` makes one, FIFTYONE_PYTHON names one)")


def dataset_name(gallery):
    about = json.loads((gallery / "ground_truth.json").read_text())["info"]
    return f"pose-{about['description']}-{about['content_sha256'][:8]}"


# --- the files --------------------------------------------------------------------------------------------------------


def test_coco_reads_the_files_and_measures_what_the_store_measures(store, folder):
    coco, cocoeval = (pytest.importorskip(f"pycocotools.{name}") for name in ("coco", "cocoeval"))
    truth = coco.COCO(str(folder / "ground_truth.json"))
    evaluation = cocoeval.COCOeval(truth, truth.loadRes(str(folder / "teacher.json")), "keypoints")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert 100 * evaluation.stats[0] == pytest.approx(measure(store, cached_teacher(store))["ap"], abs=1e-3)
    (category,) = truth.loadCats([1])
    assert category["keypoints"] == list(COCO.joints)
    assert [(a - 1, b - 1) for a, b in category["skeleton"]] == list(COCO.limbs)


def test_every_person_has_its_oks_and_its_share_of_right_joints(store):
    predictions = cached_teacher(store)
    entries = results(store, predictions)
    columns = store.instances
    assert [entry["annotation_id"] for entry in entries] == columns["annotation_id"].tolist()
    expected = oks(predictions.points, columns["keypoints"], columns["area"])
    assert [entry["oks"] for entry in entries] == pytest.approx(expected.tolist())
    assert [entry["score"] for entry in entries] == pytest.approx(
        instance_scores(columns["score"], predictions.scores).tolist()
    )
    for i, entry in enumerate(entries):
        offsets = predictions.points[i] - columns["keypoints"][i, :, :2]
        near = np.linalg.norm(offsets, axis=1) <= 0.05 * columns["bbox"][i, 2:].max()
        labelled = columns["keypoints"][i, :, 2] > 0
        assert entry["pck"] == pytest.approx(near[labelled].mean())


def test_a_person_without_labels_has_no_oks(store, tmp_path):
    columns = {name: np.array(store.instances[name]) for name in store.instances if name != "file_name"}
    columns["keypoints"][2, :, 2] = 0

    class Unlabelled:
        instances, manifest, spec, path = columns, store.manifest, store.spec, store.path

    entry = results(Unlabelled, cached_teacher(store))[2]
    assert (entry["oks"], entry["pck"]) == (None, None)


def test_what_is_no_gallery_is_left_alone_and_an_old_gallery_is_replaced(store, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/precious.json").write_text("x")
    with pytest.raises(TrainError, match="not empty and is not a gallery"):
        write_gallery(store, {}, tmp_path / "mine")
    assert (tmp_path / "mine/precious.json").read_text() == "x"
    predictions = cached_teacher(store)
    write_gallery(store, {"old": predictions, "teacher": predictions}, tmp_path / "ours")
    write_gallery(store, {"teacher": predictions}, tmp_path / "ours")
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == ["ground_truth.json", "teacher.json"]


# --- relative coordinates ---------------------------------------------------------------------------------------------


def test_points_and_boxes_are_over_width_and_height_of_an_image_that_is_not_square():
    assert relative_points([50, 30, 2, 100, 75, 0], 200, 150) == [(0.25, 0.2), (0.5, 0.5)]
    labelled = relative_points([50, 30, 1, 0, 0, 0], 200, 150, labelled_only=True)
    assert labelled[0] == (0.25, 0.2)
    assert all(math.isnan(value) for value in labelled[1])
    assert relative_box([20, 30, 100, 75], 200, 150) == [0.1, 0.2, 0.5, 0.5]


def test_every_image_holds_all_of_its_persons_and_every_field_the_same_ones(store, folder, images):
    gallery = read_gallery(folder, images)
    assert [len(picture.figures["ground_truth"]) for picture in gallery.images] == [2, 2, 1]
    for picture in gallery.images:
        ids = [[f.attributes["annotation_id"] for f in picture.figures[name]] for name in ("ground_truth", "teacher")]
        assert ids[0] == ids[1] == [about["annotation_id"] for _, about in picture.boxes]
        assert picture.path.is_absolute()


def test_labels_come_back_in_image_pixels_and_unlabelled_joints_are_nowhere(store, folder, images):
    keypoints = store.instances["keypoints"]
    figures = [f for picture in read_gallery(folder, images).images for f in picture.figures["ground_truth"]]
    for row, figure in enumerate(figures):
        points = np.array(figure.points) * IMAGE_SIZE
        labelled = keypoints[row, :, 2] > 0
        assert np.isnan(points[~labelled]).all()
        np.testing.assert_allclose(points[labelled], keypoints[row, labelled, :2], atol=1e-3)


def test_stores_of_one_path_and_other_contents_make_datasets_of_other_names(store, folder, images, tmp_path):
    truth = json.loads((folder / "ground_truth.json").read_text())
    digest = truth["info"]["content_sha256"]
    assert digest == store.manifest["content_sha256"]
    (tmp_path / "changed").mkdir()
    truth["info"]["content_sha256"] = digest[::-1]
    (tmp_path / "changed/ground_truth.json").write_text(json.dumps(truth))
    names = [read_gallery(gallery, images).name for gallery in (folder, tmp_path / "changed")]
    assert [name.removeprefix(truth["info"]["description"]) for name in names] == [
        f"-{digest[:8]}",
        f"-{digest[::-1][:8]}",
    ]
    assert names[0] != names[1]


def test_missing_images_are_refused_with_one_name(folder, images, tmp_path):
    with pytest.raises(TrainError, match=r"3 of 3 images are not in .*, e.g. .*000.jpg;"):
        read_gallery(folder, tmp_path)
    with pytest.raises(TrainError, match="is not a file of a gallery"):
        read_gallery(tmp_path, images)


def test_an_image_whose_name_has_another_unicode_form_is_found(folder, images, tmp_path):
    (tmp_path / "gallery").mkdir()
    for path in folder.glob("*.json"):
        content = json.loads(path.read_text())
        for image in content["images"] if isinstance(content, dict) else []:
            image["file_name"] = f"caf\u00e9/{image['file_name']}"
        (tmp_path / "gallery" / path.name).write_text(json.dumps(content))
    (tmp_path / "cafe\u0301").symlink_to(images)
    found = read_gallery(tmp_path / "gallery", tmp_path).images
    assert sorted(image.path.name for image in found) == sorted(path.name for path in images.iterdir())


# --- FiftyOne ---------------------------------------------------------------------------------------------------------


def test_an_interpreter_without_fiftyone_is_refused_before_anything_is_computed(store, images, tmp_path, capsys):
    (tmp_path / "python").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    for python in (tmp_path / "python", tmp_path / "nowhere"):
        places = ["--store", str(store.path), "--images", str(images), "--out", str(tmp_path / "out")]
        assert main(["fiftyone", *places, "--teacher", "--python", str(python)]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert not (tmp_path / "out").exists()


def test_a_port_that_another_program_has_is_refused_before_anything_is_computed(
    store, images, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("train.show.gallery.app.check_fiftyone", lambda python: None)
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    out = tmp_path / "out"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        places = ["--images", str(images), "--port", port]
        assert main(["fiftyone", "--store", str(store.path), "--teacher", "--out", str(out), *places]) == 1
        assert gallery_main(["--gallery", str(folder), *places]) == 1
    refusal = f"error: the App cannot use --port {port} (Address already in use); give another with --port N\n"
    assert capsys.readouterr().err == 2 * refusal
    assert not out.exists()


def test_a_free_port_is_free_again_after_the_look():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    check_port_free(port)
    socket.create_server(("127.0.0.1", port)).close()
    with pytest.raises(TrainError, match=r"--port 65536 .*give another"):
        check_port_free(65536)


def test_the_reading_half_needs_no_library_of_the_trainer(folder, images):
    program = (
        "import sys\nfrom pathlib import Path\nimport train.show.gallery.__main__\n"
        "from train.show.gallery.read import read_gallery\n"
        f"assert len(read_gallery(Path({str(folder)!r}), Path({str(images)!r})).images) == 3\n"
        "print(sorted({'torch', 'numpy', 'cv2', 'cache', 'zarr'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def in_fiftyone(program, tmp_path):
    """What a program that has FiftyOne prints, line by line."""
    database = {**os.environ, "FIFTYONE_DATABASE_DIR": str(tmp_path / "db"), "FIFTYONE_DO_NOT_TRACK": "true"}
    done = subprocess.run(
        [with_fiftyone(), "-c", program],
        cwd=ROOT,
        env=database,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()


@pytest.mark.slow
def test_fiftyone_sorts_persons_from_worst_to_best(store, folder, images, tmp_path):
    program = (
        "import json, math, fiftyone as fo\nfrom train.show.gallery.__main__ import main\n"
        f"arguments = ['--gallery', {str(folder)!r}, '--images', {str(images)!r}, '--no-app']\n"
        "assert main(arguments) == 0\n"
        "vars(fo).pop('ActiveFields', None)\n"  # as an older FiftyOne
        "assert main(arguments) == 0\n"
        f"dataset = fo.load_dataset({dataset_name(folder)!r})\n"
        "persons = sum(dataset.values('ground_truth.keypoints.points'), [])\n"
        "print(json.dumps({\n"
        "    'joints': dataset.default_skeleton.labels,\n"
        "    'images': len(dataset), 'boxes': dataset.count('boxes.detections'),\n"
        "    'unlabelled': sum(math.isnan(x) for person in persons for x, _ in person),\n"
        "    'oks': dataset.load_saved_view('worst persons: teacher').values('boxes.oks_teacher'),\n"
        "    'worst': dataset.load_saved_view('worst images: teacher').values('worst_oks_teacher')}))\n"
        "dataset.delete()"  # FiftyOne attaches to a database that already runs, whatever its folder
    )
    found = json.loads(in_fiftyone(program, tmp_path)[-1])
    assert found["joints"] == list(COCO.joints)
    assert (found["images"], found["boxes"]) == (3, PEOPLE)
    assert found["unlabelled"] == (store.instances["keypoints"][..., 2] == 0).sum()
    expected = sorted(entry["oks"] for entry in results(store, cached_teacher(store)))
    assert found["oks"] == pytest.approx(expected)
    assert found["worst"] == sorted(found["worst"])
    assert found["worst"][0] == pytest.approx(expected[0])


@pytest.fixture
def scarce(store, folder, tmp_path):
    """A gallery whose first person has five labelled joints and the lowest OKS; `baseline` is its better student."""
    truth = json.loads((folder / "ground_truth.json").read_text())
    person = truth["annotations"][0]
    person["keypoints"][2::3] = [2] * (MIN_LABELS - 1) + [0] * (len(COCO.joints) - MIN_LABELS + 1)
    person["num_keypoints"] = MIN_LABELS - 1
    entries = json.loads((folder / "teacher.json").read_text())
    for name, quality in (("teacher", 1.0), ("baseline", 0.8), ("distilled", 0.5)):
        predictions = [{**entry, "oks": quality * entry["oks"] if i else 0.0} for i, entry in enumerate(entries)]
        (tmp_path / "scarce").mkdir(exist_ok=True)
        (tmp_path / f"scarce/{name}.json").write_text(json.dumps(predictions))
    (tmp_path / "scarce/ground_truth.json").write_text(json.dumps(truth))
    return tmp_path / "scarce"


@pytest.mark.slow
def test_fiftyone_shows_each_of_the_worst_with_its_own_joints_and_opens_with_the_best_student(
    store, scarce, images, tmp_path
):
    program = (
        "import json, math, fiftyone as fo\nfrom train.show.gallery.__main__ import main\n"
        f"assert main(['--gallery', {str(scarce)!r}, '--images', {str(images)!r}, '--no-app']) == 0\n"
        f"dataset = fo.load_dataset({dataset_name(scarce)!r})\n"
        "crops = dataset.load_saved_view('worst persons: distilled')\n"
        "print(json.dumps({\n"
        "    'boxes': crops.values('boxes.annotation_id'),\n"
        "    'joints': crops.values('distilled.keypoints.annotation_id'),\n"
        "    'points': crops.values('distilled.keypoints.points'),\n"
        "    'limbs': crops.values('ground_truth_limbs.polylines.annotation_id'),\n"
        "    'lines': crops.values('ground_truth_limbs.polylines.points'),\n"
        "    'worst': dataset.load_saved_view('worst images: distilled').values('worst_oks_distilled'),\n"
        "    'active': dataset.app_config.active_fields.paths if hasattr(fo, 'ActiveFields') else None}))\n"
        "dataset.delete()"
    )
    found = json.loads(in_fiftyone(program, tmp_path)[-1])
    known = {entry["annotation_id"]: entry["oks"] for entry in json.loads((scarce / "distilled.json").read_text())[1:]}
    assert found["boxes"] == sorted(known, key=known.__getitem__)
    assert found["joints"] == found["limbs"] == [[annotation_id] for annotation_id in found["boxes"]]
    assert [len(points) for (points,) in found["points"]] == [len(COCO.joints)] * len(known)
    keypoints = dict(zip(store.instances["annotation_id"].tolist(), store.instances["keypoints"], strict=True))
    for annotation_id, (lines,) in zip(found["boxes"], found["lines"], strict=True):
        drawn = {tuple(np.round(np.multiply(point, IMAGE_SIZE), 1)) for line in lines for point in line}
        labelled = keypoints[annotation_id][keypoints[annotation_id][:, 2] > 0]
        assert drawn == {tuple(np.round(point, 1)) for point in labelled[:, :2].astype(float)}
    assert min(found["worst"]) == pytest.approx(min(known.values()))
    assert found["active"] in (None, ["ground_truth_limbs", "baseline"])


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["__init__", "wait"])
def test_ctrl_c_ends_the_app_and_its_address_has_the_port_that_was_asked_for(moment, tmp_path, monkeypatch):
    program = (
        "import types, fiftyone as fo, fiftyone.core.session.session as session\n"
        "from train.show.gallery.__main__ import _open_app\n"
        "def interrupt(*_, **__):\n    raise KeyboardInterrupt\n"
        "quiet = dict.fromkeys(['__init__', 'wait', 'close'], lambda *_, **__: None)\n"
        f"stub = {{**quiet, 'remote': True, 'server_port': 5262, {moment!r}: interrupt}}\n"
        "session.Session = type('Session', (), stub)\n"
        "_open_app(fo, types.SimpleNamespace(name='pose'), 5262)\n"
        "print('ended')"
    )
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    *addresses, ended = in_fiftyone(program, tmp_path)
    assert ended == "ended"
    ports = [re.findall(r"\b5\d{3}\b", line) for line in addresses]
    assert ports == ([["5262"], ["5262", "5262"]] if moment == "wait" else [])


def test_fiftyone_without_a_database_is_refused_in_one_line(folder, images):
    program = (
        "import sys, fiftyone.core.odm.database as database\nfrom train.show.gallery.__main__ import main\n"
        "def missing():\n    raise database.fos.ServiceExecutableNotFound('mongod')\n"
        "database.fos.DatabaseService = missing\n"
        f"sys.exit(main(['--gallery', {str(folder)!r}, '--images', {str(images)!r}, '--no-app']))"
    )
    environment = {**os.environ, "FIFTYONE_DO_NOT_TRACK": "true"}
    done = subprocess.run(
        [with_fiftyone(), "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "docs/looking.md" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_the_annotations_of_a_store_are_its_written_persons(store):
    document = annotations(store)
    assert [image["width"] for image in document["images"]] == [IMAGE_SIZE[0]] * 3
    assert [annotation["id"] for annotation in document["annotations"]] == list(range(1000, 1000 + PEOPLE))
    assert cache.open_store(store.path).manifest["content_sha256"] == document["info"]["content_sha256"]
