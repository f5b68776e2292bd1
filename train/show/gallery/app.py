"""FiftyOne in an interpreter of its own: it is 1 GB and pins libraries that training does not."""

import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

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
    """Go on as `train.show.gallery` under an interpreter that has FiftyOne, so that a signal meets the App itself."""
    root = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    command = [python, "-m", "train.show.gallery", *arguments]
    os.execvpe(python, command, {**os.environ, "PYTHONPATH": path})


HOST: Final = "127.0.0.1"
"""The App serves this machine alone."""


def require_free_port(port: int) -> None:
    """Refuse a port on which the App could not listen, before anything is computed for it.

    Raises:
        TrainError: If another program has it, or nobody here may have it.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just left is free, as for the App
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or "there are only ports up to 65535"
            raise TrainError(f"the App cannot have --port {port} ({reason}); give another with --port N") from error
