"""What all tests share: nothing they write has to outlive the machine."""

import os

import pytest

from kdlib.machine.process import wait_passively

wait_passively()  # as the commands do, before torch is imported
os.environ["OMP_NUM_THREADS"] = "1"  # sums in one order in every process, whatever the machine; the work is tiny anyway


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """Tests write to temporary folders and kill processes, not power: waiting for the disk is most of their time."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
