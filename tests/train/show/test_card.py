"""Model cards: every number comes from the run, the examples run as they stand, and what is not known is said."""

import html
import json
import re
import shlex
import xml.etree.ElementTree as ET

import cv2
import numpy as np
import pytest
import torch

from kdlib.students import load_student
from tests.support.stores.people import HEATMAP_SIZE, INPUT_SIZE, make_store
from tests.support.trained_student import make_checkpoint, make_run
from train.__main__ import main
from train.run.folder import FILES
from train.show.card.writing import MARK
from train.show.report.comparison import read_numbers
from train.show.report.markup import DASH, TIMES, fixed, signed

NASTY = "<b>a|b</b> `c` *d* _e_ [f](g)"
TEACHER = {"name": NASTY, "weights_sha256": "ab" * 32, "input_size": INPUT_SIZE, "heatmap_size": HEATMAP_SIZE}
PROVENANCE = {
    "teacher": TEACHER,
    "dataset": {"split": "train", "annotations": {"name": "people.json", "sha256": "cd" * 32}},
    "licence": "Ask the <owner>.",
}
CURVE = "Learning curves"


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return make_store(folder / "train.zarr", 6, provenance=PROVENANCE), make_store(folder / "val.h5", 8, shift=0.7)


@pytest.fixture(scope="module")
def runs(stores, tmp_path_factory):
    """A folder with a distilled run, a baseline, and their report."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("baseline", "distilled")):
        make_run(folder / name, *stores, name=name, seed=seed)
    both = [str(folder / name) for name in ("baseline", "distilled")]
    assert main(["report", "--store", str(stores[1].path), "--runs", *both, "--out", str(folder / "report.html")]) == 0
    return folder


@pytest.fixture
def run(stores, tmp_path):
    """A run without a report."""
    return make_run(tmp_path / "a run", *stores)


def card(run, *flags):
    assert main(["card", str(run), *map(str, flags)]) == 0
    return (run / "card.md").read_text(encoding="utf-8")


def header(text):
    hub = pytest.importorskip("huggingface_hub")
    return hub.ModelCard(text).data


def refused(capsys, *words):
    assert main(["card", *map(str, words)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def table(text, section):
    part = text.split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in part.splitlines() if line.startswith("| ")]
    return [row for row in rows if set("".join(row)) != {"-"}]


def test_the_hub_reads_the_header_and_the_metrics_are_the_runs(run):
    data = header(card(run, "--license", "cc-by-4.0"))
    assert (data.license, data.pipeline_tag, data.library_name) == (
        "cc-by-4.0", "keypoint-detection", "pose-teacher-cache"
    )  # fmt: skip
    assert "knowledge-distillation" in data.tags
    metrics = json.loads((run / "metrics.json").read_text())
    found = {result.metric_type: result.metric_value for result in data.eval_results}
    assert found == {key: metrics[key] for key in ("ap", "ap50", "ar", "pck@0.05", "pck@0.1", "pck@0.2")}
    assert {result.dataset_name for result in data.eval_results} == {"val.h5"}


def test_the_numbers_are_of_run_report_and_teacher_with_the_reports_intervals(runs, stores):
    text, found = card(runs / "distilled"), read_numbers(runs / "report.html")
    head, *rows = table(text, "Numbers")
    assert head == ["percent", "this student", "baseline", "the store's teacher"]
    metrics = json.loads((runs / "distilled/metrics.json").read_text())
    for key, row in zip(("ap", "ap50", "ar", "pck@0.05", "pck@0.1", "pck@0.2"), rows, strict=True):
        others = (found["students"][0]["metrics"][key], found["teacher"][key])
        assert row[1:] == [fixed(metrics[key]), *map(fixed, others)]
    (pair,) = found["pairs"]
    difference = found["students"][1]["metrics"]["pck@0.05"] - found["students"][0]["metrics"]["pck@0.05"]
    low, high = pair["intervals"]["pck@0.05"]
    assert f"{signed(difference)} PCK@0.05 (95 % interval {signed(low)} to {signed(high)})" in text
    baseline = card(runs / "baseline")
    assert table(baseline, "Numbers")[0][2] == "distilled"
    assert "trained on labels" in baseline.split("\n## ")[0]
    assert "on the frames and labels of this store, not on its heatmaps" in baseline


def test_a_report_of_another_checkpoint_or_store_is_not_used(runs, stores, tmp_path, capsys):
    other = make_run(tmp_path / "runs/distilled", *stores, seed=7)
    (tmp_path / "runs/report.html").write_bytes((runs / "report.html").read_bytes())
    assert "95 % interval" not in card(other)
    assert "is not a report of" in refused(capsys, other, "--report", runs / "report.html")
    assert "cannot read the report" in refused(capsys, other, "--report", tmp_path / "none.html")


def test_the_curve_has_a_point_per_epoch_and_is_xml(run):
    text = card(run)
    assert "](<card.svg>)" in text
    root = ET.parse(run / "card.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    titles = [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")]
    assert [title for title in titles if title.startswith("AP,")] == [
        "AP, epoch 1: 3.0", "AP, epoch 2: 21.2", "AP, epoch 3: 20.0"
    ]  # fmt: skip
    assert len([title for title in titles if title.startswith("teacher,")]) == 3


def test_the_examples_run_as_they_stand(run, stores, monkeypatch):
    text = card(run)
    photo = np.random.default_rng(0).integers(0, 256, (430, 250, 3), np.uint8)
    (run / "images").mkdir()
    for name in ("photo.jpg", "images/1.jpg"):
        cv2.imwrite(str(run / name), photo)
    (run / "detections.json").write_text(
        json.dumps([{"image_id": 1, "category_id": 1, "bbox": [48, 20, 180, 400], "score": 0.9}])
    )
    monkeypatch.chdir(run)
    variables = {}
    (python,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(python, variables)
    wanted = load_student("best.pt").predict("photo.jpg", [[48, 20, 180, 400]])
    np.testing.assert_array_equal(variables["keypoints"], wanted)
    assert wanted.shape == (1, 17, 3)
    predict, training = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    for line in predict.splitlines():
        words = shlex.split(line)
        assert words[:3] == ["python", "-m", "train"]
        assert main(words[3:]) == 0
        (found,) = json.loads((run / "predictions/keypoints.json").read_text())
        assert len(found["keypoints"]) == 51
    assert training.startswith("python -m train distill --store train.zarr --val-store val.h5")


def test_the_manifests_are_in_the_run_or_given_and_their_absence_is_said(stores, tmp_path, capsys):
    recorded = card(make_run(tmp_path / "recorded", *stores))
    for fact in ("ab" * 32, "cd" * 32, "people.json", stores[0].manifest["content_sha256"], "root4", "Ask the"):
        assert fact in recorded
    assert "Teacher: not stated in the store's manifest" in recorded
    old = make_run(tmp_path / "old", *stores, manifests=False)
    without = card(old)
    assert without.count("The manifest of this store was not available") == 2
    assert "ab" * 32 not in without
    assert "It is not known which persons these are" in without
    assert header(without).eval_results is None
    assert stores[0].manifest["content_sha256"] in without
    given = card(old, "--store", stores[1].path, stores[0].path)
    assert given.split("\n# ")[1] == recorded.split("\n# ")[1].replace("--out recorded", "--out old")
    foreign = make_store(tmp_path / "foreign.zarr", 3)
    error = refused(capsys, old, "--store", foreign.path)
    assert f"{foreign.path} is not a store of {old}" in error
    assert "train.zarr (" in error


def test_a_licence_that_the_manifest_states_is_quoted(stores, tmp_path):
    licences = {"teacher": {**TEACHER, "licence": "CC BY-NC 4.0"}, "dataset": {"licenses": [{"id": 1, "name": "PDM"}]}}
    store = make_store(tmp_path / "train.zarr", 6, provenance=licences)
    text = card(make_run(tmp_path / "run", store, stores[1]))
    assert "Teacher: CC BY-NC 4.0." in text
    assert "Images and labels: PDM." in text
    assert "Student: not stated" in text


def test_names_from_a_manifest_are_text_not_markup(run):
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    text = card(run)
    page = markdown.render(text.split("---\n", 2)[2].replace(MARK, ""))
    expected = ["h1", "h2", "h3", "p", "code", "pre", "ul", "li", "table", "thead", "tbody", "th", "td", "tr", "img"]
    assert set(re.findall(r"<(\w+)", page)) <= set(expected)
    assert f"<td>{html.escape(NASTY)}</td>" in page
    assert page.count("<tr>") == text.count("\n| ") - text.count("| --- |\n")


def test_the_samples_numbers_come_with_a_warning_and_are_not_for_comparison(stores, tmp_path):
    sample = make_store(tmp_path / "train.zarr", 6, provenance={"teacher": {**TEACHER, "name": "hrnet_w16_sample"}})
    text = card(make_run(tmp_path / "run", sample, stores[1]))
    assert text.count("they say nothing about human pose") == 2
    assert header(text).eval_results is None


def test_an_unfinished_run_and_one_without_any_evaluation_say_so(run, tmp_path):
    (run / "metrics.json").unlink()
    text = card(run)
    assert "The run is not finished: 3 of 3 epochs are recorded" in text
    assert table(text, "Numbers")[1][1] == "21.2"  # of epoch 2, whose student best.pt is
    assert header(text).eval_results is None
    (run / "evaluation.json").write_text(json.dumps({"ap": 44.4, "store": "val.h5", "instances": 8, "cpu_ms": 4.4}))
    text = card(run)
    assert table(text, "Numbers")[1][1] == "44.4"
    assert "4.4 ms per crop" in text
    for name in ("history.jsonl", "evaluation.json"):
        (run / name).unlink()
    (run / "card.svg").unlink()
    text = card(run)
    assert "Not evaluated." in text
    assert "no learning curve" in text
    assert CURVE not in text
    assert not (run / "card.svg").exists()


def test_metrics_that_do_not_exist_are_dashes(run):
    metrics = json.loads((run / "metrics.json").read_text())
    absent = {key: None if key.startswith(("ap", "ar", "pck")) else value for key, value in metrics.items()}
    (run / "metrics.json").write_text(json.dumps(absent))
    lines = [json.loads(line) | {"ap": None, "pck@0.05": None} for line in (run / "history.jsonl").open()]
    (run / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = card(run)
    assert [row[:2] for row in table(text, "Numbers")[1:]] == [
        ["AP (COCO keypoint average precision, mean over OKS .50 to .95)", DASH],
        ["PCK@0.05 (joints within 5 % of the box's longer side)", DASH],
    ]
    assert header(text).eval_results is None


def test_a_checkpoint_of_an_old_version_alone_has_a_card(tmp_path):
    make_checkpoint(tmp_path / "best.pt")
    content = torch.load(tmp_path / "best.pt", weights_only=True)
    for setting in ("stride", "backbone_norm"):
        del content["recipe"][setting]
    torch.save(content, tmp_path / "best.pt")
    text = card(tmp_path)
    assert "Not evaluated." in text
    assert f"64{TIMES}48" in text
    assert "python -m train distill" not in text


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: run / "none", "there is no run at"),
        (lambda run: (run / "best.pt").unlink() or run, "has no best.pt yet: no epoch of the run is finished"),
        (lambda run: [(run / name).unlink() for name in ("best.pt", "config.json")] and run, "is not a run folder"),
        (lambda run: (run / "best.pt").write_text("x") and run, "is not a student's checkpoint"),
        (lambda run: run / "config.json", "is not a student's checkpoint"),
        (lambda run: (run / "metrics.json").write_text("{") and run, "metrics.json is not a file that a run wrote"),
        (lambda run: (run / "metrics.json").write_text("7") and run, "metrics.json is not a file that a run wrote"),
        (lambda run: (run / "history.jsonl").write_text("[1") and run, "history.jsonl is not a file that a run wrote"),
    ],
)
def test_what_is_not_a_run_is_refused(run, spoil, message, capsys):
    assert message in refused(capsys, spoil(run), "--out", run / "card.md")
    assert not (run / "card.md").exists()


def test_only_a_card_is_replaced(run, capsys):
    (run / "README.md").write_text("# My notes\n")
    assert "is not a card that this command wrote" in refused(capsys, run, "--out", run / "README.md")
    assert (run / "README.md").read_text() == "# My notes\n"
    assert "a card is Markdown" in refused(capsys, run, "--out", run / "card.txt")
    assert "is a folder" in refused(capsys, run, "--out", run)
    first = card(run)
    assert card(run) == first
    assert {"card.md", "card.svg"} <= set(FILES)  # `distill --overwrite` deletes the card of the run that it replaces


def test_a_licence_is_an_identifier(run, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["card", str(run), "--license", "My licence: none"])
    assert "an identifier such as apache-2.0 is needed" in capsys.readouterr().err
