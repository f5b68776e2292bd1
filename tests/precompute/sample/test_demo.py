"""The demo: its stages in order with the time left, its end, and what remains after Ctrl-C or a stage that failed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from precompute.sample import demo
from precompute.sample.demo import NEXT, STAGES, main, minutes, run, time_left

ROOT = Path(__file__).resolve().parents[3]
TOTAL = sum(stage.seconds for stage in STAGES)


class Clock:
    """A clock that stages advance."""

    def __init__(self):
        self.now = 50.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(demo.time, "monotonic", made)
    return made


def headers(text):
    return [line for line in text.splitlines() if line[:2].rstrip("/").isdigit() and line[1] == "/"]


@pytest.mark.parametrize("speed", [1.0, 0.5, 3.0])
def test_the_time_left_is_exact_if_every_stage_is_as_much_slower_than_usual(clock, capsys, speed, tmp_path):
    done = []

    def start(stage):
        done.append(stage)
        clock.now += speed * stage.seconds
        return 0

    assert run(start, tmp_path) == 0
    assert done == list(STAGES)
    left = [TOTAL, *(speed * sum(stage.seconds for stage in STAGES[k:]) for k in range(1, len(STAGES)))]
    out = capsys.readouterr().out
    assert headers(out) == [
        f"{k}/{len(STAGES)} {stage.title}, about {minutes(left[k - 1])} left" for k, stage in enumerate(STAGES, start=1)
    ]
    assert out.endswith(f"\nOpen {tmp_path / 'report.html'} in a browser.\n{NEXT}")


def test_stages_that_were_done_before_do_not_promise_that_the_others_are_quick():
    before = STAGES[0].seconds + STAGES[1].seconds
    assert time_left(3, 0.05 * before) == TOTAL - before
    assert time_left(3, 0.5 * before) == pytest.approx(0.5 * (TOTAL - before))


def test_durations_are_whole_minutes_and_never_zero():
    assert [minutes(seconds) for seconds in (0, 20, 89, 91, 335)] == ["1 min", "1 min", "1 min", "2 min", "6 min"]


def test_a_stage_that_fails_ends_the_demo_in_one_line(capsys, tmp_path):
    codes = iter([0, 2])
    assert run(lambda _: next(codes), tmp_path) == 1
    printed = capsys.readouterr()
    assert len(headers(printed.out)) == 2
    assert NEXT not in printed.out
    (line,) = printed.err.splitlines()
    assert line.startswith(f"error: the demo stopped in stage 2/5 ({STAGES[1].title}); make demo continues here")


def test_make_gets_the_targets_and_the_report_is_named(tmp_path, capfd):
    make = tmp_path / "my make"
    make.write_text('#!/bin/sh\necho "$@"\n')
    make.chmod(0o755)
    assert main(["--make", f"'{make}' -j1", "--runs", str(tmp_path / "runs")]) == 0
    lines = capfd.readouterr().out.splitlines()
    flags = "-j1 --no-print-directory -s DATA=sample CONTINUE=yes"
    assert [line for line in lines if line.startswith("-j1")] == [f"{flags} {stage.targets}" for stage in STAGES]


def test_ctrl_c_waits_until_the_stage_has_saved_its_work(tmp_path):
    """The whole process group receives the signal, as from a terminal; the stage needs a moment to end."""
    make = tmp_path / "make"
    make.write_text(
        f"#!{sys.executable}\nimport signal, time, pathlib, sys\n"
        "def stop(*_):\n    time.sleep(0.3)\n    pathlib.Path('saved').touch()\n    sys.exit(2)\n"
        "signal.signal(signal.SIGINT, stop)\npathlib.Path('ready').touch()\ntime.sleep(60)\n"
    )
    make.chmod(0o755)
    command = [sys.executable, "-m", "precompute.sample.demo", "--make", str(make), "--runs", "runs"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not (tmp_path / "ready").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, (tmp_path / "saved").exists()) == (1, True)
    assert error.startswith("error: the demo stopped in stage 1/5 ")
    assert error.count("\n") == 1
