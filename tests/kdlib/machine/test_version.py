"""The version that manifests and checkpoints record names the commit of the checkout."""

import subprocess
from pathlib import Path

import pytest

from kdlib.machine.version import project_version

ROOT = Path(__file__).resolve().parents[3]


def test_the_commit_of_the_checkout_is_part_of_the_version():
    git = ["git", "-C", str(ROOT), "rev-parse", "--short=7", "HEAD"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    assert f"({done.stdout.strip()}" in project_version()
