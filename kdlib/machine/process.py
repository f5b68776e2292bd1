"""This process: the cores that it may use, how glibc treats freed memory, and how idle OpenMP threads wait.

The last two matter for training on a CPU and for preparing samples. Neither overrides a setting of the user.
"""

import contextlib
import ctypes
import os
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
"""Parameters of mallopt(3)."""
_NEVER: Final = 2**31 - 1
"""The largest threshold: memory is never returned."""
MALLOC_SETTINGS: Final = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""Environment variables with which users set these thresholds."""


def available_cores() -> int:
    """Number of CPU cores that this process may use; a cluster's scheduler may give it fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next training step, unless the user set its thresholds.

    NumPy arrays and torch's CPU tensors are allocated by glibc. A training step allocates the same tensors every time,
    but glibc returns large ones to the system when they are freed, so every step pays for page faults and for zeroing
    the pages again. The process stays as large as its largest step. Without glibc this does nothing.
    """
    if any(name in os.environ for name in MALLOC_SETTINGS):
        return
    with contextlib.suppress(OSError, AttributeError, TypeError):  # no glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _NEVER)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)


def wait_passively() -> None:
    """Let idle OpenMP threads sleep, not spin, unless the user set ``OMP_WAIT_POLICY``. Call it before importing torch.

    Torch's CPU kernels share the cores with our threads that read, warp and encode. GNU OpenMP spins while it waits for
    work and takes the cores from them: on 2 busy cores the precompute run took 2.7 times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
