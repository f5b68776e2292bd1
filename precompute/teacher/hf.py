"""Pose networks of Hugging Face's transformers (extra `[teacher-hf]`): ViTPose, ViTPose+, Sapiens2.

    load_teacher("hf:usyd-community/vitpose-base-simple")             # downloaded once; the revision is recorded
    load_teacher("hf:usyd-community/vitpose-plus-base@COMMIT", expert="coco")
    load_teacher("hf:/path/of/save_pretrained")               # a folder with config.json and weights

A teacher is any class of transformers whose name ends with `ForPoseEstimation`, and which computes `heatmaps`
(B, K, h, w). The class is the one that `config.json` names. No code of a repository is run.

All of these networks are trained with UDP; `precompute.data.views.udp_scale` states what that means for their crops.
The crops have transformers' own affines (`VitPoseImageProcessor`), for boxes that are clipped to their image.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from kdcli.files import file_sha256
from kdcli.words import counted
from kdlib.images import IMAGENET_MEAN, IMAGENET_STD
from kdlib.machine.cost import multiply_adds, parameter_count
from kdlib.skeletons.reading import arrange, built_in_names
from kdlib.skeletons.skeleton import Skeleton
from precompute.fetch.download import DownloadError
from precompute.teacher.architecture import Architecture, Size
from precompute.teacher.weights_file import CheckpointError

HF: Final = "hf:"
"""Prefix of the names of these teachers; a repository of the Hub or a folder follows."""
EXPERTS: Final = {"coco": 0, "aic": 1, "mpii": 2, "ap10k": 3, "apt36k": 4, "wholebody": 5}
"""The experts of ViTPose+ by the data set that they were trained on (transformers' documentation of ViTPose)."""
_HUB: Final = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_SUFFIX: Final = "ForPoseEstimation"
_UNNAMED: Final = re.compile(r"LABEL_\d+")
"""transformers' name of a joint for which a repository states none."""
_INSTALL: Final = "pip install transformers (extra teacher-hf)"
_WEIGHTS: Final = ("model*.safetensors", "pytorch_model*.bin")
"""Files with weights; the first kind that a repository has is used."""


@dataclasses.dataclass(frozen=True)
class HubTeacher:
    """A network of transformers with its weights, on the CPU in float32.

    Attributes:
        name: For the manifest: `hf:ORG/NAME`, or `hf:` and the name of the folder.
        architecture: Runs `model` as a teacher.
        model: Normalised images (B, 3, H, W) -> heatmaps (B, M, h, w). Its attribute `expert` is 0 at first.
        input_size: (width, height) of the crops.
        skeleton: The joints of the heatmaps in their order; None if the repository does not name them.
        maps: Number of heatmaps M.
        weights_sha256: SHA-256 of the file with the weights; of several, that of their hexadecimal digests.
        revision: Commit of the repository; empty for a folder.
        experts: Number of experts; 1 for networks without.
        parameters: Number of parameters.
        multiply_adds: Multiply-adds per crop.
    """

    name: str
    architecture: Architecture
    model: "HeatmapModel"
    input_size: Size
    skeleton: Skeleton | None
    maps: int
    weights_sha256: str
    revision: str
    experts: int
    parameters: int
    multiply_adds: int

    @property
    def origin(self) -> dict[str, Any]:
        """The entries of the manifest's `teacher` that other teachers do not have."""
        chosen = self.model.expert
        names = {number: name for name, number in _expert_names(self.experts).items()}
        expert = {} if chosen is None else {"expert": {"index": chosen, "name": names.get(chosen)}}
        return {**({"revision": self.revision} if self.revision else {}), **expert}


class HeatmapModel(nn.Module):
    """A pose network of transformers as a module from images to heatmaps.

    Attributes:
        expert: Number of the expert that computes all heatmaps; None for networks without experts.
    """

    def __init__(self, model: nn.Module, experts: int) -> None:
        super().__init__()
        self.model = model
        self.expert: int | None = 0 if experts > 1 else None

    def forward(self, images: Tensor) -> Tensor:
        """Heatmaps (B, M, h, w) of normalised images (B, 3, H, W)."""
        chosen = {}
        if self.expert is not None:
            chosen["dataset_index"] = torch.full((len(images),), self.expert, device=images.device)
        heatmaps: Tensor = self.model(pixel_values=images, **chosen).heatmaps
        return heatmaps


def load_from_hub(name: str, input_size: Size | None = None) -> HubTeacher:
    """Load a network of transformers from a repository of the Hub or from a folder.

    Args:
        name: `hf:ORG/NAME`, `hf:ORG/NAME@REVISION` or `hf:FOLDER`.
        input_size: (width, height) of the crops; None takes that of the repository.

    Raises:
        DownloadError: If the repository cannot be downloaded and is not in the local cache.
        CheckpointError: If it is not a pose network of transformers, or its weights do not fit it.
        ValueError: If the network does not take crops of this size.
    """
    source = name.removeprefix(HF)
    folder = Path(source)
    if folder.is_dir():
        short, revision = f"{HF}{folder.resolve().name}", ""
        kind = _class_name(folder / "config.json", name)
        transformers = _import_transformers(name)
    else:
        found = _HUB.fullmatch(source)
        if found is None or source.startswith("."):
            raise CheckpointError(f"there is no folder {source}, and it is not the name of a model, {HF}ORG/NAME")
        short = f"{HF}{found['repository']}"
        config = _download(found["repository"], found["revision"], ["config.json"]) / "config.json"
        kind = _class_name(config, name)
        transformers = _import_transformers(name)
        revision = config.parent.name
        folder = _download_weights(found["repository"], revision)
    weights = _weight_files(folder, name)
    network_class = getattr(transformers, kind, None)
    if network_class is None:
        raise CheckpointError(
            f"{name} is a {kind}, which transformers {transformers.__version__} does not have; upgrade it: "
            "pip install --upgrade transformers"
        )
    _check_normalisation(folder, name)
    model = _load(transformers, network_class, folder, name)
    settings = model.config
    size = _input_size(settings, folder, input_size, name)
    experts = int(getattr(getattr(settings, "backbone_config", None), "num_experts", 1))
    with torch.device("meta"):
        shadow = HeatmapModel(network_class(settings), experts).eval()
    maps, heatmap_size = _probe(shadow, size, name)
    adapter = HeatmapModel(model, experts)
    return HubTeacher(
        name=short,
        architecture=Architecture(
            names=(short,),
            build=lambda *_: adapter,
            heatmap_size=lambda _: heatmap_size,
            float32_module=_last_convolution(adapter, maps),
        ),
        model=adapter,
        input_size=size,
        skeleton=_skeleton_of(settings, short, name),
        maps=maps,
        weights_sha256=_sha256(weights),
        revision=revision,
        experts=experts,
        parameters=parameter_count(adapter),
        multiply_adds=multiply_adds(shadow, size),
    )


def choose_expert(given: str | None, experts: int, skeleton: Skeleton, name: str) -> int | None:
    """The expert of a network: the given one, or that of the data set whose joints the network predicts.

    Args:
        given: Name or number of an expert, or None.
        experts: Number of experts of the network; 1 for a network without experts.
        skeleton: The joints of the heatmaps.
        name: The teacher, for messages.

    Returns:
        The number of the expert; None for a network without experts.

    Raises:
        ValueError: If the network has no such expert, or none is given and the joints do not determine it.
    """
    if experts < 2:
        if given is not None:
            raise ValueError(f"{name} has no experts; leave out --expert {given}")
        return None
    names = _expert_names(experts)
    wanted = skeleton.name if given is None else given
    number = int(wanted) if given is not None and given.isdigit() else names.get(_data_set(wanted), experts)
    if number < experts:
        return number
    choice = ", ".join([*names, f"0 to {experts - 1}"])
    if given is not None:
        raise ValueError(f"{name} has no expert {given!r}; choose one of {choice}")
    raise ValueError(
        f"{name} has {experts} experts, and none is for the joints of {skeleton.name}; give --expert {choice}"
    )


def _expert_names(experts: int) -> Mapping[str, int]:
    """The names of the experts of a network with so many; they are known for ViTPose+."""
    return EXPERTS if experts == len(EXPERTS) else {}


def _data_set(name: str) -> str:
    """The name of a data set or skeleton in the spelling of `EXPERTS`."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return plain.removeprefix("coco") or plain


def _import_transformers(name: str) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise CheckpointError(f"the teacher {name} needs transformers: {_INSTALL}") from error
    return transformers


def _download(repository: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """The local copy of a revision of a repository, with the files of some patterns; from the cache without network."""
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise CheckpointError(f"the teacher {HF}{repository} needs huggingface_hub: {_INSTALL}") from error
    try:
        return Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))
    except errors.GatedRepoError as error:
        reason = f"accept its conditions on huggingface.co/{repository}, and log in: hf auth login"
        raise DownloadError(f"{HF}{repository} is gated; {reason}") from error
    except errors.RepositoryNotFoundError as error:
        reason = "check the name, or log in if it is private: hf auth login"
        raise DownloadError(f"there is no model {repository} on the Hub; {reason}") from error
    except errors.RevisionNotFoundError as error:
        raise DownloadError(f"{HF}{repository} has no revision {revision}; leave it out, or give another") from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError, RuntimeError, ValueError) as error:
        raise DownloadError(
            f"cannot download {HF}{repository} from the Hub ({_first_line(error.__cause__ or error)}); check the "
            f"connection, or give a folder with its config.json and weights: {HF}FOLDER"
        ) from error


def _download_weights(repository: str, revision: str) -> Path:
    """The local copy of a repository with its settings and its weights."""
    folder = _download(repository, revision, ["*.json", _WEIGHTS[0]])
    return folder if any(folder.glob(_WEIGHTS[0])) else _download(repository, revision, ["*.json", _WEIGHTS[1]])


def _class_name(config: Path, name: str) -> str:
    """The class of transformers that a repository's `config.json` names."""
    entries = _read_json(config, name)
    if not entries:
        raise CheckpointError(f"{name} has no config.json, so it is not a model of transformers")
    named = entries.get("architectures")
    kind = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""
    if not kind.endswith(_SUFFIX):
        is_what = kind or f"a model of type {entries.get('model_type')!r}"
        raise CheckpointError(
            f"{name} is {is_what}, not a pose network that computes heatmaps; the class of such a network ends with "
            f"{_SUFFIX}, as VitPose{_SUFFIX} does"
        )
    return kind


def _read_json(path: Path, name: str) -> Mapping[str, Any]:
    """The object in a JSON file; an empty one if there is no file."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path.name} of {name} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(entries, dict):
        raise CheckpointError(f"{path.name} of {name} is not a JSON object")
    return entries


def _weight_files(folder: Path, name: str) -> list[Path]:
    for pattern in _WEIGHTS:
        files = sorted(folder.glob(pattern))
        if files:
            return files
    raise CheckpointError(f"{name} has no weights: no {' and no '.join(_WEIGHTS)} in {folder}")


def _sha256(files: Sequence[Path]) -> str:
    digests = [file_sha256(file) for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _load(transformers: Any, network_class: Any, folder: Path, name: str) -> Any:
    """The network in float32 with every weight of the files, and no other."""
    with _quiet(transformers):
        try:
            model, report = network_class.from_pretrained(folder, output_loading_info=True, local_files_only=True)
        except Exception as error:  # transformers raises unrelated types for damaged files and for other shapes
            raise CheckpointError(f"transformers cannot load {name}: {_first_line(error)}") from error
    wrong = {kind: sorted(map(str, report.get(f"{kind}_keys", ()))) for kind in ("missing", "unexpected", "mismatched")}
    described = [f"{counted(len(keys), 'weight')} {kind}, e.g. {keys[0]}" for kind, keys in wrong.items() if keys]
    if described:
        raise CheckpointError(f"the weights of {name} do not fit its config.json: {'; '.join(described)}")
    infinite = [key for key, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
    if infinite:
        raise CheckpointError(f"{name} has weights that are not finite: {', '.join(infinite[:3])}; get it again")
    return model.float().eval()


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep transformers from printing: what it reports is raised."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _check_normalisation(folder: Path, name: str) -> None:
    """Refuse a repository whose images are not normalised with ImageNet's statistics."""
    entries = _read_json(folder / "preprocessor_config.json", name)
    for entry, usual in (("image_mean", IMAGENET_MEAN), ("image_std", IMAGENET_STD)):
        stated = entries.get(entry)
        if stated is not None and not np.allclose(stated, usual, atol=1e-3):
            raise CheckpointError(f"{name} has the {entry} {stated}; of such teachers, only ImageNet's is supported")


def _skeleton_of(config: Any, short: str, name: str) -> Skeleton | None:
    """The joints of the heatmaps, in their order, from `id2label` and `edges`; None if they have no names."""
    labels = {int(number): str(label) for number, label in (config.id2label or {}).items()}
    names = [labels[number] for number in sorted(labels)]
    if sorted(labels) != list(range(len(names))) or any(map(_UNNAMED.fullmatch, names)):
        return None
    edges = getattr(config, "edges", None) or ()
    limbs = tuple((int(a), int(b)) for a, b in edges if max(int(a), int(b)) < len(names))
    arranged = arrange(names, limbs, name=short.rpartition("/")[2].removeprefix(HF))
    own = arranged.skeleton.select(np.argsort(arranged.order).tolist())
    stated = getattr(config, "flip_pairs", None)
    if not stated:
        return own
    pairs = tuple((int(a), int(b)) for a, b in stated)
    if own.name not in built_in_names():
        return dataclasses.replace(own, flip_pairs=pairs)
    differing = {frozenset(pair) for pair in pairs} ^ {frozenset(pair) for pair in own.flip_pairs}
    if differing:
        named = " and ".join(own.joints[joint] for joint in sorted(min(differing, key=sorted)))
        raise CheckpointError(f"the flip_pairs of {name} are not those of its joints ({own.name}): {named}")
    return own


def _input_size(config: Any, folder: Path, wanted: Size | None, name: str) -> Size:
    """(width, height) of the crops: that of the backbone, or else the wanted one, or else that of the processor."""
    backbone = getattr(config, "backbone_config", None)
    fixed = _as_size(getattr(backbone, "image_size", None))
    if fixed is not None:
        if wanted not in (None, fixed):
            raise ValueError(
                f"{name} takes crops of {fixed[1]}x{fixed[0]} (height x width); leave out --input-size, or give that"
            )
        return fixed
    processor = _read_json(folder / "preprocessor_config.json", name).get("size")
    size = wanted or _as_size(processor) or _as_size(getattr(config, "image_size", None))
    if size is None:
        raise ValueError(f"{name} does not state its input size; give one (--input-size)")
    return size


def _as_size(stated: Any) -> Size | None:
    """(width, height) from transformers' forms of a size: a number, (height, width), or a mapping with these."""
    if isinstance(stated, Mapping):
        stated = [stated.get("height"), stated.get("width")]
    sides = [stated, stated] if isinstance(stated, int) else list(stated or ())
    return (sides[1], sides[0]) if len(sides) == 2 and all(isinstance(side, int) for side in sides) else None


def _probe(shadow: nn.Module, size: Size, name: str) -> tuple[int, Size]:
    """Number of heatmaps M and their (width, height), found on torch's meta device, which computes nothing."""
    width, height = size
    try:
        with torch.inference_mode():
            _, maps, rows, columns = shadow(torch.zeros(1, 3, height, width, device="meta")).shape
    except Exception as error:  # networks raise any exception for a size that they do not take
        crop = f"{height}x{width} crop (height x width)"
        raise ValueError(f"{name} does not run on a {crop}: {_first_line(error)}") from error
    if columns * height != rows * width:
        raise CheckpointError(
            f"{name} computes {rows}x{columns} heatmaps of {height}x{width} crops (height x width); "
            "a teacher has the same stride on both axes"
        )
    return maps, (columns, rows)


def _first_line(error: BaseException) -> str:
    """The first line of an error's text, which transformers and the Hub's client continue with advice."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _last_convolution(model: nn.Module, maps: int) -> str:
    """Name of the module that computes the heatmaps; empty if it is not a convolution."""
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.out_channels == maps]
    return names[-1] if names else ""
