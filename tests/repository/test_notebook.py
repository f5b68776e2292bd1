"""Tests of the notebook: it runs unchanged, and its committed outputs contain nothing about a machine."""

import base64
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "knowledge-distillation-for-2d-hpe.ipynb"
NEEDED = ("nbclient", "ipykernel", "matplotlib")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
COMMITTED = json.loads(NOTEBOOK.read_text())
pytestmark = pytest.mark.timeout(900)  # the first test takes about a minute


def cells(notebook, kind):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def outputs(notebook):
    return [output for cell in cells(notebook, "code") for output in cell["outputs"]]


def texts(notebook):
    """Yield the text of all outputs, except images."""
    for output in outputs(notebook):
        yield "".join(output.get("text", ()))
        yield from ("".join(value) for kind, value in output.get("data", {}).items() if kind != "image/jpeg")


def pictures(notebook):
    found = [output["data"]["image/jpeg"] for output in outputs(notebook) if "image/jpeg" in output.get("data", {})]
    return [base64.b64decode("".join(picture)) for picture in found]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run the whole notebook on a few persons, in a folder outside the repository."""
    if MISSING:
        pytest.skip(f"{', '.join(MISSING)} not installed: pip install -e '.[notebook]'")
    folder = tmp_path_factory.mktemp("notebook")
    command = [sys.executable, ROOT / "notebooks" / "execute.py", "--out", folder / "run.ipynb"]
    environment = os.environ | {"NOTEBOOK_QUICK": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "run.ipynb").read_text())


def test_every_cell_runs_and_shows_what_the_committed_one_shows(run):
    ran, kept = cells(run, "code"), cells(COMMITTED, "code")
    assert [cell["source"] for cell in ran] == [cell["source"] for cell in kept]
    assert [cell["execution_count"] for cell in ran] == list(range(1, len(ran) + 1))
    shown = [[{output["output_type"] for output in cell["outputs"]} for cell in one] for one in (ran, kept)]
    assert shown[0] == shown[1]
    assert len(pictures(run)) == len(pictures(COMMITTED)) >= 5


def test_the_trainer_is_shown_without_a_teacher(run):
    (line,) = [text for text in texts(run) if text.startswith("loaded:")]
    assert line.strip() == "loaded: cache, kdlib, train"


def test_a_failing_cell_ends_in_one_line(tmp_path, monkeypatch):
    if MISSING:
        pytest.skip(f"{', '.join(MISSING)} not installed: pip install -e '.[notebook]'")
    import nbformat

    spec = importlib.util.spec_from_file_location("execute", ROOT / "notebooks" / "execute.py")
    execute = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(execute)
    cell = nbformat.v4.new_code_cell("%%sh\necho here; exit 3", id="broken")
    with pytest.raises(execute.NotebookError, match=r"^cell broken: CalledProcessError: .*exit status 3") as error:
        execute.execute(nbformat.v4.new_notebook(cells=[cell]))
    assert "\n" not in str(error.value)


def test_the_committed_outputs_are_small_whole_and_of_no_machine(run):
    assert NOTEBOOK.stat().st_size < 700_000
    assert all(cell["execution_count"] for cell in cells(COMMITTED, "code"))
    assert set(COMMITTED["metadata"]) == {"kernelspec", "language_info"}
    assert all(not cell["metadata"] for cell in COMMITTED["cells"])
    for notebook in (COMMITTED, run):
        assert all(output["output_type"] != "error" for output in outputs(notebook))
        assert not [text for text in texts(notebook) if re.search(r"(?<![\w.])/(tmp|home|root|work|usr|opt)\b", text)]
        assert not [text for text in texts(notebook) if "warning" in text.lower()]


def test_the_contents_lead_to_headings():
    prose = ["".join(cell["source"]) for cell in cells(COMMITTED, "markdown")]
    headings = {line[3:].replace(" ", "-") for text in prose for line in text.splitlines() if line.startswith("## ")}
    links = re.findall(r"\]\(#([^)]+)\)", prose[0])
    assert len(links) >= 9
    assert set(links) <= headings


def test_the_files_that_the_text_names_exist():
    prose = "\n".join("".join(cell["source"]) for cell in cells(COMMITTED, "markdown"))
    named = re.findall(r"`((?:docs|configs)/[^`]+)`", prose)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
