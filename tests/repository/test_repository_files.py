"""Tests of the files for other programs (Docker, citation managers): they agree with pyproject.toml."""

import re
import tomllib
from pathlib import Path

import pytest

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
