"""Tests of the site: it builds without warnings, and its pages about the code name what exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
LONGEST_CELL = 160
PATH = re.compile(r"`((?:benchmarks|cache|kdcli|kdlib|precompute|tests|train)/[\w./]*)`")


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
    assert "Samples of one or several stores: image, label target and" in page
    assert 'id="numpy' not in page


def test_the_site_shows_each_diagram_for_light_and_dark(site):
    for page in ("index.html", "architecture.html"):
        images = re.findall(r"<img [^>]*>", (site / page).read_text())
        for mode in ("light", "dark"):
            (image,) = [image for image in images if f"only-{mode}" in image]
            assert (site / re.search(r'src="([^"]+)"', image)[1]).is_file()


def test_every_path_that_the_architecture_names_exists():
    paths = PATH.findall(ARCHITECTURE)
    assert len(paths) > 80
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_name_that_the_architecture_looks_for_is_defined_in_its_file():
    places = re.findall(r"`([\w/]+\.py)`: ((?:`\w+`(?:, )?)+)", ARCHITECTURE)
    assert len(places) > 15
    missing = [
        (path, name)
        for path, names in places
        for name in re.findall(r"`(\w+)`", names)
        if not re.search(rf"^ *(?:def|class) {name}\b|^{name}\b.*=", (ROOT / path).read_text(), re.MULTILINE)
    ]
    assert missing == []


def test_the_architecture_says_what_every_folder_is():
    rooms = [ROOT / room for room in ("cache", "kdlib", "precompute", "train")]
    folders = {f"{path.parent.relative_to(ROOT)}/" for room in rooms for path in room.glob("*/__init__.py")}
    assert folders
    assert folders - set(PATH.findall(ARCHITECTURE)) == set()


@pytest.mark.parametrize("page", ["README.md", "docs/choosing.md", "docs/commands.md", "docs/architecture.md"])
def test_no_cell_of_a_table_for_users_is_a_paragraph(page):
    rows = re.findall(r"^\|(.*)\|$", (ROOT / page).read_text(), re.MULTILINE)
    assert rows
    assert [cell for row in rows for cell in row.split("|") if len(cell.strip()) > LONGEST_CELL] == []
