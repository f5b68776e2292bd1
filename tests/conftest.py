"""Settings of all tests: one thread, no fsync."""

import os

import pytest

from kdlib.machine.process import wait_passively

wait_passively()  # before torch is imported, as in the commands
os.environ["OMP_NUM_THREADS"] = "1"  # sums have the same order on every machine; the work is small


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """Do not wait for the disk, which takes most of the time: no test simulates a power failure."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
