"""A network's state dict from a file: a dict of tensors by name, and nothing else.

Libraries say of any other file what their reader ran into, or advise to load it unsafely; here it is said what it is.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class NoStateDictError(ValueError):
    """What a file holds in place of a state dict, as the end of a sentence about the file."""


def read_state_dict(path: Path, load: Callable[[Path], Any]) -> dict[str, Tensor]:
    """The state dict in a file.

    Args:
        path: What ``torch.save(network.state_dict(), path)`` wrote, or another form that ``load`` knows.
        load: A library's reader, which runs no code from the file.

    Raises:
        FileNotFoundError: If there is nothing at the path.
        NoStateDictError: If it is something else.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    if path.is_dir():
        raise NoStateDictError("it is a folder")
    if not path.stat().st_size:
        raise NoStateDictError("it is empty")
    try:
        content = load(path)
    except PermissionError as error:
        raise NoStateDictError("it may not be read") from error
    except Exception as error:  # readers raise whatever the bytes of a foreign file lead them to
        kind = "an ONNX network" if path.suffix == ".onnx" else "cut short, or no file of tensors alone"
        raise NoStateDictError(f"it is {kind}") from error
    if not isinstance(content, dict):
        raise NoStateDictError(f"it holds a {type(content).__name__}, no dict of tensors")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise NoStateDictError(f"its entry {key!r} is no tensor under a name")
    return content


def load_tensors(path: Path) -> Any:
    """What torch reads of a file without running code from it, on the CPU."""
    return torch.load(path, map_location="cpu", weights_only=True)


def misfit(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> str:
    """How tensors fail to fill the wanted ones, as the end of a sentence about their file."""
    needed = [key for key in wanted if not key.endswith("num_batches_tracked")]  # torch does without
    there = [key for key in needed if key in found]
    if len(there) < len(needed):
        return f"it has {len(there)} of the {len(needed)} tensors of the backbone"
    other = [key for key in there if found[key].shape != wanted[key].shape]
    return f"{len(other)} of the {len(needed)} tensors of the backbone have other shapes in it"
