"""Errors of the commands and of a training run: one line for the user."""

import errno
import shutil
from pathlib import Path
from typing import Final

from kdlib.errors import KdlibError

LESS_MEMORY: Final = "give a smaller --batch-size, or split each batch with --accumulate"
"""The remedy when the memory of a device is too small for training."""


class TrainError(KdlibError):
    """A run or a command cannot start or continue; the message says what was found, where, and what to do."""


def not_written(what: object, folder: Path, error: OSError) -> TrainError:
    """Build the error for a file that could not be written to a run folder.

    Args:
        what: The file, for the message.
        folder: The run folder. If its disk is full, the message gives the number of free bytes.
        error: The error of the operating system.
    """
    reason, remedy = error.strerror, "solve that"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "free some space"
    if error.errno == errno.ENOSPC:
        reason = f"the disk that holds {folder} is full ({shutil.disk_usage(folder).free:,} bytes are free)"
    return TrainError(f"could not write {what}: {reason or error}; {remedy}, then continue with --resume")


def check_is_not_folder(out: Path, example: str) -> None:
    """Raise `TrainError` if ``--out``, which names a file to write, is a folder; the message suggests ``example``."""
    if out.is_dir():
        raise TrainError(f"--out {out} is a folder; give the name of a file, e.g. {out / example}")
