"""Tests of the job scripts in configs/slurm: syntax, flags, and what they run, with Slurm's commands replaced."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from precompute.run.flags import build_parser
from train.__main__ import main as train

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "configs/slurm").glob("*.sbatch"))
SLURM = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2"}
TASK = {"SLURM_CPUS_PER_TASK": "16", "SLURM_ARRAY_TASK_ID": "3"}
FAKE = """#!/bin/bash
echo "$(basename "$0") $*" >> "{calls}"
case "$(basename "$0")" in
    scontrol) if [[ "$1" == show ]]; then printf 'node1\\nnode2\\n'; fi ;;
    srun) if [[ -n "${{WAITS:-}}" ]]; then echo $$ > "{pid}"; exec sleep 60; fi ;;
    scancel) kill "$(cat "{pid}")" ;;
esac
"""


@pytest.fixture
def slurm(tmp_path):
    """A folder with replaced commands, which note their calls in the file `calls`."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("srun", "scontrol", "scancel"):
        tool = tools / name
        tool.write_text(FAKE.format(calls=tmp_path / "calls", pid=tmp_path / "pid"))
        tool.chmod(0o755)
    return tmp_path


def environment(slurm, **more):
    return {**os.environ, **SLURM, **TASK, **more, "PATH": f"{slurm / 'bin'}:{os.environ['PATH']}"}


def calls(slurm, name):
    lines = (slurm / "calls").read_text().splitlines() if (slurm / "calls").exists() else []
    return [shlex.split(line)[1:] for line in lines if line.startswith(f"{name} ")]


def launched(slurm, script, **more):
    """Run a script to its end; return the command that it gave to srun."""
    path = ROOT / "configs/slurm" / script
    done = subprocess.run(["bash", str(path)], env=environment(slurm, **more), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    (command,) = calls(slurm, "srun")
    assert command[0] == "--cpus-per-task=16"
    (slurm / "calls").unlink()
    return command[1:]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_valid_and_its_directives_come_before_its_first_command(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/bin/bash"  # Slurm refuses a script without it
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    directives = [i for i, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert max(directives) < first  # Slurm ignores directives after the first command
    assert {"--requeue", "--open-mode=append"} <= {lines[i].split()[1] for i in directives}


def test_the_tasks_of_the_array_write_all_shares_and_the_last_job_completes_the_store(slurm):
    text = (ROOT / "configs/slurm/precompute.sbatch").read_text()
    last, tasks = (int(re.search(found, text, re.MULTILINE)[1]) for found in (r"--array=0-(\d+)$", r"^tasks=(\d+)"))
    assert tasks == last + 1
    command = launched(slurm, "precompute.sbatch")
    assert command[:3] == ["python", "-m", "precompute"]
    config = tomllib.loads((ROOT / command[command.index("--config") + 1]).read_text())
    given = build_parser("").parse_args([*command[3:], "--teacher", config["teacher"]])
    assert (given.share, given.threads, given.resume) == ((3, tasks), 16, False)
    completing = launched(slurm, "precompute.sbatch", COMPLETE="1", SLURM_ARRAY_TASK_ID="0")
    assert completing == [*command[: command.index("--share")], "--resume"]


def test_training_meets_on_the_first_host(slurm, capsys):
    command = launched(slurm, "train.sbatch")
    assert command[0] == "torchrun"
    given = get_args_parser().parse_args(command[1:])
    assert (given.nnodes, given.rdzv_endpoint, given.rdzv_id, given.module) == ("2", "node1:30211", "4711", True)
    assert given.training_script == "train"
    assert "--resume" in given.training_script_args
    folder, *flags = given.training_script_args[1:]
    with pytest.raises(SystemExit) as ended:  # all flags exist: the next one does not
        train(["distill", folder, *flags, "--no-such-flag"])
    assert ended.value.code == 2
    assert "no flag --no-such-flag" in capsys.readouterr().err


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_before_the_time_limit_a_job_returns_to_the_queue(slurm, script):
    """For a student, the processes are asked for a checkpoint first."""
    process = subprocess.Popen(["bash", str(script)], env=environment(slurm, WAITS="1"), start_new_session=True)
    try:
        while not (slurm / "pid").exists() or not (slurm / "pid").read_text():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGUSR1)
        process.wait(30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # also the replaced srun
    assert calls(slurm, "scontrol")[-1] == ["requeue", "4711"]
    assert calls(slurm, "scancel") == ([["--signal=TERM", "4711"]] if script.name == "train.sbatch" else [])
