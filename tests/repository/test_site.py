"""Tests of the site: it builds without warnings, every page is in the navigation, links and anchors resolve."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", folder / "doctrees"]
    done = subprocess.run([*command, ROOT / "docs", folder / "html"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_every_page_is_in_the_navigation(site):
    index = (site / "index.html").read_text()
    pages = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*") if path.suffix in (".md", ".rst")]
    assert len(pages) > 20
    pages.remove(Path("index.md"))
    assert [
        page for page in pages if f'class="reference internal" href="{page.with_suffix(".html")}"' not in index
    ] == []


def test_the_api_page_has_signatures_docstrings_and_no_foreign_names(site):
    page = (site / "api.html").read_text()
    for name in (
        "cache.open_store",
        "cache.Store.heatmaps",
        "kdlib.samples.distillation.DistillationDataset",
        "kdlib.losses.spatial_kl",
    ):
        assert f'id="{name}"' in page
    assert "Samples of a store, all seen under one affine." in page
    assert 'id="numpy' not in page
