"""Initialising a student's backbone with ImageNet weights: the library's download, or a file with a state dict.

A file that is not a state dict is refused with a message that says what it is. The libraries' own errors describe the
reader instead, or suggest loading the file unsafely.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor

from kdlib.errors import KdlibError
from kdlib.students.backbones import import_timm, open_timm, timm_indices
from kdlib.students.networks import Student
from kdlib.students.norms import norm_entries


class NotAStateDictError(ValueError):
    """A file does not hold the state dict that is needed; the message is a clause about the file, "it ..."."""


def read_state_dict(path: Path, load: Callable[[Path], Any]) -> dict[str, Tensor]:
    """Read the state dict in a file.

    Args:
        path: File written by ``torch.save(network.state_dict(), path)``, or another format that ``load`` reads.
        load: The library's reader; it must not run code from the file.

    Raises:
        FileNotFoundError: If the file is missing.
        NotAStateDictError: If the file is something else.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    if path.is_dir():
        raise NotAStateDictError("it is a folder")
    if not path.stat().st_size:
        raise NotAStateDictError("it is empty")
    try:
        content = load(path)
    except PermissionError as error:
        raise NotAStateDictError("reading it is not permitted") from error
    except Exception as error:  # the readers raise many kinds of exceptions for other formats
        kind = "an ONNX network" if path.suffix == ".onnx" else "truncated, or not a file of tensors only"
        raise NotAStateDictError(f"it is {kind}") from error
    if not isinstance(content, dict):
        raise NotAStateDictError(f"it holds a {type(content).__name__} instead of a dict of tensors")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise NotAStateDictError(f"its entry {key!r} is not a named tensor")
    return content


def load_tensors(path: Path) -> Any:
    """Read a file with torch onto the CPU, without running code from it."""
    return torch.load(path, map_location="cpu", weights_only=True)


def describe_misfit(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], part: str) -> str:
    """How a state dict differs from the wanted one, as a clause about its file; ``part`` is the part of the network."""
    needed = [key for key in wanted if not key.endswith("num_batches_tracked")]  # torch loads without these
    present = [key for key in needed if key in found]
    if len(present) < len(needed):
        return f"it has {len(present)} of the {len(needed)} tensors of the {part}"
    others = [key for key in present if found[key].shape != wanted[key].shape]
    if others:
        return f"{len(others)} of the {len(needed)} tensors of the {part} have other shapes in it"
    unknown = next((key for key in found if key not in wanted), "")
    return f"its entry {unknown!r} does not belong to the {part}"


def timm_pretrained(network: str, path: Path | None) -> dict[str, Tensor]:
    """Pretrained weights under the names of `open_timm`'s module, from a file, or downloaded by timm if path is None.

    A file holds the whole network in timm's layout. In modules that only return features, some dots of that layout's
    names are underscores.

    Raises:
        FileNotFoundError: If the file is missing.
        NotAStateDictError: If the file is something else.
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
    """The whole network's pretrained weights under the names of `open_backbone`'s module, which has only some of them.

    They come from a file, or are downloaded by torchvision if path is None.

    Raises:
        FileNotFoundError: If the file is missing.
        NotAStateDictError: If the file is something else.
    """
    if path:
        state = read_state_dict(path, load_tensors)
    else:
        weights = torchvision.models.get_model_weights(network).DEFAULT
        state = weights.get_state_dict(progress=False, check_hash=True)
    return {f"extractor.{key}": value.float() if value.is_floating_point() else value for key, value in state.items()}


def load_pretrained(student: Student, name: str, source: str) -> tuple[str, bool]:
    """Initialise a student's backbone with ImageNet weights.

    Args:
        student: The student; it is changed in place.
        name: Name that the student was built with.
        source: ``none`` for random weights, ``auto`` for the library's download (random weights where it fails), or the
            path of a file with the whole network's state dict.

    Returns:
        One line that says what was done, and True if the backbone now has ImageNet weights.

    Raises:
        KdlibError: If the file is missing or does not hold such a state dict.
    """
    if source == "none":
        return "student starts from random weights", False
    if source == "auto":
        return _download(student, name)
    path = Path(source)
    try:
        _fill(student, _pretrained(name, path))
    except FileNotFoundError as error:
        raise KdlibError(
            f"no pretrained weights at {path}; give another file, or none for random weights (--pretrained none)"
        ) from error
    except NotAStateDictError as error:
        layout = "timm" if name.startswith("timm:") else "torchvision"
        raise KdlibError(
            f"{path} does not hold ImageNet weights of {name}: {error}; give the whole network's state dict in "
            f"{layout}'s layout, as torch.save(network.state_dict(), FILE) writes it"
        ) from error
    return f"student starts from {path.name}", True


def _pretrained(name: str, path: Path | None) -> dict[str, Tensor]:
    """ImageNet weights from a file or the library's download, under the names of the student's ``features``."""
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
    except Exception as error:  # no network, no such weights or a wrong hash: each library raises its own exceptions
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        line = (
            f"ImageNet weights of {name} could not be downloaded ({reason}): the student starts from "
            "random weights; give a file (--pretrained FILE), or none for random weights (--pretrained none)"
        )
        return line, False
    return f"student starts from the ImageNet weights of {name}", True


def _fill(student: Student, weights: dict[str, Tensor]) -> None:
    """Load the backbone's weights out of those of the whole network; all must be there. Added norms are unchanged."""
    features = student.features
    added, own = norm_entries(features), features.state_dict()
    published = {key: weights[key] for key in own if key in weights}
    try:
        features.load_state_dict(added | published)
    except RuntimeError as error:
        wanted = {key: value for key, value in own.items() if key not in added}
        raise NotAStateDictError(describe_misfit(wanted, published, "backbone")) from error
