"""Tests of benchmarks.gpu on the CPU with tiny sizes: what the steps print, and what becomes of one that fails."""

import contextlib
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import cache.format.spec
from benchmarks import gpu
from benchmarks.support import large_shards
from benchmarks.support.effort import QUICK
from benchmarks.support.workspace import Workspace
from tests.benchmarks.test_benchmarks import check_lines
from train.__main__ import main as train
from train.run.loop import Trainer

METRICS = {
    "sync": ["sync.step", "sync.teacher"],
    "parity": ["parity.fp32", "parity.bf16", "parity.fp16", "parity.check"],
    "bare": ["bare"],
    "precompute": ["precompute"],
    "trainer": ["trainer"],
    "losses": ["losses.device", "losses.resumed"],
    "memory": [],
    "nvjpeg": ["nvjpeg"],
    "compile": [],
}
MAIN = {"benchmarks.support.large_shards": large_shards.main, "train": train}


def run_here(command):
    """Run the command of a step in this process."""
    assert command[:2] == [sys.executable, "-m"]
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = MAIN[command[2]](command[3:])
    return subprocess.CompletedProcess(command, code, "", errors.getvalue())


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    workspace = Workspace(folder, dataclasses.replace(QUICK, instances=8), folder / "none")
    return gpu.choose_setting(folder, torch.device("cpu"), quick=True)._replace(
        batch_sizes=(1, 1), instances=3, processes=(1,), steps=1, workspace=workspace
    )


@pytest.fixture
def in_process(monkeypatch):
    """The commands of the steps run in this process; a run that would be killed gets SIGTERM in its third step."""

    def stopped(command, _checkpoint):
        steps, step = [], Trainer.train_step
        with monkeypatch.context() as patched:
            patched.setattr(
                Trainer,
                "train_step",
                lambda self, batch: (
                    (steps.append(1), len(steps) == 3 and signal.raise_signal(signal.SIGTERM)) and step(self, batch)
                ),
            )
            assert run_here(command).returncode
        assert len(steps) == 3

    monkeypatch.setattr(cache.format.spec, "default_shard_instances", cache.format.spec.default_shard_instances)
    monkeypatch.setattr(gpu, "_run", run_here)
    monkeypatch.setattr(gpu, "_kill_after_checkpoint", stopped)


@pytest.mark.parametrize("name", gpu.STEPS)
def test_a_step_prints_its_lines(setting, name, in_process):
    lines = [line.to_json() for line in gpu.STEPS[name].run(setting)]
    assert list(dict.fromkeys(line["metric"] for line in lines)) == METRICS[name]
    if lines:
        check_lines(lines)
    expected = {"parity.check": 1, "parity.fp32": 0, "losses.device": 0, "losses.resumed": 0}
    for line in lines:
        if line["metric"] in expected:
            assert line["value"] == pytest.approx(expected[line["metric"]], abs=1e-5)


def test_a_step_runs_in_a_process_of_its_own(capfd):
    assert gpu.main(["--quick", "--device", "cpu", "--step", "memory"]) == 0
    printed = capfd.readouterr()
    assert printed.out == ""  # nothing to measure on a CPU
    assert printed.err.strip() == f"memory: at most {gpu.PATIENCE * gpu.STEPS['memory'].seconds} s"


def test_a_step_that_fails_keeps_its_lines_and_says_why(capfd):
    program = "import sys; print('{\"value\": 1}', flush=True); print('a note'); raise ValueError('no kernel image')"
    lines = gpu.run_apart("bare", [sys.executable, "-c", program], 60)
    error = {"bench": "gpu", "metric": "bare", "error": "ValueError: no kernel image"}
    assert lines == [{"value": 1}, error]
    printed = capfd.readouterr()
    assert [json.loads(line) for line in printed.out.splitlines()] == lines
    assert "Traceback" in printed.err


def test_a_step_that_exceeds_its_limit_is_killed_with_all_its_processes(tmp_path):
    program = (
        "import subprocess, sys, pathlib; print('{\"value\": 1}', flush=True)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid))\n"
        "child.wait()"
    )
    lines = gpu.run_apart("bare", [sys.executable, "-c", program], 3)
    assert lines == [{"value": 1}, {"bench": "gpu", "metric": "bare", "error": "not finished after 3 s"}]
    child = int((tmp_path / "child").read_text())
    for _ in range(100):
        if not is_running(child):
            break
        time.sleep(0.05)
    assert not is_running(child)


def is_running(process):
    """Whether a process exists and is not one that has ended and waits for its parent."""
    try:
        os.kill(process, 0)
        with open(f"/proc/{process}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_the_limits_add_up_to_ten_minutes():
    assert sum(step.seconds for step in gpu.STEPS.values()) <= 600
