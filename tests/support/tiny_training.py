"""Training runs of a few seconds on tiny stores, and processes that start with torch imported."""

import contextlib
import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path

import torch

from kdlib.students import checkpoint
from train.__main__ import main

FAST = {
    "--pretrained": "none",
    "--input-size": "64x48",
    "--batch-size": "4",
    "--epochs": "2",
    "--threads": "2",
    "--precision": "fp32",
}


def command(stores, out, name="distill", **flags):
    """Arguments of a run; a flag whose value is True gets no value, and one whose value is a list is repeated."""
    paths = {"--store": stores / "train.zarr", "--val-store": stores / "val.h5", "--out": out}
    given = paths | FAST | {"--" + key.replace("_", "-"): value for key, value in flags.items()}
    pairs = [(key, value) for key, of in given.items() for value in (of if isinstance(of, list) else [of])]
    return [name, *(part for key, value in pairs for part in ((key,) if value is True else (key, str(value))))]


def weights(path):
    """The weights of a checkpoint, by name."""
    return checkpoint.read(path)["model"]


def history(out):
    return [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]


def results(out):
    """Metrics and history of a run, without times."""

    def timeless(values):
        return {k: v for k, v in values.items() if not k.endswith(("_seconds", "per_second"))}

    return timeless(json.loads((out / "metrics.json").read_text())), [timeless(line) for line in history(out)]


def same_weights(one, two):
    one, two = weights(one), weights(two)
    return all(torch.equal(one[name], two[name]) for name in one)


def processes():
    """A multiprocessing context whose processes start with torch imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.tiny_training", "train.run.loop", "torch.utils.tensorboard"])
    return context


def free_port():
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def write_output_to(path):
    """Let this process and its own processes write what they print to a file."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)


def run_quietly(arguments, log, before=None, environment=None):
    """Body of a process: run one command, write its output to a file, and exit with its code."""
    os.environ.update(environment or {})
    write_output_to(log)
    torch.set_num_threads(1)
    if before is not None:
        before()
    raise SystemExit(main(arguments))


def is_stopped(process):
    """Whether a signal stopped a process, which then exists but does nothing."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def run_ranks(world, arguments, folder, before=None, first_to_end=0):
    """Run a command in ``world`` processes; returns their exit codes and outputs.

    ``before`` has one function per rank, or None, that the process calls first. A process that is stopped (SIGSTOP)
    is killed after ``first_to_end`` has ended.
    """
    port, context = free_port(), processes()
    started, logs = [], []
    for rank in range(world):
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        numbers |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {name: str(value) for name, value in numbers.items()}
        logs.append(folder / f"rank{rank}.log")
        hook = before if before is None else before[rank]
        started.append(context.Process(target=run_quietly, args=(arguments, logs[-1], hook, environment)))
        started[-1].start()
    started[first_to_end].join(120)
    for process in started:
        if is_stopped(process.pid):
            process.kill()
        process.join(120)
    hung = [process for process in started if process.is_alive()]
    for process in hung:
        process.kill()
    assert not hung, [log.read_text() for log in logs]
    return [process.exitcode for process in started], [log.read_text() for log in logs]


PACKAGES = ("cache", "kdcli", "kdlib", "precompute", "train")


def _run_program(program, words, packages, folder, log):
    """Body of a process: forget the packages of this repository, and run a program with those of a folder."""
    write_output_to(log)
    torch.set_num_threads(1)
    for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
        del sys.modules[name]
    os.chdir(folder)
    sys.argv, sys.path[:0] = ["program", *words], [str(packages)]
    exec(compile(program, "program", "exec"), {"__name__": "__main__"})
    used = [module.__file__ for name, module in sys.modules.items() if name in PACKAGES]
    assert used
    assert all(Path(file).is_relative_to(packages) for file in used), used


def run_program(program, *words, packages, folder):
    """Run Python code in a new process and in a folder, with this project's packages of the folder ``packages``.

    They are imported there for the first time; torch and other libraries are imported already, which saves seconds.

    Returns:
        What it printed; an assertion fails if it raised an exception.
    """
    log = Path(folder).with_name(f"{Path(folder).name}.log")
    log.touch()
    process = processes().Process(target=_run_program, args=(program, words, packages, folder, log))
    process.start()
    process.join(240)
    if process.is_alive():
        process.kill()
    assert process.exitcode == 0, log.read_text()
    return log.read_text()
