"""The weights that a student starts from: ImageNet's, downloaded or from a file, or those of a trained student.

A file that is not a state dict is refused with a message that says what it is. The libraries' own errors describe the
reader instead, or suggest loading the file unsafely.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from kdlib.errors import KdlibError
from kdlib.skeletons.reading import find_joint
from kdlib.skeletons.skeleton import COCO, Skeleton
from kdlib.students.backbones import import_timm, open_timm, timm_indices
from kdlib.students.checkpoint import describe_misfit, is_checkpoint
from kdlib.students.loading import load_checkpoint
from kdlib.students.networks import Student
from kdlib.students.norms import norm_entries
from kdlib.students.release import student_file


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


def load_pretrained(student: Student, name: str, source: str, skeleton: Skeleton = COCO) -> tuple[str, bool]:
    """Initialise a student with ImageNet weights of its backbone, or with the weights of a trained student.

    Args:
        student: The student; it is changed in place.
        name: Name that the student was built with.
        source: ``none`` for random weights, ``auto`` for the library's download (random weights where it fails), the
            path of a file with the whole network's state dict, or a trained student: a checkpoint or a release folder.
            A trained student may have been trained at another input size or for other joints. Output maps of joints
            that the trained student lacks start from random weights.
        skeleton: The student's joints.

    Returns:
        One line that says what was done, and True if the backbone is now pretrained.

    Raises:
        KdlibError: If the file is missing, or is neither a state dict nor a trained student, or the trained student
            has another backbone, head or stride.
    """
    if source == "none":
        return "student starts from random weights", False
    if source == "auto":
        return _download(student, name)
    path = Path(source)
    try:
        trained = student_file(path) if path.is_dir() else path
    except KdlibError as error:
        raise KdlibError(f"cannot start from {path}, a folder: {error}") from error
    if is_checkpoint(trained):
        return _continue_student(student, name, trained, skeleton), True
    try:
        _fill(student, _pretrained(name, path))
    except FileNotFoundError as error:
        raise KdlibError(
            f"no pretrained weights at {path}; give another file, or none for random weights (--pretrained none)"
        ) from error
    except NotAStateDictError as error:
        layout = "timm" if name.startswith("timm:") else "torchvision"
        raise KdlibError(
            f"{path} holds neither ImageNet weights of {name} nor a trained student: {error}; give the whole "
            f"network's state dict in {layout}'s layout, as torch.save(network.state_dict(), FILE) writes it, or a "
            "run's best.pt"
        ) from error
    return f"student starts from {path.name}", True


def _continue_student(student: Student, name: str, path: Path, skeleton: Skeleton) -> str:
    """Load the weights of a trained student, and say in one line which."""
    trained = load_checkpoint(path)
    model = trained.model
    for flag, value, fits in (
        ("student", trained.backbone, trained.backbone == name),
        ("head", trained.head, type(model.head) is type(student.head)),
        ("stride", model.stride, model.stride == student.stride),
    ):
        if not fits:
            raise KdlibError(
                f"cannot start from {path}: its student was trained with --{flag} {value}; use the same, or other "
                "weights"
            )
    weights = model.state_dict()
    matches = [find_joint(joint, trained.skeleton.joints) for joint in skeleton.joints]
    rows = [row for row, match in enumerate(matches) if match is not None]
    if trained.skeleton.joints != skeleton.joints:
        for key, own in _output_layer(student).items():
            found = weights[key][[match for match in matches if match is not None]]
            weights[key] = own.clone()
            weights[key][rows] = found.to(own)
    student.load_state_dict(norm_entries(student) | weights)
    height, width = trained.input_size[::-1]
    line = f"student starts from {path.name} of {path.resolve().parent.name}, trained at {height}x{width}"
    new = len(skeleton) - len(rows)
    return line + (f"; {new} of the new student's {len(skeleton)} joints start from random weights" if new else "")


def _output_layer(student: Student) -> dict[str, Tensor]:
    """The weights of the head's last convolution, which computes one map per joint, by their names in the student."""
    name, layer = [entry for entry in student.head.named_modules() if isinstance(entry[1], nn.Conv2d)][-1]
    return {f"head.{name}.{key}": value for key, value in layer.state_dict().items()}


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
