"""Starts FiftyOne in a separate Python environment: it takes 1 GB and pins libraries that training does not pin."""

import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from train.errors import TrainError

HOST: Final = "127.0.0.1"
"""The App is reachable from this machine only."""


def check_fiftyone(python: str) -> None:
    """Check that a Python interpreter has FiftyOne, before anything is computed.

    Raises:
        TrainError: If it has not; the message explains how to install it.
    """
    probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec('fiftyone') is None)"
    try:
        found = subprocess.run([python, "-c", probe], check=False, capture_output=True).returncode == 0
    except OSError as error:
        raise TrainError(f"{python} is not a Python interpreter: {error.strerror}") from error
    if not found:
        raise TrainError(
            f"{python} has no FiftyOne. `make fiftyone` installs it in a separate environment (1 GB); `pip install -e "
            "'.[fiftyone]'` in this repository installs it in this one; or give an interpreter that has it with "
            "--python FILE"
        )


def check_database(python: str) -> None:
    """Check that an interpreter's FiftyOne can start its database, before anything is computed.

    Raises:
        TrainError: If it cannot; the message names the package to install.
    """
    command = [python, "-m", "train.show.gallery.database", "--check"]
    done = subprocess.run(command, env=_environment(), check=False, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise TrainError(done.stderr.strip().rpartition("\n")[2].removeprefix("error: "))


def check_port_free(port: int) -> None:
    """Check that the App can listen on a port, before anything is computed.

    Raises:
        TrainError: If another program uses the port, or the user has no permission to use it.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port just released is free, as for the App
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or "ports end at 65535"
            raise TrainError(f"the App cannot use --port {port} ({reason}); give another with --port N") from error


def exec_gallery(python: str, arguments: Sequence[str]) -> NoReturn:
    """Replace this process by ``python -m train.show.gallery``, so that signals reach the App directly.

    Args:
        python: An interpreter that has FiftyOne.
        arguments: Command line of the module.
    """
    os.execvpe(python, [python, "-m", "train.show.gallery", *arguments], _environment())


def _environment() -> dict[str, str]:
    """The environment variables with which another interpreter imports this repository."""
    root = str(Path(__file__).resolve().parents[3])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
