"""A network's state dict from a file: a dict of tensors by name, and nothing else.

Libraries say of any other file what their reader ran into, or advise to load it unsafely; here it is said what it is.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor

from kdlib.errors import KdlibError
from kdlib.students.backbones import import_timm, open_timm, timm_indices
from kdlib.students.networks import Student
from kdlib.students.norms import norm_entries


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


def timm_pretrained(network: str, path: Path | None) -> dict[str, Tensor]:
    """Pretrained weights under the names of `open_backbone`'s module: timm's own from the web, or a file's.

    A file holds the whole network in timm's layout; modules that only take features have dots of some names turned into
    underscores.

    Raises:
        FileNotFoundError: If there is no such file.
        NoStateDictError: If it is something else.
    """
    timm = import_timm()
    if path is None:
        indices = timm_indices(timm, network)
        full = timm.create_model(network, pretrained=True, features_only=True, out_indices=indices)
        weights: dict[str, Tensor] = full.state_dict()
        return weights
    whole = read_state_dict(path, lambda file: timm.models.load_state_dict(str(file)))
    flat = {key.replace(".", "_"): value for key, value in whole.items()}
    names = {key: key.replace(".", "_") for key in open_timm(network)[0].state_dict()}
    return {key: flat[name] for key, name in names.items() if name in flat}


def torchvision_pretrained(network: str, path: Path | None) -> dict[str, Tensor]:
    """The whole network's pretrained weights under the names of `open_backbone`'s module; more than it has.

    Raises:
        FileNotFoundError: If there is no such file.
        NoStateDictError: If it is something else.
    """
    if path:
        state = read_state_dict(path, load_tensors)
    else:
        weights = torchvision.models.get_model_weights(network).DEFAULT
        state = weights.get_state_dict(progress=False, check_hash=True)
    return {f"extractor.{key}": value.float() if value.is_floating_point() else value for key, value in state.items()}


def load_pretrained(student: Student, name: str, source: str) -> tuple[str, bool]:
    """Start the backbone from ImageNet weights.

    Args:
        student: Changed in place.
        name: What the student was built from.
        source: ``none``, ``auto`` (the library's download; random weights where that is not to be had) or a file with
            its state dict.

    Returns:
        One line that says what was done, and whether the backbone has ImageNet weights now.

    Raises:
        KdlibError: If the file is missing or is no such state dict.
    """
    if source == "none":
        return "student starts from random weights", False
    if source == "auto":
        return _download(student, name)
    path = Path(source)
    try:
        _fill(student, _pretrained(name, path))
    except FileNotFoundError as error:
        raise KdlibError(f"no pretrained weights at {path}; give another file, or --pretrained none") from error
    except NoStateDictError as error:
        layout = "timm" if name.startswith("timm:") else "torchvision"
        raise KdlibError(
            f"{path} does not hold ImageNet weights of {name}: {error}; expected is the whole network's state dict in "
            f"{layout}'s layout, as torch.save(network.state_dict(), FILE) writes it"
        ) from error
    return f"student starts from {path.name}", True


def _pretrained(name: str, path: Path | None) -> dict[str, Tensor]:
    """ImageNet weights of a file, or of the library's download, under the names of the student's ``features``."""
    source, _, network = name.rpartition(":")
    if source == "timm":
        return timm_pretrained(network, path)
    weights = torchvision_pretrained(network, path)
    if source == "torchvision":
        return weights
    prefix = "extractor.features."
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def _download(student: Student, name: str) -> tuple[str, bool]:
    try:
        _fill(student, _pretrained(name, None))
    except KdlibError:
        raise
    except Exception as error:  # no network, no such weights, another hash: each library raises its own kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        line = (
            f"ImageNet weights of {name} could not be downloaded ({reason}): the student starts from "
            "random weights; give a file with --pretrained FILE, or --pretrained none to say so"
        )
        return line, False
    return f"student starts from the ImageNet weights of {name}", True


def _fill(student: Student, weights: dict[str, Tensor]) -> None:
    """Every weight of the backbone, and no other, out of those of the whole network; added norms stay as they are."""
    features = student.features
    added, own = norm_entries(features), features.state_dict()
    published = {key: weights[key] for key in own if key in weights}
    try:
        features.load_state_dict(added | published)
    except RuntimeError as error:
        wanted = {key: value for key, value in own.items() if key not in added}
        raise NoStateDictError(misfit(wanted, published)) from error
