"""Run the notebook from top to bottom and keep what it shows, with nothing of the machine or the hour in it.

    python notebooks/execute.py                      # in place: what `make notebook` does
    python notebooks/execute.py --out run.ipynb

The notebook sees the packages beside it, installed or not. NOTEBOOK_QUICK=1 in the environment makes every step tiny.
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
    """Run; 0 when every cell ran, 1 with one line on stderr when one did not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=NOTEBOOK, metavar="FILE", help="the notebook with its outputs")
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
    """A cell that did not run to its end."""


def execute(notebook: Any) -> Any:
    """The notebook with fresh outputs; `NotebookError` if a cell fails."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError
    from traitlets.config import Config

    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    options = {"timeout": CELL_SECONDS, "kernel_name": "python3", "record_timing": False, "coalesce_streams": True}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = folder  # the notebook leaves its files in a temporary folder
        sockets = {"transport": "ipc", "ip": f"{folder}/kernel"}  # no port that others on the machine could reach
        try:
            done = NotebookClient(notebook, config=Config({"ConnectionFileMixin": sockets}), **options).execute()
        except CellExecutionError as error:
            raise NotebookError(f"cell {_failed(notebook)}: {error.ename}: {error.evalue}") from error
        except CellTimeoutError as error:
            raise NotebookError(f"a cell took more than {CELL_SECONDS} seconds") from error
    done.metadata.language_info = {"name": "python"}  # without this interpreter's version
    return done


def _failed(notebook: Any) -> str:
    """Id of the cell that shows an error."""
    outputs = ((cell.id, output) for cell in notebook.cells for output in cell.get("outputs", ()))
    return next(name for name, output in outputs if output.output_type == "error")


if __name__ == "__main__":
    sys.exit(main())
