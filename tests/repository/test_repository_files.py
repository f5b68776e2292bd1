"""Tests of the files for Docker, citation managers and GitHub: they agree with pyproject.toml and the Makefile."""

import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml  # a dependency of huggingface_hub

from tests.repository.test_makefile import plain_commands

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_citation_is_of_this_version_and_licence():
    citation = dict(re.findall(r"^([a-z-]+): (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE))
    assert citation["cff-version"] == "1.2.0"
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])


@pytest.mark.parametrize("file", ["Dockerfile", "Dockerfile.cuda"])
def test_the_image_has_the_packages_and_the_ranges_of_the_project(file):
    kept = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert all((ROOT / name).exists() for name in kept)
    packages = {"kdlib", "cache", "kdcli", "precompute", "train"}
    assert {*packages, "pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]} <= kept
    dockerfile = (ROOT / file).read_text()
    ranges = re.findall(r"'(torch\w*>=[\d.]+)'", dockerfile)
    assert len(ranges) == 2
    assert set(ranges) <= set(PROJECT["dependencies"])
    extras = re.search(r"\.\[(.*?)\]", dockerfile)[1].split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])


def test_continuous_integration_runs_the_checks_and_tests_on_three_systems():
    """`on` is true in YAML 1.1. The workflow was linted with actionlint."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    assert set(workflow[True]) == {"push", "pull_request"}
    assert workflow["permissions"] == {"contents": "read"}
    posix, windows = workflow["jobs"]["posix"], workflow["jobs"]["windows"]
    assert [entry["os"] for entry in posix["strategy"]["matrix"]["include"]] == ["ubuntu-latest", "macos-latest"]
    assert windows["runs-on"] == "windows-latest"
    (script,) = [step["run"] for step in posix["steps"] if "run" in step]
    assert os.access(ROOT / script, os.X_OK)
    targets = re.findall(r"^make ([a-z-]+)$", (ROOT / script).read_text(), re.MULTILINE)
    made = [command for target in targets for command in plain_commands()[target]]
    run = [shlex.split(step["run"]) for step in windows["steps"] if "run" in step]
    assert all(command[0] == "python" for command in run)
    installed = [command for command in run if command[1:4] == ["-m", "pip", "install"]]
    assert installed[-1][1:] == plain_commands()["setup"][-1]
    assert [command[1:] for command in run[len(installed) :]] == made


def test_every_system_can_check_out_every_file():
    """Windows has no files with these characters, and a clone of the repository would end there with an error."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, encoding="utf-8")
    names = listed.stdout.split("\0")
    assert "Makefile" in names
    assert [name for name in names if re.search(r'[\\:*?"<>|]', name)] == []
