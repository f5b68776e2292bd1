"""Run the notebook from top to bottom and write it with its outputs, without machine names or times.

    python notebooks/execute.py                      # in place, as `make notebook` does
    python notebooks/execute.py --out run.ipynb

The notebook imports the packages of this repository, installed or not. With NOTEBOOK_QUICK=1 in the environment every
step uses the smallest sizes.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "knowledge-distillation-for-2d-hpe.ipynb"
CELL_SECONDS = 1800


def main(argv: list[str] | None = None) -> int:
    """Run the notebook; return 0 if every cell ran, else 1 with one line on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=NOTEBOOK, metavar="FILE", help="output (default: in place)")
    out: Path = parser.parse_args(argv).out
    try:
        import nbformat

        done = execute(nbformat.read(NOTEBOOK, as_version=4))
    except ImportError as error:
        print(f"error: {error}; install the extra: pip install -e '.[notebook]'", file=sys.stderr)
        return 1
    except NotebookError as error:
        print(f"error: {NOTEBOOK.name}: {error}", file=sys.stderr)
        return 1
    nbformat.write(done, out)
    return 0


class NotebookError(Exception):
    """A cell failed or took too long."""


def execute(notebook: Any) -> Any:
    """Run all cells.

    Returns:
        The notebook with new outputs.

    Raises:
        NotebookError: If a cell fails or takes more than `CELL_SECONDS`.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError
    from traitlets.config import Config

    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    options = {"timeout": CELL_SECONDS, "kernel_name": "python3", "record_timing": False, "coalesce_streams": True}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = folder  # the notebook writes its files to a temporary folder
        sockets = {"transport": "ipc", "ip": f"{folder}/kernel"}  # no TCP port that other users could reach
        try:
            done = NotebookClient(notebook, config=Config({"ConnectionFileMixin": sockets}), **options).execute()
        except CellExecutionError as error:
            raise NotebookError(f"cell {_failed(notebook)}: {error.ename}: {error.evalue}") from error
        except CellTimeoutError as error:
            raise NotebookError(f"a cell took more than {CELL_SECONDS} seconds") from error
    done.metadata.language_info = {"name": "python"}  # without this interpreter's version
    return done


def _failed(notebook: Any) -> str:
    """Return the id of the cell that shows an error."""
    outputs = ((cell.id, output) for cell in notebook.cells for output in cell.get("outputs", ()))
    return next(name for name, output in outputs if output.output_type == "error")


if __name__ == "__main__":
    sys.exit(main())
