"""What glibc does with memory that is freed. Python's arrays and torch's CPU tensors come from it."""

import contextlib
import ctypes
import os

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Of mallopt(3)."""


NEVER = 2**31 - 1


CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> None:
    """Keep freed memory for the next step instead of giving it back, unless the user chose otherwise.

    A training step allocates the same tensors every time. By default glibc hands large ones back to the system at once,
    and each step pays anew for every page: a page fault, and zeros that nobody reads. The process stays as large as its
    largest step. Without glibc nothing happens.
    """
    if any(name in os.environ for name in CHOSEN):
        return
    with contextlib.suppress(OSError, AttributeError, TypeError):  # no glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(MMAP_THRESHOLD, NEVER)
        mallopt(TRIM_THRESHOLD, NEVER)


def wait_passively() -> None:
    """Let idle OpenMP threads sleep instead of spin, unless the user chose otherwise.

    Torch's CPU kernels share the cores with our own threads that read, warp and encode. GNU OpenMP spins while it waits
    for work and takes the cores away from them: on 2 busy cores the precompute run took 2.7 times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
