"""FiftyOne in an interpreter of its own: it is 1 GB and pins libraries that training does not."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from train.errors import TrainError


def require_fiftyone(python: str) -> None:
    """Refuse an interpreter without FiftyOne, before anything is computed for it.

    Raises:
        TrainError: With what to type.
    """
    probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec('fiftyone') is None)"
    try:
        found = subprocess.run([python, "-c", probe], check=False, capture_output=True).returncode == 0
    except OSError as error:
        raise TrainError(f"{python} is no Python interpreter: {error.strerror}") from error
    if not found:
        raise TrainError(
            f"{python} has no FiftyOne: `make fiftyone` gives it an environment of its own (1 GB), `pip install -e "
            "'.[fiftyone]'` in this repository puts it beside everything else, and --python FILE names an interpreter "
            "that has it"
        )


def become_fiftyone(python: str, arguments: Sequence[str]) -> NoReturn:
    """Go on as `train.gallery` under an interpreter that has FiftyOne, so that a signal meets the App itself."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    command = [python, "-m", "train.gallery", *arguments]
    os.execvpe(python, command, {**os.environ, "PYTHONPATH": path})
