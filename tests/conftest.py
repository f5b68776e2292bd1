"""Settings of all tests: one thread, no fsync, the CPU of a Mac; on Windows, the files that do not need POSIX."""

import os
import re
import sys

import pytest

from kdcli import system
from kdlib.machine.process import wait_passively

wait_passively()  # before torch is imported, as in the commands
os.environ["OMP_NUM_THREADS"] = "1"  # sums have the same order on every machine; the work is small


if sys.platform == "darwin":
    import torch

    torch.backends.mps.is_available = lambda: False  # results are compared bit for bit

NEEDS_POSIX = re.compile(
    r"import (fcntl|resource)\b|\bos\.(fork|geteuid|mkfifo|setresuid)|signal\.SIG(KILL|XFSZ)|symlink_to|forkserver"
    r"|/proc/|/dev/|\[\"(make|bash|sh|sha256sum)\"|#!/|windows\.pretend"
    r"|headless_browser|run_ranks|oracle|import tree|test_object_stores"
)
"""What test files contain that cannot run on Windows."""


def pytest_ignore_collect(collection_path):
    """Leave out the test files that need POSIX where there is none."""
    if system.POSIX or collection_path.suffix != ".py":
        return None
    return bool(NEEDS_POSIX.search(collection_path.read_text(encoding="utf-8"))) or None


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """Do not wait for the disk, which takes most of the time: no test simulates a power failure."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
