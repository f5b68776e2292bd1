"""Is the App's port free? FiftyOne itself finds out after a minute, in a traceback."""

import socket
from typing import Final

from train.errors import TrainError

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
