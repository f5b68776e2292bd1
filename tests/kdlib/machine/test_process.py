"""Memory that is kept causes no page faults when it is used again. Each case is a process: the setting is permanent."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")
PROGRAM = """
import resource, sys
import numpy as np
from kdlib.machine.process import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
np.ones(8 << 20)  # 64 MiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    np.ones(8 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 4 * (64 << 20) // os.sysconf("SC_PAGE_SIZE")


def faults(argument, **environment):
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, argument],
        env={**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(run.stdout)


def test_memory_is_used_again_without_page_faults():
    assert faults("leave") > 0.9 * PAGES
    assert faults("keep") < 0.01 * PAGES


def test_the_users_own_choice_stays():
    assert faults("keep", MALLOC_MMAP_THRESHOLD_="131072") > 0.9 * PAGES
