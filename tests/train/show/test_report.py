"""The report: one file that makes no request, holds every number, and shows the persons that it announces."""

import dataclasses
import json
import math
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

import cache
from kdlib.errors import KdlibError
from kdlib.skeletons.skeleton import COCO
from tests.support.stores.people import HEATMAP_SIZE, INPUT_SIZE, make_store
from train.__main__ import main
from train.errors import TrainError
from train.evaluate import cached_teacher, measure
from train.show import MIN_LABELS
from train.show.report import tables
from train.show.report.charts import Line, Style, line_chart, nice_ticks, spread
from train.show.report.comparison import _ends, checks, intervals, pairs
from train.show.report.confidence import calibration_error, confidence, ranking_quality, reliability
from train.show.report.evidence import gather
from train.show.report.figures import sizes, tolerance_curves
from train.show.report.markup import (
    DASH,
    MINUS,
    TIMES,
    Markup,
    duration,
    element,
    exact,
    fixed,
    join,
    power,
    signed,
    size,
)
from train.show.report.overlays import heat_png
from train.show.report.page import headline, lesson, write_report
from train.show.report.people import SHOWN, WORST, cards

FAST = ["--pretrained", "none", "--batch-size", "8", "--epochs", "2", "--threads", "1", "--precision", "fp32"]
PEOPLE = 14
NASTY = "<script>alert('&')</script>"
PROVENANCE = {
    "teacher": {
        "name": NASTY,
        "weights_sha256": "ab" * 32,
        "input_size": INPUT_SIZE,
        "heatmap_size": HEATMAP_SIZE,
    },
    "dataset": {"split": "val", "annotations": {"name": "people.json", "sha256": "cd" * 32}, "limit": None},
    "software": {"torch": "1.2.3"},
    "licence": "Ask <the> owner & friends.",
}
VOID = {"meta", "link", "br"}


class Page(HTMLParser):
    """The elements and texts of a page; checks that its tags nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(self.texts)

    def all(self, tag, **attributes):
        return [a for t, a in self.elements if t == tag and all(a.get(k) == v for k, v in attributes.items())]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A validation store, and a trained baseline and distilled run."""
    folder = tmp_path_factory.mktemp("report")
    make_store(folder / "train.zarr", 16)
    make_store(folder / "val.h5", PEOPLE, shift=0.7, provenance=PROVENANCE)
    for command, name in (("baseline", "baseline"), ("distill", "distilled")):
        stores = ["--store", str(folder / "train.zarr"), "--val-store", str(folder / "val.h5")]
        assert main([command, *stores, "--out", str(folder / name), *FAST]) == 0
    return folder


@pytest.fixture(scope="module")
def store(folder):
    return cache.open_store(folder / "val.h5")


@pytest.fixture(scope="module")
def evidence(store, folder):
    return gather(store, [folder / "baseline", folder / "distilled"])


@pytest.fixture(scope="module")
def page_text(folder):
    out = folder / "new" / "report.html"
    runs = [str(folder / name) for name in ("baseline", "distilled")]
    assert main(["report", "--store", str(folder / "val.h5"), "--runs", *runs, "--out", str(out)]) == 0
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]
    return out.read_text()


@pytest.fixture(scope="module")
def page(page_text):
    return Page(page_text)


def run_copy(folder, tmp_path, name="distilled"):
    return shutil.copytree(folder / name, tmp_path / name)


def report(store, runs, tmp_path):
    write_report(store, runs, tmp_path / "page.html")
    return Page((tmp_path / "page.html").read_text())


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_file_is_small_and_refers_to_nothing_outside_itself(page_text, page):
    assert len(page_text) < 3_000_000
    assert "://" not in page_text
    addresses = [v for _, a in page.elements for k, v in a.items() if k in ("href", "src", "action", "srcset")]
    assert addresses
    ids = {a["id"] for _, a in page.elements if "id" in a}
    assert all(a.startswith("data:") or a.removeprefix("#") in ids for a in addresses)
    assert not page.all("script")
    assert "@import" not in page_text
    assert "url(" not in page_text


def test_every_id_is_given_once(page):
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_every_number_of_the_runs_metrics_is_on_the_page(page, folder):
    shown = {float(a["value"]) for a in page.all("data")}
    for name in ("baseline", "distilled"):
        metrics = json.loads((folder / name / "metrics.json").read_text())
        joints = [v for table in metrics.pop("per_joint").values() for v in table.values()]
        metrics.pop("instances")
        for value in [v for v in (*metrics.values(), *joints) if isinstance(v, float) and math.isfinite(v)]:
            assert any(math.isclose(value, s, rel_tol=1e-9, abs_tol=1e-9) for s in shown), value


def test_the_teachers_numbers_are_those_decoded_from_the_store(page, store):
    shown = {float(a["value"]) for a in page.all("data")}
    metrics = measure(store, cached_teacher(store))
    assert {metrics["ap"], metrics["ar"], metrics["pck@0.05"]} <= shown


def test_names_are_escaped_wherever_they_come_from(page_text, page):
    assert NASTY not in page_text
    assert NASTY in page.text
    assert "Ask <the> owner & friends." in page.text


def test_no_path_of_this_machine_is_on_the_page(page_text, folder):
    assert str(folder) not in page_text
    assert str(folder.parent) not in page_text


# --- persons ----------------------------------------------------------------------------------------------------------


def shown_rows(page_text, section):
    """Rows of a section's persons in its order."""
    inside = re.search(rf'<section id="{section}">(.*?)</section>', page_text, re.DOTALL).group(1)
    return [int(name) - 1000 for name in re.findall(r"annotation (\d+)<", inside)]


def eligible(store):
    return (store.instances["keypoints"][..., 2] > 0).sum(axis=1) >= MIN_LABELS


def test_every_shown_person_has_one_frame_and_the_pictures_of_everybody(page, page_text, store):
    frames = [a for a in page.all("image") if a["href"].startswith("data:image/jpeg")]
    across, worst = shown_rows(page_text, "people"), shown_rows(page_text, "worst")
    assert (len(across), len(worst)) == tuple(min(count, eligible(store).sum()) for count in (SHOWN, WORST))
    assert len(frames) == len({*across, *worst})
    assert len(page.all("article")) == len(across) + len(worst)
    heat = [a for a in page.all("image") if a["href"].startswith("data:image/png")]
    assert len(heat) == 3 * len(page.all("article"))
    captions = re.findall(r"OKS (?=\d\.\d\d)", page.text)
    assert len(captions) == 3 * len(page.all("article"))


def test_persons_go_from_the_worst_to_the_best_of_the_distilled_student(evidence, page_text):
    shown = shown_rows(page_text, "people")
    distilled = evidence.students[-1]
    scores = distilled.oks[np.searchsorted(distilled.predictions.rows, shown)]
    assert (np.diff(scores) >= 0).all()
    everybody = distilled.oks[eligible(evidence.store)]
    assert scores[[0, -1]].tolist() == [everybody.min(), everybody.max()]


def test_the_worst_are_the_worst_and_sorted(evidence, page_text):
    distilled = evidence.students[-1]
    scores = distilled.oks[np.searchsorted(distilled.predictions.rows, shown_rows(page_text, "worst"))]
    expected = np.sort(distilled.oks[eligible(evidence.store)])[:WORST]
    np.testing.assert_array_equal(scores, expected)


def test_nobody_to_show_is_no_card(evidence):
    assert cards(evidence, np.array([], np.int64), ["teacher", "s0", "s1"]) == {}


def test_a_heatmap_is_opaque_where_it_is_high_and_has_the_colour_of_its_side():
    import cv2

    maps = np.zeros((17, 8, 6), np.float32)
    maps[COCO.sides.index("left"), 2, 1] = 1
    maps[COCO.sides.index("right"), 5, 4] = 1
    pixels = cv2.imdecode(np.frombuffer(heat_png(maps, COCO), np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels.shape == (8, 6, 4)
    assert (pixels[..., 3] > 0).sum() == 2
    left, right = pixels[2, 1].astype(int), pixels[5, 4].astype(int)
    assert left[3] == right[3] == 255
    assert left[2] > left[0]  # orange is more red than blue
    assert right[0] > right[2]


def test_a_limb_has_the_side_of_its_joints():
    assert (
        COCO.limb_side(5, 7),
        COCO.limb_side(6, 8),
        COCO.limb_side(5, 6),
        COCO.limb_side(0, 1),
        COCO.limb_side(0, 2),
    ) == (
        "left",
        "right",
        "mid",
        "left",
        "right",
    )


# --- breakdown and confidence -----------------------------------------------------------------------------------------


def test_each_size_and_kind_of_joint_shows_its_own_number(evidence, store):
    drawn = Page(sizes(evidence, ["teacher", "s0", "s1"])).text
    columns, predictions = store.instances, evidence.teacher.predictions
    assert f"teacher: AP {fixed(evidence.teacher.metrics['ap_medium'])} of medium persons" in drawn
    assert f"teacher: AR {fixed(evidence.teacher.metrics['ar_medium'])} of medium persons" in drawn
    offsets = np.linalg.norm(predictions.points - columns["keypoints"][..., :2], axis=2)
    near = offsets <= 0.05 * columns["bbox"][:, 2:].max(axis=1, keepdims=True)
    for visibility in (1, 2):
        chosen = columns["keypoints"][..., 2] == visibility
        assert f"teacher: {fixed(100 * near[chosen].mean())} % of {chosen.sum()} joints" in drawn


def test_the_curve_of_tolerances_goes_through_every_pck(evidence):
    from train.show.report import figures

    points = dict(figures._shares(evidence, evidence.students[0]))
    for threshold in (0.05, 0.1, 0.2):
        nearest = min(points, key=lambda t: abs(t - 100 * threshold))
        assert points[nearest] == pytest.approx(evidence.students[0].metrics[f"pck@{threshold:g}"])
    assert len(Page(tolerance_curves(evidence, ["teacher", "s0", "s1"])).all("path")) == 3


def test_a_network_that_is_as_often_right_as_it_claims_has_no_calibration_error():
    confidence = np.repeat([0.25, 0.75, 1.0], 400)
    right = np.concatenate([np.arange(400) < 100, np.arange(400) < 300, np.ones(400, bool)])
    found = reliability(confidence, right)
    assert [(b.confidence, b.right, b.count) for b in found] == [(0.25, 0.25, 400), (0.75, 0.75, 400), (1.0, 1.0, 400)]
    assert calibration_error(found) == 0
    assert calibration_error(reliability(confidence, np.zeros(1200, bool))) == pytest.approx(2 / 3)
    assert math.isnan(calibration_error([]))


def test_confidence_beyond_its_range_counts_as_its_end():
    found = reliability(np.array([-0.2, 1.3]), np.array([False, True]))
    assert [(b.confidence, b.right, b.count) for b in found] == [(0.0, 0.0, 1), (1.0, 1.0, 1)]


def test_ranking_quality_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    confidence, right = rng.integers(0, 8, 60) / 8, rng.random(60) < 0.4
    pairs_ = [(r > w) + 0.5 * (r == w) for r in confidence[right] for w in confidence[~right]]
    assert ranking_quality(confidence, right) == pytest.approx(np.mean(pairs_))
    assert math.isnan(ranking_quality(confidence, np.ones(60, bool)))


def test_calibration_is_shown_of_every_network(page, evidence):
    from train.show.report.comparison import joint_hits

    shown = {float(a["value"]) for a in page.all("data")}
    for subject in (evidence.teacher, *evidence.students):
        hits, labelled = joint_hits(evidence.store, subject)
        error = calibration_error(reliability(subject.predictions.scores[labelled], hits[labelled]))
        assert any(math.isclose(100 * error, value, rel_tol=1e-9) for value in shown)


# --- comparison -------------------------------------------------------------------------------------------------------


def test_the_difference_is_shown_with_its_sign(evidence, page):
    (pair,) = pairs(evidence.students)
    assert (pair.distilled.name, pair.baseline.name) == ("distilled", "baseline")
    expected = pair.distilled.metrics["pck@0.05"] - pair.baseline.metrics["pck@0.05"]
    assert pair.difference("pck@0.05") == pytest.approx(expected)
    (ends,) = intervals(evidence.store, [pair])
    title = headline(evidence.students, [pair], [ends])
    low, high = ends["ap"]
    assert f"(95 % interval {signed(low)} to {signed(high)}), {signed(expected)} PCK@0.05" in title
    assert title in page.texts
    assert signed(expected) in page.texts


def test_the_interval_encloses_the_difference_and_is_nothing_for_equal_students(evidence, store):
    (pair,) = pairs(evidence.students)
    (found,) = intervals(store, [pair])
    assert set(found) == {"ap", "ap50", "ap75", "pck@0.05", "pck@0.1", "pck@0.2"}
    for metric, (low, high) in found.items():
        assert low <= pair.difference(metric) <= high
    assert found["pck@0.05"][0] < found["pck@0.05"][1]
    same = type(pair)(pair.baseline, pair.baseline)
    assert set(intervals(store, [same])[0].values()) == {(0.0, 0.0)}


@pytest.mark.parametrize(
    ("interval", "colour"),
    [((0.2, 1.5), "up"), ((-1.5, -0.2), "down"), ((-0.7, 1.8), "level"), ((-1.8, 0.7), "level"), (None, "level")],
)
def test_a_difference_is_coloured_where_its_interval_excludes_0(evidence, interval, colour):
    (pair,) = pairs(evidence.students)
    (cell,) = Page(tables._gain(pair, tables.Row("ap", "AP", ""), interval)).all("td")
    assert cell["class"] == f"gain {colour}"


def test_it_states_what_each_student_learned_from(page, folder, store, tmp_path):
    (pair,) = pairs(gather(store, [folder / "baseline", folder / "distilled"]).students)
    assert lesson([pair]) in page.texts
    config = json.loads((folder / "baseline/config.json").read_text())
    assert config["sources"] == {"stored": 16, "drawn": 16, "labelled": 16, "steps": 4}
    few, old = run_copy(folder, tmp_path, "baseline"), run_copy(folder, tmp_path)
    (few / "config.json").write_text(json.dumps({**config, "sources": {**config["sources"], "drawn": 5}}))
    assert "The baseline learned from the labels of 5 of 16 persons, and the distilled student from the teacher's" in (
        report(store, [few, folder / "distilled"], tmp_path).text
    )
    config = json.loads((old / "config.json").read_text())
    (old / "config.json").write_text(json.dumps({key: value for key, value in config.items() if key != "sources"}))
    text = report(store, [old], tmp_path).text
    assert "learned from the teacher's heatmaps " in text
    assert "both took" not in text


def test_a_peak_higher_than_1_counts_as_confidence_1(evidence):
    teacher = evidence.teacher.predictions
    high = dataclasses.replace(evidence.teacher, predictions=dataclasses.replace(teacher, scores=3 * teacher.scores))
    shown = Page(confidence(dataclasses.replace(evidence, teacher=high, students=[]), ["teacher"]))
    labelled = evidence.store.instances["keypoints"][teacher.rows][..., 2] > 0
    mean = 100 * np.minimum(3 * teacher.scores[labelled], 1).mean(dtype=np.float64)
    assert any(math.isclose(float(a["value"]), mean, rel_tol=1e-6) for a in shown.all("data"))
    assert all(float(a["value"]) <= 100 for a in shown.all("data"))


def test_a_draw_of_pictures_without_labels_says_nothing():
    ours, theirs = (
        {"ap": np.array([3.0, np.nan, 5.0]), "ap50": np.full(3, np.nan)},
        {"ap": np.ones(3), "ap50": np.ones(3)},
    )
    found = _ends(ours, theirs)
    assert found["ap"] == pytest.approx((2.05, 3.95))
    assert np.isnan(found["ap50"]).all()


def test_checks_pass_for_runs_that_belong_here(evidence):
    found = {check.text.partition(":")[0]: check.passed for check in checks(evidence)}
    assert found["The store is complete"]
    assert found["baseline"]
    assert found["distilled"]
    assert found["distilled and baseline"]


def test_a_teacher_that_decodes_to_another_ap_is_noticed(store, folder):
    evidence = gather(store, [folder / "baseline"])
    store.manifest = {**store.manifest, "teacher_metrics": {"ap": evidence.teacher.metrics["ap"] + 1}}
    try:
        assert [check.passed for check in checks(evidence)] == [True, False, True]
        store.manifest = {**store.manifest, "teacher_metrics": {"ap": evidence.teacher.metrics["ap"]}}
        assert all(check.passed for check in checks(evidence))
    finally:
        store.manifest = {**store.manifest, "teacher_metrics": None}


def test_a_run_whose_maps_were_read_in_another_way_is_no_contradiction(store, folder, tmp_path):
    other = run_copy(folder, tmp_path)
    reported = json.loads((other / "metrics.json").read_text())
    assert reported.pop("decoder") == "dark"
    (other / "metrics.json").write_text(json.dumps({**reported, "ap": 12.5}))
    (check,) = [check for check in checks(gather(store, [other])) if check.text.startswith(other.name)]
    assert not check.passed
    assert "12.50 in metrics.json was decoded with argmax" in check.text


def test_unequal_recipes_are_noticed(store, folder, tmp_path):
    other = run_copy(folder, tmp_path)
    config = json.loads((other / "config.json").read_text())
    config["recipe"]["epochs"] = 99
    (other / "config.json").write_text(json.dumps(config))
    evidence = gather(store, [folder / "baseline", other])
    (fairness,) = [check for check in checks(evidence) if check.text.startswith("distilled and baseline")]
    assert not fairness.passed
    assert "epochs" in fairness.text


def test_several_pairs_are_told_apart_by_folder_and_averaged(store, folder, tmp_path):
    again = run_copy(folder, tmp_path)
    evidence = gather(store, [folder / "baseline", folder / "distilled", again.rename(tmp_path / "again")])
    assert [s.name for s in evidence.students] == ["baseline", "distilled", "again"]
    paired = pairs(evidence.students)
    assert "means of 2 pairs" in headline(evidence.students, paired, intervals(store, paired))
    assert lesson(paired) == (
        "The baselines learned from the labels of 16 persons, and the distilled students from the teacher's heatmaps "
        "of 16 persons, without labels; both took 4 steps."
    )


# --- runs that are not whole ------------------------------------------------------------------------------------------


def test_one_run_alone_is_shown_without_differences(store, folder, tmp_path):
    page = report(store, [folder / "baseline"], tmp_path)
    assert page.all("article")
    assert "baseline: AP" in page.text
    assert not [a for a in page.all("td") if "up" in a.get("class", "").split()]


def test_a_run_without_history_and_metrics_is_shown_for_what_it_is(store, folder, tmp_path):
    run = run_copy(folder, tmp_path)
    (run / "metrics.json").unlink()
    (run / "history.jsonl").write_text("")
    page = report(store, [run], tmp_path)
    assert "No epochs were recorded." in page.text
    assert "the run is not finished" in page.text


def test_what_is_no_run_is_refused_in_one_line(store, folder, tmp_path, capsys):
    with pytest.raises(TrainError, match=r"is not a run folder: it has no config.json"):
        write_report(store, [tmp_path], tmp_path / "page.html")
    arguments = ["--store", str(folder / "val.h5"), "--runs", str(folder / "baseline"), "--out", str(tmp_path)]
    assert main(["report", *arguments]) == 1
    error = capsys.readouterr().err
    assert error == f"error: --out {tmp_path} is a folder; give the name of a file, e.g. {tmp_path}/report.html\n"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    assert main(["report", *arguments[:-1], str(tmp_path / "file/page.html")]) == 1
    assert capsys.readouterr().err == f"error: could not write {tmp_path}/file/page.html: {tmp_path}/file is a file\n"


def test_a_store_without_frames_needs_its_images(folder, tmp_path):
    bare = make_store(tmp_path / "bare.zarr", 4, frames=False)
    with pytest.raises(KdlibError, match="give the folder of its images"):
        write_report(bare, [folder / "baseline"], tmp_path / "page.html")


# --- charts and text --------------------------------------------------------------------------------------------------


def test_a_line_is_interrupted_where_it_has_no_value():
    line = Line("a", "s0", [(1, 1.0), (2, 2.0), (3, math.nan), (4, 3.0), (5, 4.0)])
    chart = line_chart(Style("chart", "epoch"), [line])
    (path,) = Page(chart).all("path")
    assert (path["d"].count("M"), path["d"].count("L")) == (2, 2)
    assert len(Page(chart).all("circle")) == 4


@pytest.mark.parametrize("points", [[(1, 5.0)], [(1, 0.0), (2, 0.0)], [(1, -3.0), (2, 1e-9)]])
def test_any_points_make_a_chart_with_finite_coordinates(points):
    chart = line_chart(Style("chart", "epoch", y_zero=False), [Line("a", "s0", points)])
    assert "nan" not in chart
    assert "inf" not in chart
    assert len(Page(chart).all("circle")) == len(points)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0.037), (2.2, 3.16), (0, 97.3), (5, 5), (-3, 4)])
def test_ticks_are_round_and_enclose_the_range(low, high):
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 3 <= len(ticks) <= 9
    steps = np.diff(ticks)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)


def test_labels_keep_their_order_and_do_not_overlap():
    placed = spread([10, 11, 12, 90, 200], gap=14, low=5, high=100)
    assert (np.diff(placed) >= 14).all()
    assert max(placed) <= 100


def test_numbers_read_as_people_write_them():
    assert [fixed(v) for v in (54.52, float("nan"), None, -1.0)] == ["54.5", DASH, DASH, f"{MINUS}1.0"]
    assert [signed(v) for v in (2.61, -0.4, 0.04, float("nan"))] == ["+2.6", f"{MINUS}0.4", "0.0", DASH]
    assert [size(v) for v in (840, 35_100, 2_900_000)] == ["840 B", "35.1 kB", "2.9 MB"]
    assert [duration(v) for v in (41, 232, 7500, None)] == ["41 s", "3 min 52 s", "2 h 05 min", DASH]
    assert power(7.3e-5) == f"7.3 {TIMES} 10⁻⁵"
    assert exact(54.5218, "54.5") == '<data value="54.5218">54.5</data>'
    assert exact(math.nan, DASH) == f"<span>{DASH}</span>"


def test_text_is_escaped_and_markup_is_not():
    assert element("p", "a < b", Markup("<br>"), None, class_='"x"', hidden=True, title=None) == (
        '<p class="&quot;x&quot;" hidden>a &lt; b<br></p>'
    )
    assert join([element("br"), "&"]) + "<" == "<br>&amp;&lt;"
    assert element("circle", cx=1.23456, cy=-0.001) == '<circle cx="1.23" cy="0"></circle>'
