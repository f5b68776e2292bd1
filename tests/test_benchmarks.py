"""A benchmark's lines have the fields that are relied on, and results are never overwritten; no time is asserted."""

import datetime
import json

import pytest

from benchmarks import codec, reading
from benchmarks.effort import QUICK
from benchmarks.report import Line, keep
from benchmarks.timing import interleave
from benchmarks.workspace import Workspace

FIELDS = {"bench", "metric", "value", "unit", "peer", "peer_value", "ratio", "n", "machine", "versions"}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    return Workspace(folder, QUICK, sample=folder / "none", shared=folder / "none")


@pytest.mark.parametrize("script", [codec, reading])
def test_a_script_reports_lines_with_all_fields_and_a_true_ratio(script, workspace):
    lines = [line.to_json() for line in script.run(workspace)]
    assert lines
    for line in lines:
        assert set(line) >= FIELDS
        json.dumps(line, allow_nan=False)
        if line["peer"] is not None:
            assert line["ratio"] == pytest.approx(line["value"] / line["peer_value"], rel=1e-3)


def test_contenders_take_turns_and_the_first_round_does_not_count():
    order = []

    def block(name, seconds):
        def run():
            order.append(name)
            return 2, seconds

        return run

    timings = interleave({"a": block("a", 4.0), "b": block("b", 2.0)}, 3)
    assert (timings.median("a"), timings.median("b")) == (2.0, 1.0)
    assert timings.items == {"a": 6, "b": 6}
    assert order == ["b", "a", "a", "b", "b", "a", "a", "b"]


def test_results_of_one_day_lie_side_by_side(tmp_path):
    line = Line("x", "y", 2.0, "s", 1, "peer", 4.0).to_json()
    assert line["ratio"] == 0.5
    day = datetime.date(2026, 1, 2)
    first, second = (keep([line], tmp_path, day) for _ in range(2))
    assert first != second
    assert first.name.startswith("2026-01-02-")
    assert json.loads(first.read_text()) == line
