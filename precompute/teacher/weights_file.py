"""Reads a file of network weights into a plain mapping without running any code from the file.

PyTorch checkpoints are pickles, and a pickle can run code. They are always read with `weights_only=True`: torch then
builds tensors and plain containers and refuses everything else. Some training checkpoints hold more than tensors (the
official HRNet's last AP as a numpy scalar, mmengine's loss history). Those few classes are listed here and read as
empty objects, so that their code does not run either.
"""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"  # torch >= 1.6 writes zip archives; older files are plain pickles
_MODULES = b"torch.nn.modules."
_PICKLE_BYTES = 1 << 24  # in files of torch before 1.6, the pickle precedes the tensors


class CheckpointError(ValueError):
    """The weights in a file cannot be used; the message names the file, the reason and what to do."""


class _Discarded:
    """Replaces a harmless object of another library: accepts any arguments and state, and keeps nothing."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


# Classes and functions that pose checkpoints refer to outside their state dict. None of them is imported or called.
_DISCARDED = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "argparse.Namespace",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
    "builtins.getattr",
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
)


def read_weights_file(path: str | Path) -> Any:
    """Read a `.pth` or safetensors file to the CPU; large tensors are memory-mapped where possible.

    Raises:
        CheckpointError: If the file does not exist, is not a checkpoint, is truncated, holds code, or needs a package
            that is not installed.
    """
    path = Path(path)
    head = _head(path)
    if _is_safetensors(path, head):
        return _read_safetensors(path)
    if not head.startswith((_ZIP, _PICKLE)):
        raise CheckpointError(f"{path} is not a checkpoint: {_describe_content(path, head)}")
    return _read_pickle(path, in_zip=head.startswith(_ZIP))


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(256)
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint at {path}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror}") from error


def _is_safetensors(path: Path, head: bytes) -> bool:
    """Check for safetensors, which start with eight bytes for the length of a JSON header, then the header."""
    return path.suffix == ".safetensors" or head[8:9] == b"{"


def _describe_content(path: Path, head: bytes) -> str:
    text = head.lstrip().lower()
    if not head:
        return "it is empty"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, which download links of Google Drive and OneDrive return; save the file itself"
    if text.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; run `git lfs pull`"
    if path.suffix == ".onnx":
        return f"to use an ONNX file as the teacher, give --teacher onnx:{path}"
    return f"it starts with {head[:8]!r}; PyTorch .pth or safetensors is expected"


def _read_safetensors(path: Path) -> Any:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(f"the checkpoint {path} needs safetensors: pip install safetensors") from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a complete safetensors file ({error}); copy it again") from error


def _read_pickle(path: Path, *, in_zip: bool) -> Any:
    program = _find_program(path) if in_zip else ""
    if program:
        raise CheckpointError(f"{path} is {program}")
    replacements: list[Any] = [(_Discarded, name) for name in _DISCARDED]
    try:
        with torch.serialization.safe_globals(replacements):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=in_zip)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: {_why_refused(path, str(error))}") from error
    except Exception as error:  # torch raises a dozen unrelated exception types for damaged archives
        reason = str(error).split(". ")[0].splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is damaged or truncated ({reason}); copy or download it again") from error


def _find_program(path: Path) -> str:
    """What a zip archive is if it holds a network with its code, and what to do; empty for others and damaged ones."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] or name for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError):
        return ""
    if "archive_format" in names or any(name.endswith("serialized_exported_program.json") for name in names):
        return (
            "an archive of torch.export, which holds a program; save its weights: "
            "torch.save(torch.export.load(FILE).state_dict, NEW)"
        )
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        return (
            "a TorchScript archive (torch.jit.save), which holds a program; save its weights: "
            "torch.save(torch.jit.load(FILE).state_dict(), NEW)"
        )
    return ""


def _why_refused(path: Path, message: str) -> str:
    """Describe in one line why torch refused the pickle; torch's own text advises to run the file's code."""
    name = re.search(r"GLOBAL ([\w.]+)", message) or re.search(r"function <?([\w. ]+)", message)
    if name is None:
        return "not a checkpoint, or a damaged one: its pickle cannot be read as tensors; download it again"
    if _holds_modules(path):
        return (
            f"it is a whole pickled model, not a state dict: it holds `{name[1]}`, and loading that could run code "
            "from the file. If you trust it, load it where it was made and save only the state dict: "
            "torch.save(model.state_dict(), FILE)"
        )
    return (
        f"refused: besides tensors it holds `{name[1]}`, and loading that could run code from the file. If you trust "
        "the file, open it elsewhere and save only the state dict: torch.save(model.state_dict(), FILE)"
    )


def _holds_modules(path: Path) -> bool:
    """Whether the pickle in a file names torch's modules, as a whole network does; nothing of it is imported."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
                return any(_MODULES in archive.read(name) for name in pickles)
        with path.open("rb") as file:
            return _MODULES in file.read(_PICKLE_BYTES)
    except (OSError, zipfile.BadZipFile):
        return False
