"""What a training run refuses to do, in one line for the person who asked."""

import errno
import shutil
from pathlib import Path

from kdlib.errors import KdlibError


class TrainError(KdlibError):
    """A run or a command that cannot start or go on; the message says what was found, where, and what to do."""


def not_written(what: object, folder: Path, error: OSError) -> TrainError:
    """The refusal for something that could not be written to a run folder, which holds what is needed to go on."""
    reason, remedy = error.strerror, "mend that"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "free some space"
    if error.errno == errno.ENOSPC:
        reason = f"the disk that holds {folder} is full ({shutil.disk_usage(folder).free:,} bytes are free)"
    return TrainError(f"could not write {what}: {reason or error}; {remedy} and go on with --resume")


def refuse_folder(out: Path, name: str) -> None:
    """Raise `TrainError` if a folder is where a file is to be written; ``name`` is what it might be called."""
    if out.is_dir():
        raise TrainError(f"--out {out} is a folder; name a file, e.g. {out / name}")
