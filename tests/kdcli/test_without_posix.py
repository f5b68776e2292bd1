"""The commands in a process that lacks what Windows lacks, and whose files behave as there, see `machines.windows`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
START = """
import sys
from pathlib import Path

from tests.support.machines import windows

windows.pretend()
out = Path(sys.argv[1])
"""
CORE = """
windows.import_all()

import threading

import numpy as np

import cache
from cache.__main__ import main as cache_main
from kdcli import system
from precompute.__main__ import main as precompute
from tests.support import tiny_precompute, tiny_training
from train.__main__ import main as train


def run(main, *arguments):
    assert main([str(argument) for argument in arguments]) == 0, arguments


data = tiny_precompute.write(out / "dåta")
store, copy = out / "train.zarr", out / "val.h5"
for more in ((), ("--overwrite",)):
    run(precompute, *tiny_precompute.command(data, store, *more))
run(cache_main, "verify", store)
for more in ((), ("--overwrite",)):
    run(cache_main, "convert", store, copy, *more)
run(cache_main, "pull", copy, out / "pulled.h5")
read, alone = [None] * 8, cache.open_store(copy).heatmaps(range(11))


def read_all(i, opened=cache.open_store(copy)):
    read[i] = opened.heatmaps(range(11))


threads = [threading.Thread(target=read_all, args=(i,)) for i in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert all(np.array_equal(maps, alone) for maps in read)

for more in ({}, {"overwrite": True}):
    run(train, *tiny_training.command(out, out / "run", epochs="1", **more))
best = out / "run/best.pt"
run(train, "evaluate", "--store", copy, "--student", best, "--out", out / "metrics.json")
run(train, "export", "--student", best, "--store", copy, "--out", out / "student.onnx")
for student in (best, out / "student.onnx"):
    run(train, "predict", data / "images", "--student", student, "--out", out / "predictions")
"""
LOCKS = """
import os
import subprocess

from kdcli.locks import lock_file
from tests.support.stores import small
from train.deploy.release import building
out = out / "locks"
first, second, third = (system.open_to_update(out / "lock", 0o600) for _ in range(3))


def taken(handle, **how):
    try:
        return lock_file(handle, **how)
    except BlockingIOError:
        return False


assert taken(first) and not taken(second) and not taken(second, shared=True)
assert taken(first, shared=True) and taken(second, shared=True) and not taken(third)
assert taken(third, shared=True) and not taken(first)  # who asks for more loses what it had, as with flock
os.close(second)
assert not taken(first)
os.close(third)
assert taken(first) and system.read_at(first, 10, 0) == b""

writer = small.begin(out / "s.zarr")
small.begin(out / "s.zarr", join=True)
child = subprocess.run([sys.executable, "-X", "warn_default_encoding", "-c", sys.argv[2], str(out)])
assert child.returncode == 0
small.fill(writer)
writer.publish({"ap": 0.5})

(out / "release").mkdir()
(out / ".release.1.0123abcd.tmp").mkdir()
for content in ("old", "new"):
    with building(out / "release") as folder:
        (folder / "student.pt").write_text(content, encoding="utf-8")
assert (out / "release/student.pt").read_text(encoding="utf-8") == "new"
assert (out / "release/SHA256SUMS").read_bytes().endswith(b"  student.pt\\n")
assert sorted(path.name for path in out.iterdir()) == ["lock", "release", "s.zarr"]
print(",".join([*(signal.name for signal in system.STOP_SIGNALS), *windows.missing()]))
"""
SECOND_RUN = """
import os
from cache.errors import StoreBusyError
from tests.support.stores import small

try:
    small.begin(out / "s.zarr", resume=True)
except StoreBusyError as error:
    assert f"being written by process {os.getppid()} on " in str(error), error
else:
    raise AssertionError("two runs write one store")
"""


def run(program, out, *arguments):
    command = [sys.executable, "-X", "warn_default_encoding", "-c", START + program, str(out), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=240)


def test_every_module_is_imported_and_the_commands_do_their_work(tmp_path):
    pytest.importorskip("onnxscript", reason="exporting needs the extra [export]")
    (tmp_path / "locks").mkdir()
    done = run(CORE + LOCKS, tmp_path, START + SECOND_RUN)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "SIGINT,fcntl,resource,fork,pread,sched_getaffinity,SIGKILL"
