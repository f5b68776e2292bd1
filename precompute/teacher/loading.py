"""Loads teachers: one class for PyTorch networks, ONNX files, networks of transformers, and ensembles of them.

    teacher = load_teacher("hrnet_w32", "pose_hrnet_w32_256x192.pth", input_size=(192, 256))
    teacher = load_teacher("hrnet_w48_384x288")  # mmpose's published weights, downloaded once
    teacher = load_teacher("onnx:network.onnx")
    teacher = load_teacher("hf:usyd-community/vitpose-base-simple")
    heatmaps = teacher(crops)                   # (B, H, W, 3) uint8 RGB -> (B, K, h, w) float32, raw
    mirrored = teacher(mirror(crops))           # raw heatmaps of the mirrored crops; see kdlib.heatmaps.flip_average

Sizes are (width, height) in pixels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdcli.files import file_sha256
from kdcli.words import did_you_mean
from kdlib.heatmaps import flip_average
from kdlib.images import COLOUR_ORDER, IMAGENET_MEAN, IMAGENET_STD
from kdlib.machine.cost import multiply_adds, parameter_count
from kdlib.machine.device import TEACHER_PRECISIONS, choose_device, choose_precision
from kdlib.skeletons.reading import load_skeleton
from kdlib.skeletons.skeleton import COCO, Skeleton
from precompute.data.crops import CropKind, UdpInput
from precompute.data.views import udp_scale
from precompute.teacher import zoo
from precompute.teacher.architecture import Architecture, Size, TorchNetwork
from precompute.teacher.checkpoint import CheckpointError, read_head
from precompute.teacher.hf import HF, choose_expert, load_from_hub
from precompute.teacher.hrnet import HRNET
from precompute.teacher.joints import AS_STATED, Agreement, JointFlags, agree, from_names, given_skeleton
from precompute.teacher.onnx import OnnxNetwork
from precompute.teacher.onnx_io import AS_USUAL, OnnxFlags
from precompute.teacher.passes import DeviceNetwork, Pending

ARCHITECTURES: tuple[Architecture, ...] = (HRNET,)
"""The PyTorch teachers. To add one, write a file like `precompute/teacher/hrnet.py`, and list its entry here."""

ONNX = "onnx:"
"""Prefix of the names of ONNX teachers; the path of the file follows."""


@dataclass(frozen=True)
class Teacher:
    """A network, and its description for the manifest of a store.

    Attributes:
        name: one of `Architecture.names`; `onnx:` and the name of the file; or `hf:` and the repository.
        input_size: (width, height) of the crops.
        heatmap_size: (width, height) of the heatmaps.
        joints: number of the data's joints K.
        weights_sha256: SHA-256 of the checkpoint or ONNX file, in hexadecimal.
        precision: `fp32`, `bf16` or `fp16`: the precision of the computation. Heatmaps are always float32.
        device: `cpu` or `cuda:N`.
        network: crops (B, H, W, 3) uint8 -> all its heatmaps (B, M, h, w) float32.
        normalisation: mean and standard deviation per channel, of pixels scaled to 0..1; None for a function that
            gets the pixels.
        colour_order: order of the channels of a crop.
        parameters: number of parameters; None for ONNX files.
        multiply_adds: multiply-adds per crop; None for ONNX files.
        members: the teachers of an ensemble; empty for a single teacher.
        crop_by_crop: why an ONNX file with a free batch size runs one crop at a time; empty if it does not.
        provider: what runs an ONNX file: `cpu`, `cuda` or `tensorrt`; empty for PyTorch networks.
        skeleton: the K joints of the data, which the teacher predicts.
        agreement: which of the network's heatmaps these are; None if they are all, in this order.
        output: entries of the manifest about how the outputs of an ONNX file become heatmaps.
        udp: whether the network was trained with UDP, see `precompute.data.views.udp_scale`.
        origin: further entries of the manifest's `teacher`, such as revision and expert of a network of transformers.
    """

    name: str
    input_size: Size
    heatmap_size: Size
    joints: int
    weights_sha256: str
    precision: str
    device: str
    network: Callable[[NDArray[np.uint8]], NDArray[np.float32]] = field(repr=False)
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = (IMAGENET_MEAN, IMAGENET_STD)
    colour_order: str = COLOUR_ORDER
    parameters: int | None = None
    multiply_adds: int | None = None
    members: tuple["Teacher", ...] = ()
    crop_by_crop: str = ""
    provider: str = ""
    skeleton: Skeleton = COCO
    agreement: Agreement | None = None
    output: dict[str, Any] = field(default_factory=dict)
    udp: bool = False
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def taken(self) -> Agreement:
        """Which of the network's heatmaps are the joints of the data."""
        return self.agreement or Agreement.whole(self.skeleton)

    @property
    def crop_kind(self) -> CropKind:
        """The kind of crops that the network takes."""
        if not self.udp:
            return self.input_size
        return UdpInput(*self.input_size, udp_scale(self.input_size, self.heatmap_size))

    @property
    def input_sizes(self) -> tuple[CropKind, ...]:
        """The kinds of crops, which begin with width and height: its own first, then those of members that differ."""
        return tuple(dict.fromkeys([self.crop_kind, *(member.crop_kind for member in self.members)]))

    def __call__(self, crops: NDArray[np.uint8] | Tensor) -> NDArray[np.float32]:
        """Compute raw heatmaps (B, K, h, w) float32 of crops (B, H, W, 3) uint8 RGB in one forward pass.

        Raises:
            ValueError: If the crops have another shape or dtype.
        """
        crops = np.asarray(crops)
        width, height = self.input_size
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != (height, width, 3) or not len(crops):
            raise ValueError(
                f"{self.name} takes crops (B, {height}, {width}, 3) uint8, got {crops.shape} {crops.dtype}"
            )
        return self.taken.take(self._run(crops))

    def launch(self, crops: NDArray[np.uint8], *, flip_test: bool) -> Pending:
        """Start computing the heatmaps of the stored views; without a GPU, they are computed before this returns.

        Args:
            crops: (B, V, H, W, 3) uint8 RGB, in pinned memory for a GPU; unchanged until the heatmaps are there.
            flip_test: Average each heatmap with that of the mirrored crop.

        Returns:
            Waits for the heatmaps (B, V, K, h, w) float32.
        """
        if isinstance(self.network, DeviceNetwork) and self.network.is_asynchronous:
            return self.network.launch(crops, flip_test=flip_test)
        maps = np.stack([self._run(crops[:, v]) for v in range(crops.shape[1])], axis=1)
        if flip_test:
            mirrored = np.stack([self._run(mirror(crops[:, v])) for v in range(crops.shape[1])], axis=1)
            maps = flip_average(maps, mirrored, self.taken.own.flip_order, shift=not self.udp)
        taken = self.taken.take(maps)
        return lambda: taken

    def _run(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """All heatmaps (B, M, h, w) float32 of the network, of crops (B, H, W, 3) uint8 RGB."""
        # A copy: torch accepts no negative strides, not even of axes of length 1.
        return self.network(np.array(crops, order="C"))


def load_teacher(  # noqa: PLR0913 - everything that decides how a teacher runs
    name: str,
    checkpoint: str | Path | None = None,
    *,
    input_size: Size | None = None,
    default_size: Size | None = None,
    device: str = "auto",
    precision: str = "auto",
    provider: str = "auto",
    skeleton: Skeleton = COCO,
    joints: JointFlags = AS_STATED,
    onnx: OnnxFlags = AS_USUAL,
    udp: bool = False,
    expert: str | None = None,
) -> Teacher:
    """Load a teacher and check that it can be used as one.

    Args:
        name: One of `teacher_names()`, `onnx:FILE`, or `hf:ORG/NAME` or `hf:FOLDER` (`precompute.teacher.hf`).
        checkpoint: The weights of a PyTorch network; not for ONNX and transformers. If None, published weights of that
            network and size are downloaded, if there are any.
        input_size: (width, height) of the crops; not needed for ONNX files of fixed size, for published weights and for
            networks of transformers.
        default_size: The same, used if neither `input_size` nor the name nor the ONNX file gives a size.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `auto`, `fp32`, `bf16` or `fp16`; see `kdlib.machine.device`.
        provider: What runs an ONNX file: `auto`, `cpu`, `cuda` or `tensorrt`.
        skeleton: The joints of the data, which the teacher must predict; see `precompute.teacher.joints.agree`.
        joints: What the user states about the teacher's joints.
        onnx: What the user states about the input and output of an ONNX file.
        udp: The network was trained with UDP; networks of transformers always are.
        expert: Name or number of the expert of a network of transformers.

    Raises:
        CheckpointError: If a file is missing, does not hold the weights of such a teacher, or does not predict the
            joints of the data.
        DownloadError: If published weights cannot be downloaded.
        ValueError: If the name, size, device, precision or provider is not available.
    """
    if name.startswith(HF):
        _refuse_checkpoint(name, checkpoint)
        return _load_hf(name, input_size, device, precision, skeleton, joints, expert)
    if expert is not None:
        raise ValueError(f"{name} has no experts; leave out --expert {expert}")
    if name.startswith(ONNX):
        path = Path(name.removeprefix(ONNX))
        _refuse_checkpoint(name, checkpoint)
        _check_onnx_precision(precision)
        network = OnnxNetwork(path, input_size, device, default_size, provider, skeleton, joints, onnx)
        return _with_udp(_load_onnx(path, network, precision, skeleton), udp)
    architecture, name, input_size, named = _resolve(name, input_size)
    input_size = input_size or default_size
    torch_device = choose_device(device)
    precision = choose_precision(precision, torch_device, TEACHER_PRECISIONS)
    published = named or architecture.published_weights(name, input_size)
    weights = _weights(architecture, name, checkpoint, published)
    if input_size is None:
        raise ValueError(f"{name} runs at several input sizes; give one (--input-size)")
    architecture.heatmap_size(input_size)  # raises ValueError for sizes that the network does not take
    maps, names = read_head(weights, architecture.map_axes(name, input_size))
    known = published if checkpoint is None else named
    stated = from_names(names, weights.name) if names else load_skeleton(known.skeleton) if known else None
    if maps is None:
        maps = len(given_skeleton(joints, skeleton) or stated or skeleton)
    agreement = agree(name, maps, stated if stated and len(stated) == maps else None, skeleton, joints)
    model = architecture.build(name, maps, input_size)
    architecture.load_weights(model, weights)
    parameters = parameter_count(model)  # before `prepare`, which may fold some of them
    run = TorchNetwork(architecture, model, input_size, torch_device, precision, agreement)
    teacher = _teacher(name, weights, run, skeleton)
    operations = _multiply_adds(architecture, name, maps, input_size)
    return _with_udp(replace(teacher, parameters=parameters, multiply_adds=operations), udp)


def teacher_names() -> list[str]:
    """The names of the PyTorch networks, then the names of their published weights."""
    networks = [name for architecture in ARCHITECTURES for name in architecture.names]
    return networks + [published.name for architecture in ARCHITECTURES for published in architecture.published]


def check_name(name: str) -> None:
    """Raise ValueError if `name` is not the name of a teacher. Opens no file."""
    if not name.startswith((ONNX, HF)):
        _resolve(name, None)


def mirror(crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mirror crops (B, H, W, 3) left to right: column x becomes W - 1 - x. This is the flip test's second input."""
    return np.ascontiguousarray(crops[:, :, ::-1])


def _resolve(name: str, input_size: Size | None) -> tuple[Architecture, str, Size | None, zoo.Published | None]:
    """Find architecture, network, input size and published weights from a name, which may be that of such weights."""
    for architecture in ARCHITECTURES:
        if name in architecture.names:
            return architecture, name, input_size, None
        for published in architecture.published:
            if name == published.name:
                if input_size not in (None, published.input_size):
                    raise ValueError(
                        f"{name} has the input size in its name; leave out --input-size, or give {published.network}"
                    )
                return architecture, published.network, published.input_size, published
    known = teacher_names()
    hint = did_you_mean(name, known, f"available: {', '.join(known)}, {HF}ORG/NAME, or {ONNX}FILE", most=2)
    raise ValueError(f"unknown teacher {name!r}; {hint}")


def _weights(
    architecture: Architecture, name: str, checkpoint: str | Path | None, published: zoo.Published | None
) -> Path:
    """The given checkpoint, or else the published weights."""
    if checkpoint is not None:
        return Path(checkpoint)
    if published is None:
        source = architecture.sources.get(name, "no public pose weights are known for it; train it yourself")
        raise CheckpointError(f"{name} needs its weights (--checkpoint FILE): {source}")
    return zoo.weights_file(published)


def _multiply_adds(architecture: Architecture, name: str, joints: int, input_size: Size) -> int:
    with torch.device("meta"):
        return multiply_adds(architecture.build(name, joints, input_size), input_size)


def _refuse_checkpoint(name: str, checkpoint: str | Path | None) -> None:
    """Refuse weights for a teacher that has its own, before it is opened."""
    if checkpoint is not None:
        raise ValueError(f"{name} contains its weights; leave out the checkpoint {checkpoint}")


def _check_onnx_precision(precision: str) -> None:
    if precision not in TEACHER_PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; choose {', '.join(TEACHER_PRECISIONS)}")


def _load_hf(
    name: str,
    input_size: Size | None,
    device: str,
    precision: str,
    skeleton: Skeleton,
    joints: JointFlags,
    expert: str | None,
) -> Teacher:
    """Load a network of transformers, see `load_teacher`. Its joints choose the expert, if none is given."""
    loaded = load_from_hub(name, input_size)
    agreement = agree(loaded.name, loaded.maps, loaded.skeleton, skeleton, joints)
    loaded.model.expert = choose_expert(expert, loaded.experts, agreement.own, loaded.name)
    torch_device = choose_device(device)
    precision = choose_precision(precision, torch_device, TEACHER_PRECISIONS)
    network = TorchNetwork(loaded.architecture, loaded.model, loaded.input_size, torch_device, precision, agreement)
    teacher = Teacher(
        name=loaded.name,
        input_size=network.input_size,
        heatmap_size=network.heatmap_size,
        joints=len(skeleton),
        weights_sha256=loaded.weights_sha256,
        precision=network.precision,
        device=network.device,
        network=network,
        parameters=loaded.parameters,
        multiply_adds=loaded.multiply_adds,
        skeleton=skeleton,
        agreement=agreement,
        origin=loaded.origin,
    )
    return _with_udp(teacher, True)


def _with_udp(teacher: Teacher, udp: bool) -> Teacher:
    """The teacher as one that was trained with UDP, or not."""
    if isinstance(teacher.network, DeviceNetwork):
        teacher.network.udp = udp
    return replace(teacher, udp=udp)


def _load_onnx(path: Path, network: OnnxNetwork, precision: str, skeleton: Skeleton) -> Teacher:
    if precision not in ("auto", network.precision):
        raise ValueError(f"{path} was exported in {network.precision}, but {precision} was requested")
    teacher = _teacher(f"{ONNX}{path.name}", path, network, skeleton)
    return replace(
        teacher,
        crop_by_crop=network.crop_by_crop,
        provider=network.provider,
        normalisation=(network.pixels.mean, network.pixels.std),
        colour_order="bgr" if network.pixels.bgr else COLOUR_ORDER,
        output=network.output.to_json(),
    )


def _teacher(name: str, weights: Path, network: TorchNetwork | OnnxNetwork, skeleton: Skeleton) -> Teacher:
    return Teacher(
        name=name,
        input_size=network.input_size,
        heatmap_size=network.heatmap_size,
        joints=len(skeleton),
        skeleton=skeleton,
        agreement=network.joints,
        weights_sha256=file_sha256(weights),
        precision=network.precision,
        device=network.device,
        network=network,
    )
